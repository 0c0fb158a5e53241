//! What the operators and functions of an expression do with values.

use super::bounds::{MAX_ELEMENTS, MAX_TEXT};
use super::meter::{Cause, Meter, STEPS_PER_TEXT};
use super::pattern::Pattern;
use super::tree::{Function, Operator};
use super::value::{List, Value};
use aws_lc_rs::digest::{SHA256, digest};

/// Steps for one `bucket`, beside one for each byte.
pub(super) const STEPS_PER_BUCKET: u64 = 64;
/// Longest text that `string` makes of a number, in bytes: the smallest double has 326 places.
pub(super) const MAX_NUMBER_TEXT: u64 = 400;

type Made<'a> = Result<Value<'a>, Cause>;

/// A function on its operands, the receiver first; there are as many as the check let pass.
pub(super) fn call<'a>(function: Function, operands: &[Value<'a>], meter: &mut Meter) -> Made<'a> {
    match (function, operands) {
        (Function::Size, [of]) => size(of, meter),
        (Function::Int, [of]) => int(of, meter),
        (Function::Uint, [of]) => uint(of, meter),
        (Function::Double, [of]) => double(of, meter),
        (Function::Text, [of]) => string(of, meter),
        (Function::Bucket, [of]) => bucket(text(of)?, meter),
        (_, [whole, part]) => {
            let (whole, part) = (text(whole)?, text(part)?);
            meter.charge_reading(whole)?;
            meter.charge_reading(part)?;
            Ok(Value::Bool(match function {
                Function::StartsWith => whole.starts_with(part),
                Function::EndsWith => whole.ends_with(part),
                _ => whole.contains(part),
            }))
        }
        _ => Err(Cause::Kind("nothing", "a value")),
    }
}

fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, Cause> {
    match value {
        Value::Text(text) => Ok(text.as_str()),
        other => Err(Cause::Kind(other.kind(), "a text")),
    }
}

fn size<'a>(of: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    let size = match of {
        Value::Text(text) => {
            meter.charge_reading(text.as_str())?;
            text.as_str().chars().count()
        }
        other => other.len().ok_or(Cause::Kind(other.kind(), "a text, a list or a map"))?,
    };
    i64::try_from(size).map(Value::Int).map_err(|_| Cause::Overflow)
}

fn int<'a>(of: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    // Both bounds are exact doubles; the upper one is the first that is too large.
    const LOWEST: f64 = i64::MIN as f64;
    match of {
        Value::Int(value) => Ok(Value::Int(*value)),
        Value::Uint(value) => i64::try_from(*value).map(Value::Int).map_err(|_| Cause::Overflow),
        Value::Double(value) if (LOWEST..-LOWEST).contains(value) => Ok(Value::Int(*value as i64)),
        Value::Double(_) => Err(Cause::Overflow),
        Value::Text(text) => parse(text.as_str(), meter).map(Value::Int),
        other => Err(Cause::Kind(other.kind(), "a number or a text")),
    }
}

fn uint<'a>(of: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    const FIRST_TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;
    match of {
        Value::Int(value) => u64::try_from(*value).map(Value::Uint).map_err(|_| Cause::Overflow),
        Value::Uint(value) => Ok(Value::Uint(*value)),
        Value::Double(value) if (0.0..FIRST_TOO_LARGE).contains(value) => {
            Ok(Value::Uint(*value as u64))
        }
        Value::Double(_) => Err(Cause::Overflow),
        Value::Text(text) => parse(text.as_str(), meter).map(Value::Uint),
        other => Err(Cause::Kind(other.kind(), "a number or a text")),
    }
}

fn double<'a>(of: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    match of {
        Value::Int(value) => Ok(Value::Double(*value as f64)),
        Value::Uint(value) => Ok(Value::Double(*value as f64)),
        Value::Double(value) => Ok(Value::Double(*value)),
        Value::Text(text) => parse(text.as_str(), meter).map(Value::Double),
        other => Err(Cause::Kind(other.kind(), "a number or a text")),
    }
}

fn parse<T: std::str::FromStr>(text: &str, meter: &mut Meter) -> Result<T, Cause> {
    meter.charge_reading(text)?;
    text.parse().map_err(|_| Cause::NotANumber)
}

