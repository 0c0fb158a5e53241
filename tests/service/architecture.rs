//! The rules of the house that can be tests: who may import whom, how long files are, where special
//! things may stand.

mod arrows;
mod circles;
mod inside;
mod made_up;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use arrows::Arrow;

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

/// A part of `relay` or `api` (a folder, or a file that lies in none; the module's root is `mod`),
/// and which others of the same module it may use. A row names only parts of rows above it, so that
/// no arrow goes up. A part without a row is free.
const INSIDE: &[inside::Row<'static>] = &[
    ("relay/settings", &[]),
    ("relay/totals", &[]),
    ("relay/tenure", &[]),
    ("relay/progress", &[]),
    ("relay/close", &[]),
    ("relay/head", &["progress"]),
    ("relay/heard", &[]),
    ("relay/frame", &["close", "head", "progress"]),
    ("relay/sealed", &["frame", "head", "progress"]),
    ("relay/queue", &["frame", "settings"]),
    ("relay/seats", &["queue"]),
    ("relay/ids", &["head", "sealed"]),
    ("relay/outbox", &["close", "frame", "head", "progress", "settings"]),
    ("relay/snapshot", &["outbox"]),
    ("relay/delivery_trace", &["head", "outbox", "snapshot"]),
    (
        "relay/timeline",
        &[
            "frame", "head", "heard", "ids", "progress", "queue", "sealed", "seats", "settings",
            "snapshot", "totals",
        ],
    ),
    ("relay/timelines", &["ids", "settings", "timeline"]),
    ("relay/window_file", &["head", "ids", "progress", "sealed", "timeline", "timelines"]),
    ("relay/log", &["head", "queue", "sealed", "tenure", "timeline"]),
    (
        "relay/member",
        &[
            "close", "frame", "head", "heard", "outbox", "progress", "settings", "snapshot",
            "timeline",
        ],
    ),
    ("relay/survey", &["close", "member", "outbox", "progress", "sealed", "settings", "snapshot"]),
    (
        "relay/worker",
        &[
            "close",
            "frame",
            "head",
            "heard",
            "log",
            "member",
            "outbox",
            "progress",
            "queue",
            "sealed",
            "seats",
            "settings",
            "snapshot",
            "survey",
            "timeline",
            "timelines",
        ],
    ),
    ("api/error", &[]),
    ("api/counters", &["error"]),
    ("api/explain_pool", &["error"]),
    ("api/filters", &["error"]),
    ("api/gate", &["error"]),
    ("api/patience", &["error"]),
    ("api/state", &["counters", "explain_pool", "filters", "gate", "patience"]),
    ("api/credentials", &["error"]),
    ("api/transport", &["error"]),
    ("api/under_way", &["error", "transport"]),
    ("api/body", &["credentials", "error", "patience", "state", "transport"]),
    ("api/pieces", &["under_way"]),
    ("api/health", &["state"]),
    ("api/middleware", &["counters", "error", "health", "pieces", "state", "under_way"]),
    ("api/publish_rights", &[]),
    ("api/admission", &["body", "credentials", "error", "middleware", "publish_rights", "state"]),
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

/// The arrows between the files of `src`.
fn arrows_of_src() -> Vec<Arrow> {
    let read = |path: PathBuf| {
        let name = path.strip_prefix(source()).expect("a file of ours").display().to_string();
        (name, fs::read_to_string(&path).expect("a source file"))
    };
    let sources: BTreeMap<String, String> = files(&source()).into_iter().map(read).collect();
    let arrows = arrows::arrows(&sources);
    assert!(arrows.len() > sources.len(), "the finder sees only {} arrows", arrows.len());
    arrows
}

#[test]
fn no_files_lead_to_each_other() {
    let arrows = arrows_of_src();
    let circles = circles::circles(&arrows);
    let told: Vec<String> =
        circles.iter().map(|circle| circles::describe(circle, &arrows)).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn parts_of_a_module_use_only_what_the_table_inside_allows() {
    let wrong = inside::wrong_inside(INSIDE, &arrows_of_src());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The folder of `relay` that a file lies in; none for one that lies in `relay` itself.
fn folder_of_relay(file: &str) -> Option<&str> {
    let (module, name) = inside::part(file)?;
    let is_folder = source().join(module).join(name).is_dir();
    (module == "relay" && is_folder).then_some(name)
}

#[test]
fn no_file_imports_from_more_than_three_folders_of_relay() {
    let mut folders = BTreeMap::<String, BTreeSet<String>>::new();
    for arrow in arrows_of_src() {
        if let Some(folder) = folder_of_relay(&arrow.to) {
            folders.entry(arrow.from).or_default().insert(folder.to_owned());
        }
    }
    assert!(folders.len() > 10, "only {} files use the relay", folders.len());
    folders.retain(|_, folders| folders.len() > 3);
    assert!(folders.is_empty(), "{folders:?}");
}
