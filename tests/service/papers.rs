//! The papers name what is there: files, folders, and what the code calls its parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
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
    let read = |it: &String| fs::read_to_string(root().join(it)).expect("a source file");
    let sources: Vec<String> =
        files(&root().join("src")).iter().filter(|it| it.ends_with(".rs")).map(read).collect();
    let is_word =
        |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let defines = |source: &str, name: &str| {
        let kinds = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
        kinds.iter().any(|kind| {
            let start = format!("{kind} {name}");
            let after = |at: usize| source[at + start.len()..].chars().next();
            let is_whole = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            source.match_indices(&start).any(|(at, _)| is_whole(after(at)))
        })
    };
    let mut wrong = Vec::new();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = paper(name);
        for path in quoted(&text) {
            let parts: Vec<&str> = path.split("::").collect();
            if parts.len() < 2 || !parts.iter().all(|part| is_word(part)) {
                continue;
            }
            if !parts.iter().all(|part| sources.iter().any(|source| defines(source, part))) {
                wrong.push(format!("{name} names {path}, which is not there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