fn string<'a>(of: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    let made = match of {
        Value::Text(_) => return Ok(of.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        other => return Err(Cause::Kind(other.kind(), "a number, a text, or true or false")),
    };
    meter.charge(STEPS_PER_TEXT)?;
    meter.charge_writing(made.len())?;
    Ok(Value::Text(made.into()))
}

/// The first eight bytes of the text's SHA-256, as a number with the highest byte first, modulo
/// 100.
fn bucket<'a>(text: &str, meter: &mut Meter) -> Made<'a> {
    meter.charge(STEPS_PER_BUCKET + text.len() as u64)?;
    let hash = digest(&SHA256, text.as_bytes());
    let number =
        hash.as_ref().iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    i64::try_from(number % 100).map(Value::Int).map_err(|_| Cause::Overflow)
}

/// Whether the pattern is found in a text of at most `MAX_TEXT` bytes.
pub(super) fn matches<'a>(of: &Value<'a>, pattern: &Pattern, meter: &mut Meter) -> Made<'a> {
    let text = text(of)?;
    if text.len() > MAX_TEXT {
        return Err(Cause::TextTooLong(MAX_TEXT));
    }
    meter.charge(pattern.steps_per_byte().saturating_mul(text.len() as u64))?;
    Ok(Value::Bool(pattern.is_match(text)))
}

/// A new list.
pub(super) fn list<'a>(elements: Vec<Value<'a>>, meter: &mut Meter) -> Made<'a> {
    meter.charge_writing(size_of_val(elements.as_slice()))?;
    Ok(Value::List(List::Made(elements.into())))
}

/// `+` of two numbers of one kind, two texts or two lists; what is made is bounded.
pub(super) fn add<'a>(left: &Value<'a>, right: &Value<'a>, meter: &mut Meter) -> Made<'a> {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => {
            let (left, right) = (left.as_str(), right.as_str());
            if left.len() + right.len() > MAX_TEXT {
                return Err(Cause::TextTooLong(MAX_TEXT));
            }
            meter.charge_writing(left.len() + right.len())?;
            Ok(Value::Text([left, right].concat().into()))
        }
        (Value::List(left), Value::List(right)) => {
            if left.len() + right.len() > MAX_ELEMENTS {
                return Err(Cause::ListTooLong(MAX_ELEMENTS));
            }
            let all = (0..left.len())
                .map(|index| left.get(index))
                .chain((0..right.len()).map(|index| right.get(index)));
            list(all.flatten().collect(), meter)
        }
        _ => arithmetic(Operator::Add, left, right),
    }
}

/// An operator between two numbers of one kind. Integers never wrap: what does not fit is an error.
pub(super) fn arithmetic<'a>(operator: Operator, left: &Value<'a>, right: &Value<'a>) -> Made<'a> {
    let by_zero = matches!(operator, Operator::Divide | Operator::Remainder);
    match (left, right) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) if by_zero => {
            Err(Cause::DivisionByZero)
        }
        (Value::Int(left), Value::Int(right)) => match operator {
            Operator::Add => left.checked_add(*right),
            Operator::Subtract => left.checked_sub(*right),
            Operator::Multiply => left.checked_mul(*right),
            Operator::Divide => left.checked_div(*right),
            _ => left.checked_rem(*right),
        }
        .map(Value::Int)
        .ok_or(Cause::Overflow),
        (Value::Uint(left), Value::Uint(right)) => match operator {
            Operator::Add => left.checked_add(*right),
            Operator::Subtract => left.checked_sub(*right),
            Operator::Multiply => left.checked_mul(*right),
            Operator::Divide => left.checked_div(*right),
            _ => left.checked_rem(*right),
        }
        .map(Value::Uint)
        .ok_or(Cause::Overflow),
        (Value::Double(left), Value::Double(right)) if operator != Operator::Remainder => {
            Ok(Value::Double(match operator {
                Operator::Add => left + right,
                Operator::Subtract => left - right,
                Operator::Multiply => left * right,
                _ => left / right,
            }))
        }
        _ => Err(Cause::NotAdded(left.kind(), right.kind())),
    }
}

/// Unary `-`.
pub(super) fn negate<'a>(of: &Value<'a>) -> Made<'a> {
    match of {
        Value::Int(value) => value.checked_neg().map(Value::Int).ok_or(Cause::Overflow),
        Value::Double(value) => Ok(Value::Double(-value)),
        other => Err(Cause::Kind(other.kind(), "a number with a sign")),
    }
}
