//! Every comparison with the floor, for every number of connections, size of message and listener.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::measure::Bench;
use crate::options::{Arguments, Options};
use crate::report::chart;
use crate::report::figures::Report;
use crate::scenario::{MatrixOptions, Scenario};

/// What is measured in each place of the matrix.
const SCENARIOS: [Scenario; 5] =
    [Scenario::Delivery, Scenario::Saturated, Scenario::Latency, Scenario::Connects, Scenario::Publishes];
/// Deliveries a second where a rate is kept, whatever the number of connections.
const DELIVERIES_PER_SECOND: u32 = 20_000;

/// One place of the matrix, measured.
pub struct Place {
    /// What was measured.
    pub scenario: Scenario,
    /// Connections, bytes of a message and the listener, in words.
    pub label: String,
    /// What came out.
    pub report: Report,
}

/// Measures everything; writes `figures.md` and `figures.svg` after each place if a directory is given.
pub async fn run(arguments: &Arguments, matrix: &MatrixOptions, directory: &Path) -> Outcome<()> {
    let mut places = Vec::new();
    for scenario in SCENARIOS {
        for options in variations(arguments, matrix, &scenario) {
            let label = label(&options);
            let bench = Bench::new(options, directory)?;
            println!("{}", bench.describe(&scenario));
            let report = bench.run(&scenario).await?;
            println!("\n{}", report.table());
            places.push(Place { scenario: scenario.clone(), label, report });
            if let Some(directory) = &matrix.write {
                write(directory, &places)?;
            }
        }
    }
    Ok(())
}

/// The size of a message plays no part in connecting.
fn variations(arguments: &Arguments, matrix: &MatrixOptions, scenario: &Scenario) -> Vec<Options> {
    let payloads = if matches!(scenario, Scenario::Connects) { 1 } else { matrix.payloads.len() };
    let (options, mut variations) = (arguments.settle(scenario), Vec::new());
    for proxy in [false, true] {
        for &payload in &matrix.payloads[..payloads] {
            for &connections in &matrix.sizes {
                let rate = arguments.rate.unwrap_or((DELIVERIES_PER_SECOND / connections).clamp(1, 1_000));
                variations.push(Options { connections, payload, rate, proxy, ..options.clone() });
            }
        }
    }
    variations
}

fn label(options: &Options) -> String {
    let listener = if options.proxy { "proxy" } else { "TLS" };
    format!("{} × {} B, {listener}", options.connections, options.payload)
}

fn write(directory: &PathBuf, places: &[Place]) -> Outcome<()> {
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
            let values = (0..layout.variants.len()).map(|variant| place.report.value(variant, panel.figure));
            let ratio = layout.ratios.first().and_then(|ratio| place.report.ratio(*ratio, panel.figure));
            let cells =
                values.chain([ratio]).map(|spread| spread.map_or_else(String::new, |spread| spread.to_string()));
            text.push_str(&format!("| {} | {} |\n", place.label, cells.collect::<Vec<_>>().join(" | ")));
        }
    }
    text
}
