//! The figures of a run: one sample a server and pair, and what is printed of them.

/// What one server did in one pair.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// CPU seconds (user and system) per million deliveries.
    pub cpu: f64,
    /// Resident KiB an idle connection.
    pub resident: f64,
    /// The same by proportional set size.
    pub proportional: f64,
    /// Deliveries a second that were reached.
    pub rate: f64,
    /// Mean bytes of a frame's text.
    pub frame: f64,
}

/// Both servers' samples of one pair; either may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pair {
    /// The floor's.
    pub floor: Option<Sample>,
    /// Herald's.
    pub herald: Option<Sample>,
}

type Column = (&'static str, fn(&Pair) -> Option<f64>);

const COLUMNS: [Column; 7] = [
    ("floor s/M", |pair| pair.floor.map(|sample| sample.cpu)),
    ("herald s/M", |pair| pair.herald.map(|sample| sample.cpu)),
    ("ratio", |pair| Some(pair.herald?.cpu / pair.floor?.cpu)),
    ("floor RSS", |pair| pair.floor.map(|sample| sample.resident)),
    ("floor PSS", |pair| pair.floor.map(|sample| sample.proportional)),
    ("herald RSS", |pair| pair.herald.map(|sample| sample.resident)),
    ("herald PSS", |pair| pair.herald.map(|sample| sample.proportional)),
];

/// Prints the head of the table.
pub fn print_head() {
    println!("s/M: server CPU seconds per million deliveries; RSS, PSS: KiB an idle connection");
    println!("{:>6}{}", "pair", COLUMNS.map(|(name, _)| format!("{name:>12}")).concat());
}

/// Prints one pair as a row.
pub fn print_pair(number: usize, pair: &Pair) {
    print_row(&number.to_string(), |read| read(pair));
}

/// Prints median, least and most of every column, and what was sent at which rate.
pub fn print_summary(pairs: &[Pair]) {
    print_row("median", |read| median(&sorted(pairs, read)));
    print_row("min", |read| sorted(pairs, read).first().copied());
    print_row("max", |read| sorted(pairs, read).last().copied());
    for (name, samples) in [
        ("floor", pairs.iter().filter_map(|pair| pair.floor).collect::<Vec<_>>()),
        ("herald", pairs.iter().filter_map(|pair| pair.herald).collect()),
    ] {
        let rates = samples.iter().map(|sample| sample.rate).collect::<Vec<_>>();
        let frames = samples.iter().map(|sample| sample.frame).collect::<Vec<_>>();
        if let (Some(rate), Some(frame)) = (median(&rates), median(&frames)) {
            println!("{name}: {rate:.0} deliveries/s reached, {frame:.0} bytes of text a frame");
        }
    }
}

fn print_row(label: &str, value: impl Fn(fn(&Pair) -> Option<f64>) -> Option<f64>) {
    let cells = COLUMNS.map(|(_, read)| value(read).map_or_else(|| format!("{:>12}", "-"), |v| format!("{v:>12.2}")));
    println!("{label:>6}{}", cells.concat());
}

fn sorted(pairs: &[Pair], read: fn(&Pair) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = pairs.iter().filter_map(read).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of `values`, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
