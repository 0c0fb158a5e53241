//! The papers name what is there: files, folders, and what the code calls its parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What is held to the code.
const PAPERS: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];
/// What a paper calls a file or a folder ends like one of these.
const ENDINGS: [&str; 5] = [".rs", ".md", ".json", ".txt", "/"];
/// Folders whose files a paper may name by their names alone.
const FOLDERS: [&str; 3] = ["src", "tests", "openapi"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn paper(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("a paper")
}

/// What stands between two backquotes, once for each; not what stands in indented lines.
fn quoted(text: &str) -> BTreeSet<&str> {
    let prose = text.lines().filter(|line| !line.starts_with("    "));
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// All files below a folder, as paths from the root.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.strip_prefix(root()).expect("a file of ours").display().to_string());
        }
    }
    found
}

fn files_of_ours() -> Vec<String> {
    FOLDERS.iter().flat_map(|folder| files(&root().join(folder))).collect()
}

#[test]
fn files_that_a_paper_names_are_there() {
    let files = files_of_ours();
    let mut wrong = Vec::new();
    for name in PAPERS {
        let text = paper(name);
        let is_plain =
            |it: &str| it.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
        // What begins with a slash is a route.
        let paths = quoted(&text).into_iter().filter(|it| {
            is_plain(it) && !it.starts_with('/') && ENDINGS.iter().any(|end| it.ends_with(end))
        });
        for path in paths {
            let is_there = match path.contains('/') {
                true => root().join(path).exists() || root().join("src").join(path).exists(),
                false => {
                    root().join(path).exists()
                        || files.iter().any(|it| it.ends_with(&format!("/{path}")))
                }
            };
            if !is_there {
                wrong.push(format!("{name} names {path}, which is not there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_paper_calls_by_its_path_in_the_code_is_there() {
    let files = files(&root().join("src"));
    let sources: Vec<Source> = files.iter().filter_map(|path| Source::read(path)).collect();
    let is_word =
        |it: &&str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let mut wrong = Vec::new();
    for name in PAPERS {
        let text = paper(name);
        for path in quoted(&text) {
            let Some((owner, item)) = path.split_once("::") else { continue };
            if [owner, item].iter().all(is_word) && !sources.iter().any(|it| it.has(owner, item)) {
                wrong.push(format!("{name} names {path}, which is not there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One file of the source: its path, and its words in order.
struct Source {
    path: String,
    words: Vec<String>,
}

impl Source {
    fn read(path: &str) -> Option<Self> {
        let text = path.ends_with(".rs").then(|| fs::read_to_string(root().join(path)).ok())??;
        let is_mark = |c: char| !c.is_alphanumeric() && c != '_';
        let words = text.split(is_mark).filter(|word| !word.is_empty()).map(String::from);
        Some(Self { path: path.into(), words: words.collect() })
    }

    /// Whether a type (or a module, in lower case) of this file has an item of this name.
    fn has(&self, owner: &str, item: &str) -> bool {
        let is_here = match owner.starts_with(char::is_uppercase) {
            true => self.defines(&["struct", "enum", "trait", "impl", "for"], owner),
            false => {
                self.path.ends_with(&format!("/{owner}.rs"))
                    || self.path.contains(&format!("/{owner}/"))
            }
        };
        is_here && self.defines(&["fn", "struct", "enum", "trait", "const"], item)
    }

    fn defines(&self, kinds: &[&str], name: &str) -> bool {
        let is_it = |pair: &[String]| kinds.contains(&pair[0].as_str()) && pair[1] == name;
        self.words.windows(2).any(is_it)
    }
}

#[test]
fn the_map_names_every_folder_of_the_source_and_of_the_relay() {
    let text = paper("ARCHITECTURE.md");
    let named = quoted(&text);
    let mut missing = Vec::new();
    for (folder, before) in [("src", ""), ("src/relay", "relay/")] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            let name = format!("{before}{}/", path.file_name().expect("a name").to_string_lossy());
            if path.is_dir() && !named.contains(name.as_str()) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
}

#[test]
fn every_dependency_is_named_with_its_reason() {
    let text = paper("ARCHITECTURE.md");
    let named = quoted(&text);
    let manifest = paper("Cargo.toml");
    let tables = ["[dependencies]", "[dev-dependencies]"];
    let rows = tables.iter().filter_map(|table| manifest.split(table).nth(1));
    let rows = rows.flat_map(|rows| rows.lines().skip(1).take_while(|row| !row.is_empty()));
    let names: Vec<&str> = rows.filter_map(|row| row.split(" = ").next()).collect();
    assert!(names.len() > 40, "the reader sees only {names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !named.contains(**name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
}
