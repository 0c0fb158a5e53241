//! The rules of the house that can be tests: who may import whom, how long files are, where special
//! things may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// A module (by the first folder or file name under `src`), and what of ours it may use.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("domain", &[]),
    ("store", &["domain"]),
    ("catalog", &["domain", "store"]),
    ("auth", &["domain"]),
    ("limits", &["domain"]),
    ("relay", &["domain", "catalog", "admittance"]),
    ("admittance", &[]),
    ("socket", &["relay", "domain", "admittance"]),
    ("transport", &["relay", "socket", "tls", "admittance"]),
    (
        "api",
        &[
            "domain",
            "store",
            "catalog",
            "auth",
            "limits",
            "relay",
            "admittance",
            "socket",
            "transport",
        ],
    ),
    ("postgres", &[]),
    ("tls", &[]),
    ("telemetry", &[]),
    ("config", &[]),
    ("cli", &["api", "app", "auth", "config", "domain", "telemetry"]),
];

/// A module, and crates and words that it must not name.
const MUST_NOT_NAME: [(&str, &[&str]); 7] = [
    (
        "domain",
        &[
            "Serialize",
            "Deserialize",
            "actix",
            "sqlx",
            "tokio",
            "Utc::now",
            "SystemTime",
            "Instant",
        ],
    ),
    ("store", &["actix"]),
    ("catalog", &["actix"]),
    ("auth", &["actix", "sqlx"]),
    ("limits", &["actix", "sqlx"]),
    ("relay", &["actix", "sqlx", "jsonwebtoken", "async_nats"]),
    ("socket", &["sqlx", "jsonwebtoken"]),
];

/// Words that may stand in these files or folders only.
const ONLY_IN: [(&str, &[&str]); 5] = [
    // Where a system keeps its programs is no setting of Herald.
    ("env::var", &["config", "postgres/binaries.rs"]),
    ("sqlx::query(", &["store", "postgres.rs"]),
    ("query!(", &["store"]),
    ("query_as!(", &["store"]),
    ("StatusCode::from_u16", &["api/error.rs"]),
];

/// Lines of code beside a file's own tests.
const MOST_LINES: usize = 500;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                found.push(path)
            }
            false => {}
        }
    }
    found
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The first folder or file name under `src`.
fn module(file: &Path) -> String {
    let relative = file.strip_prefix(source()).expect("a file of ours");
    let first =
        relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn each_line(mut check: impl FnMut(&Path, usize, &str)) {
    for file in files(&source()) {
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                check(&file, number + 1, line);
            }
        }
    }
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    each_line(|file, number, line| {
        let module = module(file);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else { return };
        for used in line.split("crate::").skip(1) {
            let used: String =
                used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if used != module && !used.is_empty() && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}:{number}: {module} must not use {used}", file.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_do_not_name_what_they_must_not_know() {
    let mut wrong = Vec::new();
    each_line(|file, number, line| {
        let module = module(file);
        for (_, words) in MUST_NOT_NAME.iter().filter(|(name, _)| *name == module) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{number}: {module} must not name {word}", file.display()));
            }
        }
        for (word, places) in ONLY_IN {
            let relative =
                file.strip_prefix(source()).expect("a file of ours").display().to_string();
            if line.contains(word) && !places.iter().any(|place| relative.starts_with(place)) {
                wrong
                    .push(format!("{}:{number}: {word} stands only in {places:?}", file.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_open_with_their_purpose_and_stay_short() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in files(&source()).into_iter().chain(files(&tests)) {
        let text = fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//! "), "{} does not say what it is for", file.display());
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn no_test_is_ignored_and_none_sleeps() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in files(&source()).into_iter().chain(files(&tests)) {
        let text = fs::read_to_string(&file).expect("a source file");
        let words = [["#[", "ignore"].concat(), ["thread::", "sleep"].concat()];
        for word in words {
            assert!(!text.contains(&word), "{} has {word}", file.display());
        }
    }
}
