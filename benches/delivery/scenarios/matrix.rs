//! Every comparison with the floor, for every number of connections, size of message and listener.

use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::measure::Bench;
use crate::options::{Arguments, Options};
use crate::report::chart;
use crate::report::figures::{Figure, Report, Sample, of_phase};
use crate::scenario::{ListenerKind, MatrixOptions, Scenario};
use crate::scenarios::connects::Opening;
use crate::scenarios::{connects, delays, delivery, idle, saturated};
use crate::servers::Server;

/// Deliveries a second where a rate is kept, whatever the number of connections.
const DELIVERIES_PER_SECOND: u32 = 20_000;
/// What a joined delivery costs of one that is a write of its own: the less, the more joining
/// saves.
const JOINING: Figure = Figure::compared("saturated s/M by one-write s/M");

/// One place of the matrix, measured.
pub struct Place {
    /// What was measured.
    pub scenario: Scenario,
    /// Connections, bytes of a message and the listener, in words.
    pub label: String,
    /// What came out.
    pub report: Report,
}

/// What one start of a server is measured by, phase by phase.
pub fn figures() -> Vec<Figure> {
    [
        of_phase("connecting", connects::FIGURES),
        of_phase("idle", idle::FIGURES),
        of_phase("one write each", delivery::FIGURES),
        of_phase("at a fixed rate", delays::FIGURES),
        of_phase("saturated", saturated::FIGURES),
        of_phase("joining", &[JOINING]),
    ]
    .concat()
}

/// Measures everything; writes `figures.md` and `figures.svg` after each place if a directory is
/// given.
pub async fn run(arguments: &Arguments, matrix: &MatrixOptions, directory: &Path) -> Outcome<()> {
    let mut places = Vec::new();
    for (scenario, options) in to_measure(arguments, matrix) {
        let label = label(&options);
        let bench = Bench::new(options, directory)?;
        println!("{}", bench.describe(&scenario));
        let report = bench.run(&scenario).await?;
        println!("\n{}", report.table());
        places.push(Place { scenario, label, report });
        if let Some(directory) = &matrix.write {
            write(directory, &places)?;
        }
    }
    Ok(())
}

/// Deliveries for every number of connections, size and listener; then publishing, in which
/// connections play little part.
fn to_measure(arguments: &Arguments, matrix: &MatrixOptions) -> Vec<(Scenario, Options)> {
    let deliveries = (Scenario::Matrix(matrix.clone()), matrix.sizes.as_slice());
    let publishes = (Scenario::Publishes, matrix.sizes.get(..1).unwrap_or_default());
    let mut to_measure = Vec::new();
    for (scenario, sizes) in [deliveries, publishes] {
        for listener in &matrix.listeners {
            let proxy = *listener == ListenerKind::Proxy;
            for &payload in &matrix.payloads {
                for &connections in sizes {
                    let rate = arguments
                        .rate
                        .unwrap_or((DELIVERIES_PER_SECOND / connections).clamp(1, 1_000));
                    let usual = arguments.settle(&Scenario::Matrix(matrix.clone()));
                    to_measure.push((
                        scenario.clone(),
                        Options { connections, payload, rate, proxy, ..usual },
                    ));
                }
            }
        }
    }
    to_measure
}

fn label(options: &Options) -> String {
    let listener = if options.proxy { "proxy" } else { "TLS" };
    format!("{} × {} B, {listener}", options.connections, options.payload)
}

impl Bench {
    /// All phases on the same connections: they are opened, idle, and sent messages one at a time,
    /// at a fixed rate, and flat out.
    pub async fn everything(&self, server: &Server) -> Outcome<Sample> {
        let (empty, mut opening) = (self.empty(server).await?, Opening::default());
        let load = self.open_all(server, &mut opening).await?;
        let idle = self.idle(server, &empty).await?;
        let one_write_each = self.one_write_each(server, &load).await?;
        let delays = self.delays(server, &load).await?;
        let saturated = self.saturated(server, &load).await?;
        // Both begin with their CPU seconds a million deliveries.
        let joining = vec![saturated[0] / one_write_each[0]];
        Ok([opening.sample(), idle, one_write_each, delays, saturated, joining].concat())
    }
}

fn write(directory: &Path, places: &[Place]) -> Outcome<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("figures.md"), tables(places))?;
    Ok(fs::write(directory.join("figures.svg"), chart::draw(places))?)
}

/// A table for each scenario and figure: a row for each place, a column for each variant and ratio.
fn tables(places: &[Place]) -> String {
    let mut text = String::from(
        "# Figures\n\nMedians, with the least and the greatest value. Made by `cargo bench --bench delivery -- matrix --write`.\n",
    );
    for panel in chart::panels(places) {
        text.push_str(&format!("\n## {}\n\n", panel.title));
        for (row, place) in panel.places.iter().enumerate() {
            let layout = &place.report.layout;
            if row == 0 {
                let heads = layout.variants.join(" | ");
                text.push_str(&format!(
                    "| connections, message, listener | {heads} | ratio |\n| --- |{}\n",
                    " --- |".repeat(layout.variants.len() + 1)
                ));
            }
            let values =
                (0..layout.variants.len()).map(|variant| place.report.value(variant, panel.figure));
            let ratio =
                layout.ratios.first().and_then(|ratio| place.report.ratio(*ratio, panel.figure));
            let cells = values
                .chain([ratio])
                .map(|spread| spread.map_or_else(String::new, |spread| spread.to_string()));
            text.push_str(&format!(
                "| {} | {} |\n",
                place.label,
                cells.collect::<Vec<_>>().join(" | ")
            ));
        }
    }
    text
}
