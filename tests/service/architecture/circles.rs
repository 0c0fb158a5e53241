//! Circles of files: each file of a circle leads to all others of it by arrows.

use std::collections::{BTreeMap, BTreeSet};

use super::arrows::Arrow;

/// The files that lead to each other, in alphabetical order; every circle has two at least.
pub fn circles(arrows: &[Arrow]) -> Vec<Vec<String>> {
    let mut next = BTreeMap::<&str, BTreeSet<&str>>::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|file| (*file, reached_from(file, &next))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let leads_back = |other: &&&str| reached.get(**other).is_some_and(|all| all.contains(file));
        let circle: Vec<String> =
            others.iter().filter(leads_back).map(|file| (*file).to_owned()).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reached_from<'a>(file: &str, next: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&str> = next[file].iter().copied().collect();
    while let Some(file) = waiting.pop() {
        if reached.insert(file) {
            waiting.extend(next.get(file).into_iter().flatten());
        }
    }
    reached
}

/// A circle's files and its arrows, with file, line and the name that ties them.
pub fn describe(circle: &[String], arrows: &[Arrow]) -> String {
    let mut text = format!("a circle of {} files: {}", circle.len(), circle.join(", "));
    for arrow in arrows.iter().filter(|a| circle.contains(&a.from) && circle.contains(&a.to)) {
        let Arrow { from, to, name, line } = arrow;
        text.push_str(&format!("\n    src/{from}:{line}: {name} of src/{to}"));
    }
    text
}
