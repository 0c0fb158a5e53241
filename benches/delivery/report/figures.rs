//! The figures of a run: what each variant did in each round, and medians with their range.

use std::fmt;

/// One thing that is measured.
#[derive(Clone, Copy)]
pub struct Figure {
    /// What is going on while it is measured, where one sample holds several phases; empty
    /// otherwise.
    pub phase: &'static str,
    /// Its name, with the unit.
    pub name: &'static str,
    /// Whether ratios of it are of interest.
    pub compared: bool,
}

impl Figure {
    /// A figure whose ratios are shown.
    pub const fn compared(name: &'static str) -> Self {
        Self { phase: "", name, compared: true }
    }

    /// A figure that stands for itself.
    pub const fn alone(name: &'static str) -> Self {
        Self { phase: "", name, compared: false }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            "" => formatter.write_str(self.name),
            phase => write!(formatter, "{phase}: {}", self.name),
        }
    }
}

/// These figures, of this phase.
pub fn of_phase(phase: &'static str, figures: &[Figure]) -> Vec<Figure> {
    figures.iter().map(|figure| Figure { phase, ..*figure }).collect()
}

/// What one variant did in one round: a value for each figure.
pub type Sample = Vec<f64>;

/// What is compared, and how.
#[derive(Clone)]
pub struct Layout {
    /// The variants of a round.
    pub variants: Vec<&'static str>,
    /// Which variant is divided by which, by position.
    pub ratios: Vec<(usize, usize)>,
    /// What a sample holds.
    pub figures: Vec<Figure>,
}

impl Layout {
    /// Every other variant by the first.
    pub fn by_the_first(variants: Vec<&'static str>, figures: Vec<Figure>) -> Self {
        let ratios = (1..variants.len()).map(|variant| (variant, 0)).collect();
        Self { variants, ratios, figures }
    }

    fn ratio_name(&self, (over, under): (usize, usize)) -> String {
        format!("{} / {}", self.variants[over], self.variants[under])
    }
}

/// All rounds of one scenario.
pub struct Report {
    /// How to read them.
    pub layout: Layout,
    rounds: Vec<Vec<Sample>>,
}

impl Report {
    /// No rounds yet.
    pub fn new(layout: Layout) -> Self {
        Self { layout, rounds: Vec::new() }
    }

    /// Adds a round, a sample for each variant, and prints it as one line.
    pub fn add(&mut self, round: Vec<Sample>) {
        let layout = &self.layout;
        let values = layout.variants.iter().zip(&round).map(|(variant, sample)| {
            let values = layout
                .figures
                .iter()
                .zip(sample)
                .map(|(figure, value)| format!("{figure} {value:.2}"));
            format!("{variant}: {}", values.collect::<Vec<_>>().join(", "))
        });
        let ratios = layout.ratios.iter().map(|ratio| {
            let compared = layout.figures.iter().enumerate().filter(|(_, figure)| figure.compared);
            let values = compared
                .map(|(index, figure)| format!("{figure} {:.2}", divide(&round, *ratio, index)));
            format!("{}: {}", layout.ratio_name(*ratio), values.collect::<Vec<_>>().join(", "))
        });
        println!(
            "{:>3}  {}",
            self.rounds.len() + 1,
            values.chain(ratios).collect::<Vec<_>>().join("; ")
        );
        self.rounds.push(round);
    }

    /// A table in Markdown: a row for each figure, a column for each variant and ratio.
    pub fn table(&self) -> String {
        let layout = &self.layout;
        let variants = layout.variants.iter().map(|variant| (*variant).to_owned());
        let ratios = layout.ratios.iter().map(|ratio| layout.ratio_name(*ratio));
        let heads = variants.chain(ratios).collect::<Vec<_>>();
        let mut table = format!("| median (min to max) | {} |\n", heads.join(" | "));
        table.push_str(&format!("| --- |{}\n", " --- |".repeat(heads.len())));
        for (index, figure) in layout.figures.iter().enumerate() {
            let values = (0..layout.variants.len()).map(|variant| self.value(variant, index));
            let ratios = layout
                .ratios
                .iter()
                .map(|ratio| figure.compared.then(|| self.ratio(*ratio, index)).flatten());
            let cells = values
                .chain(ratios)
                .map(|spread| spread.map_or_else(String::new, |spread| spread.to_string()));
            table.push_str(&format!("| {figure} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        }
        table
    }

    /// One variant's values of one figure.
    pub fn value(&self, variant: usize, figure: usize) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|round| round[variant][figure]).collect())
    }

    /// One figure's ratios, each of two samples of one round.
    pub fn ratio(&self, ratio: (usize, usize), figure: usize) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|round| divide(round, ratio, figure)).collect())
    }
}

fn divide(round: &[Sample], (over, under): (usize, usize), figure: usize) -> f64 {
    round[over][figure] / round[under][figure]
}

/// The middle of some values, and their range.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { median, least, most })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = if self.median.abs() < 1_000.0 { 2 } else { 0 };
        let Self { median, least, most } = self;
        write!(formatter, "{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}
