//! The ratios of a matrix as a drawing: a point for each median, a line from the least to the
//! greatest.

use crate::report::figures::Spread;
use crate::scenarios::matrix::Place;

const WIDTH: f64 = 860.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 34.0;
/// Where the scale begins and ends, and the ratios that stand there.
const SCALE: (f64, f64) = (230.0, 780.0);
const RATIOS: (f64, f64) = (1.0 / 16.0, 16.0);
const MARKS: [f64; 9] = [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

/// One figure of one scenario, with all places where it was measured.
pub struct Panel<'a> {
    /// Scenario and figure.
    pub title: String,
    /// The figure's position in each sample.
    pub figure: usize,
    /// Where it was measured.
    pub places: Vec<&'a Place>,
}

/// A panel for each figure that is compared, in the order of measuring.
pub fn panels(places: &[Place]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for place in places {
        let figures =
            place.report.layout.figures.iter().enumerate().filter(|(_, figure)| figure.compared);
        for (figure, found) in figures {
            let title = match found.phase {
                "" => format!("{}: {found}", place.scenario.name()),
                _ => found.to_string(),
            };
            match panels.iter_mut().find(|panel| panel.title == title) {
                Some(panel) => panel.places.push(place),
                None => panels.push(Panel { title, figure, places: vec![place] }),
            }
        }
    }
    panels
}

/// The whole drawing, SVG 1.1, readable on light and on dark ground.
pub fn draw(places: &[Place]) -> String {
    let (mut body, mut y) = (String::new(), 46.0);
    for panel in panels(places) {
        body.push_str(&format!(
            r#"<text x="10" y="{}" class="title">{}</text>"#,
            y + 20.0,
            escape(&panel.title)
        ));
        body.push('\n');
        y += HEAD;
        for place in &panel.places {
            let ratio = place
                .report
                .layout
                .ratios
                .first()
                .and_then(|ratio| place.report.ratio(*ratio, panel.figure));
            body.push_str(&row(&place.label, ratio, y));
            y += ROW;
        }
    }
    let marks: String = MARKS.iter().map(|mark| scale_mark(*mark, y)).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<style>text{{fill:#57606a}}.title{{font-weight:bold}}.mark{{stroke:#8c959f;stroke-opacity:.4}}\
         .one{{stroke:#57606a}}.range{{stroke:#2f81f7;stroke-width:3}}.median{{fill:#2f81f7}}\
         @media(prefers-color-scheme:dark){{text{{fill:#9198a1}}.one{{stroke:#9198a1}}}}</style>\n\
         <text x=\"10\" y=\"20\" class=\"title\">Herald by the floor: median, least and greatest ratio (less is better, but more where it ends in /s)</text>\n{marks}{body}</svg>\n",
        height = y + 20.0
    )
}

fn row(label: &str, ratio: Option<Spread>, y: f64) -> String {
    let label = escape(label);
    let name = format!(r#"<text x="20" y="{}">{label}</text>"#, y + 4.0);
    let Some(Spread { median, least, most }) = ratio else { return name + "\n" };
    let (from, at, to) = (position(least), position(median), position(most));
    format!(
        "{name}<line x1=\"{from:.1}\" y1=\"{y}\" x2=\"{to:.1}\" y2=\"{y}\" class=\"range\"/>\
         <circle cx=\"{at:.1}\" cy=\"{y}\" r=\"4\" class=\"median\"/><text x=\"{}\" y=\"{}\">{median:.2}</text>\n",
        SCALE.1 + 20.0,
        y + 4.0
    )
}

fn scale_mark(ratio: f64, bottom: f64) -> String {
    let (x, class) = (position(ratio), if ratio == 1.0 { "one" } else { "mark" });
    format!(
        "<line x1=\"{x:.1}\" y1=\"44\" x2=\"{x:.1}\" y2=\"{bottom}\" class=\"{class}\"/>\
         <text x=\"{x:.1}\" y=\"40\" text-anchor=\"middle\">{ratio}</text>\n"
    )
}

/// Where a ratio stands; the scale is logarithmic, and what lies beyond it is drawn at its end.
fn position(ratio: f64) -> f64 {
    let ratio = if ratio.is_finite() { ratio.clamp(RATIOS.0, RATIOS.1) } else { RATIOS.1 };
    SCALE.0 + (ratio / RATIOS.0).log2() / (RATIOS.1 / RATIOS.0).log2() * (SCALE.1 - SCALE.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
