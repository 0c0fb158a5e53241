//! Numbers in few bytes, exactly: a double by its shortest decimal digits where these are short.

/// Figures of seven bits that any number of 64 bits fits in.
pub(super) const FIGURES: usize = 10;
/// Figures of a decimal exponent.
pub(super) const EXPONENT_FIGURES: usize = 2;
/// Exponents are written with this added: they lie between -342 and 308.
const BIAS: i32 = 400;
/// Digits beyond this take as much as the double itself.
const MOST_DIGITS: u64 = 1 << 40;
/// What a double holds exactly of powers of ten.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Small numbers of either sign as small numbers.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn from_zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn biased(exponent: i32) -> u64 {
    (exponent + BIAS) as u64
}

pub(super) fn exponent(biased: u64) -> i32 {
    biased as i32 - BIAS
}

/// The digits and the exponent of which `of_decimal` makes this double again; none where its bits
/// take no more.
pub(super) fn decimal(value: f64) -> Option<(i64, i32)> {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e')?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mantissa: i64 = format!("{whole}{fraction}").parse().ok()?;
    let exponent = exponent.parse::<i32>().ok()? - fraction.len() as i32;
    let is_short = mantissa.unsigned_abs() < MOST_DIGITS;
    (is_short && of_decimal(mantissa, exponent).to_bits() == value.to_bits())
        .then_some((mantissa, exponent))
}

/// `mantissa` times ten to the power of `exponent`, rounded as when it is read. Both factors are
/// exact where the exponent is small, so that one operation rounds correctly.
pub(super) fn of_decimal(mantissa: i64, exponent: i32) -> f64 {
    match POWERS.get(exponent.unsigned_abs() as usize) {
        Some(power) if exponent < 0 => mantissa as f64 / power,
        Some(power) => mantissa as f64 * power,
        None => format!("{mantissa}e{exponent}").parse().unwrap_or_default(),
    }
}
