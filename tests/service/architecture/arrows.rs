//! Which file names what another file defines: the arrows between the files of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// One file names something that another defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: String,
    pub to: String,
    /// What ties them, and the first line that names it.
    pub name: String,
    pub line: usize,
}

/// Every arrow of a crate, one for each thing that a file names.
///
/// Reads `lib.rs` and what its `mod` lines lead to; what is compiled for tests alone is left out. A
/// path that leads to a re-export is an arrow to where the thing is defined, and the re-export is
/// an arrow of its own. A `mod` line is none, and neither is the import of a module: what is named
/// through it is. Methods are not seen: who has a value may call them wherever they stand.
pub fn arrows(sources: &BTreeMap<String, String>) -> Vec<Arrow> {
    let mut modules = Modules(BTreeMap::new());
    modules.read(sources, Vec::new(), "lib.rs".to_owned());
    let mut arrows = Vec::new();
    for (path, module) in &modules.0 {
        modules.arrows_of(path, module, &mut arrows);
    }
    arrows
}

type ModulePath = Vec<String>;

struct Module {
    file: String,
    source: Source,
}

/// Where a path leads.
enum Found {
    Module(ModulePath),
    Item { file: String, name: String },
}

/// The modules of a crate by their paths; the crate itself has the empty one.
struct Modules(BTreeMap<ModulePath, Module>);

impl Modules {
    fn read(&mut self, sources: &BTreeMap<String, String>, path: ModulePath, file: String) {
        let text = sources.get(&file).unwrap_or_else(|| panic!("{file} is not there"));
        let source = Source::read(text).unwrap_or_else(|error| panic!("src/{file}:{error}"));
        let folder = folder_of_children(&file);
        for child in source.children.clone() {
            let beside = format!("{folder}{child}.rs");
            let below = format!("{folder}{child}/mod.rs");
            let file = if sources.contains_key(&beside) { beside } else { below };
            let mut path = path.clone();
            path.push(child);
            self.read(sources, path, file);
        }
        self.0.insert(path, Module { file, source });
    }

    fn arrows_of(&self, path: &ModulePath, module: &Module, arrows: &mut Vec<Arrow>) {
        let mut known = BTreeSet::new();
        let mut point = |to: String, name: String, line: usize| {
            if to != module.file && known.insert((to.clone(), name.clone())) {
                arrows.push(Arrow { from: module.file.clone(), to, name, line });
            }
        };
        for import in &module.source.imports {
            match self.find(path, &import.mention.path, 0) {
                Some(Found::Item { file, name }) => point(file, name, import.mention.line),
                Some(Found::Module(all)) if import.name.is_none() => {
                    point(self.0[&all].file.clone(), "*".to_owned(), import.mention.line);
                }
                _ => {}
            }
        }
        for mention in &module.source.mentions {
            if let Some(Found::Item { file, name }) = self.find(path, &mention.path, 0) {
                point(file, name, mention.line);
            }
        }
        for call in &module.source.calls {
            let above = (0..path.len()).rev().map(|length| &self.0[&path[..length]]);
            let is_known = module.source.knows(&call.path[0]);
            if let Some(above) = above.filter(|_| !is_known).find(|m| m.source.has_macro(call)) {
                point(above.file.clone(), format!("{}!", call.path[0]), call.line);
            }
        }
    }

    /// Where a path leads that stands in this module; none if it leads out of the crate.
    fn find(&self, at: &[String], path: &[String], depth: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.look_up(&[], rest, true, depth),
            "self" => self.find_below(at, rest, depth),
            "super" => self.find_below(&at[..at.len() - 1], rest, depth),
            _ => self.look_up(at, path, false, depth),
        }
    }

    fn find_below(&self, at: &[String], rest: &[String], depth: usize) -> Option<Found> {
        match rest.first().is_some_and(|next| next == "super") {
            true => self.find(at, rest, depth),
            false => self.look_up(at, rest, true, depth),
        }
    }

    /// Where the path leads from this module. If it is sure to begin here, a name that is not seen
    /// (a macro made it, or another crate) is the module's own.
    fn look_up(&self, at: &[String], path: &[String], sure: bool, depth: usize) -> Option<Found> {
        let module = &self.0[at];
        let Some((name, rest)) = path.split_first() else {
            return Some(Found::Module(at.to_vec()));
        };
        // `use serde;` leads to itself.
        if depth > 16 {
            return None;
        }
        let own = || Some(Found::Item { file: module.file.clone(), name: name.clone() });
        let child = [at, std::slice::from_ref(name)].concat();
        let is_child = self.0.contains_key(&child);
        if is_child && !rest.is_empty() {
            return self.look_up(&child, rest, true, depth);
        }
        if module.source.definitions.contains(name) {
            return own();
        }
        for import in module.source.imports.iter().filter(|i| i.name.as_ref() == Some(name)) {
            let path = [&import.mention.path, rest].concat();
            if let Some(found) = self.find(at, &path, depth + 1) {
                return Some(found);
            }
        }
        if is_child {
            return Some(Found::Module(child));
        }
        for import in module.source.imports.iter().filter(|import| import.name.is_none()) {
            let Some(Found::Module(all)) = self.find(at, &import.mention.path, depth + 1) else {
                continue;
            };
            if self.0[&all].source.knows(name) {
                return self.look_up(&all, path, true, depth + 1);
            }
        }
        if sure { own() } else { None }
    }
}

impl Source {
    /// Whether the name means something in this file.
    fn knows(&self, name: &String) -> bool {
        self.definitions.contains(name)
            || self.children.contains(name)
            || self.imports.iter().any(|import| import.name.as_ref() == Some(name))
    }

    fn has_macro(&self, call: &super::source::Mention) -> bool {
        self.macros.contains(&call.path[0])
    }
}

/// Where the files of a file's `mod` lines lie.
fn folder_of_children(file: &str) -> String {
    match file.rsplit_once('/') {
        _ if file == "lib.rs" => String::new(),
        Some((folder, "mod.rs")) => format!("{folder}/"),
        _ => format!("{}/", file.trim_end_matches(".rs")),
    }
}
