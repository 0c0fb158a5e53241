//! One file of Rust as the finder of circles sees it, without comments, texts and tests: what it
//! imports, names and defines.

use std::collections::BTreeSet;

/// A word, `::`, or a single sign, and the line that it stands in.
#[derive(Clone)]
struct Token {
    text: String,
    line: usize,
}

/// A path as it is written, and the line that it stands in.
pub struct Mention {
    pub path: Vec<String>,
    pub line: usize,
}

/// One leaf of a `use`.
pub struct Import {
    pub mention: Mention,
    /// What the file calls it; none for `*`.
    pub name: Option<String>,
}

/// What one file says, leaving out all that is compiled for tests alone.
#[derive(Default)]
pub struct Source {
    /// The names of `mod name;`.
    pub children: Vec<String>,
    /// What is defined at the top level of the file.
    pub definitions: BTreeSet<String>,
    /// Macros defined in the file: those below it see them without an import.
    pub macros: BTreeSet<String>,
    pub imports: Vec<Import>,
    /// Paths of two names or more that stand in the code.
    pub mentions: Vec<Mention>,
    /// Macros that the code calls by their bare names.
    pub calls: Vec<Mention>,
}

impl Source {
    /// Reads a file. Errors: a module within it, but for tests, which has no file of its own that
    /// could be on a circle; the line and the module's name.
    pub fn read(text: &str) -> Result<Source, String> {
        let tokens = without_tests(&tokens(text));
        let mut source = Source::default();
        let mut depth = 0_usize;
        let mut at = 0;
        while at < tokens.len() {
            match text_at(&tokens, at) {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += match text_at(&tokens, at) {
                // `impl Trait + use<'a>` imports nothing.
                "use" if text_at(&tokens, at + 1) != "<" => source.read_use(&tokens[at + 1..]) + 1,
                "mod" if text_at(&tokens, at + 2) != ";" => {
                    let (line, name) = (tokens[at].line, text_at(&tokens, at + 1));
                    return Err(format!("{line}: the module {name} needs a file of its own"));
                }
                _ if depth == 0 => source.read_item(&tokens, at),
                _ => source.read_path(&tokens, at),
            };
        }
        Ok(source)
    }

    /// Reads `mod`, and the name of what is defined. How many tokens it took.
    fn read_item(&mut self, tokens: &[Token], at: usize) -> usize {
        let name = text_at(tokens, at + 1).to_owned();
        match text_at(tokens, at) {
            "mod" => {
                self.children.push(name);
                2
            }
            "macro_rules" => {
                let name = text_at(tokens, at + 2).to_owned();
                self.macros.insert(name.clone());
                self.definitions.insert(name);
                3
            }
            "struct" | "enum" | "union" | "trait" | "fn" | "const" | "static" | "type" => {
                self.definitions.insert(name);
                1
            }
            _ => self.read_path(tokens, at),
        }
    }

    /// Reads a path in the code. How many tokens it took.
    fn read_path(&mut self, tokens: &[Token], at: usize) -> usize {
        if !is_word(text_at(tokens, at)) {
            // `::std` and `>::new` begin nowhere in ours, and a macro's `$name` is not known.
            let (sign, next) = (text_at(tokens, at), text_at(tokens, at + 1));
            return if sign == "::" || (sign == "$" && next != "crate") { 2 } else { 1 };
        }
        let mut path = vec![tokens[at].text.clone()];
        let mut next = at + 1;
        while text_at(tokens, next) == "::" && is_word(text_at(tokens, next + 1)) {
            path.push(tokens[next + 1].text.clone());
            next += 2;
        }
        let is_call = text_at(tokens, next) == "!" && text_at(tokens, next + 1) != "=";
        let mention = Mention { path, line: tokens[at].line };
        if mention.path.len() > 1 {
            self.mentions.push(mention);
        } else if is_call {
            self.calls.push(mention);
        }
        next - at
    }

    /// Reads what follows the word `use`. How many tokens it took.
    fn read_use(&mut self, tokens: &[Token]) -> usize {
        let length = tokens.iter().take_while(|token| token.text != ";").count();
        self.read_tree(&tokens[..length], &[]);
        length
    }

    /// Reads one tree of a `use`: a path, and what stands in its braces.
    fn read_tree(&mut self, tokens: &[Token], prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut at = 0;
        while at < tokens.len() {
            match text_at(tokens, at) {
                "{" => {
                    for branch in branches(&tokens[at + 1..tokens.len() - 1]) {
                        self.read_tree(branch, &path);
                    }
                    return;
                }
                "as" => {
                    name = Some(text_at(tokens, at + 1).to_owned());
                    at += 1;
                }
                "self" if !path.is_empty() => {}
                "::" => {}
                word => path.push(word.to_owned()),
            }
            at += 1;
        }
        if path.last().is_some_and(|last| last == "*") {
            path.pop();
        } else {
            name = name.or_else(|| path.last().cloned());
        }
        let line = tokens.first().map_or(0, |token| token.line);
        self.imports.push(Import { mention: Mention { path, line }, name });
    }
}

/// What stands between the commas of a `use`'s braces.
fn branches(tokens: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0;
    let is_end = |token: &Token| {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && token.text == ","
    };
    tokens.split(is_end).filter(|branch| !branch.is_empty()).collect()
}

/// The tokens but for items behind `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_test = ["#", "[", "cfg", "(", "test", ")", "]"]
            .iter()
            .enumerate()
            .all(|(offset, expected)| text_at(tokens, at + offset) == *expected);
        if is_test {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Where the item ends whose attributes begin here.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    while text_at(tokens, at) == "#" {
        at = end_of_brackets(tokens, at + 1);
    }
    while at < tokens.len() {
        match text_at(tokens, at) {
            ";" => return at + 1,
            "{" => return end_of_brackets(tokens, at),
            "(" | "[" => at = end_of_brackets(tokens, at),
            // The end of what the item stands in.
            "}" | ")" | "]" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Where the brackets end that open here.
fn end_of_brackets(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, token) in tokens[start..].iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return start + offset + 1;
        }
    }
    tokens.len()
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn is_path(text: &str) -> bool {
    text.contains("::") && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':')
}

/// The words and signs of a text, without comments, lifetimes and what stands in quotation marks.
/// Only a path that an attribute has in them (`default = "rules::everyone"`) counts as code.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::<Token>::new();
    let mut line = 1;
    let mut rest = text;
    while !rest.is_empty() {
        let length = length_of_token(rest);
        let (taken, after) = rest.split_at(length);
        let is_value = tokens.last().is_some_and(|token| token.text == "=");
        let quoted = taken.trim_matches('"');
        if is_word(taken) && !is_quoted(taken) || taken == "::" {
            tokens.push(Token { text: taken.trim_start_matches("r#").to_owned(), line });
        } else if is_value && taken.starts_with('"') && is_path(quoted) {
            tokens.extend(self::tokens(quoted).into_iter().map(|token| Token { line, ..token }));
        } else if length == 1 && !taken.trim().is_empty() {
            tokens.push(Token { text: taken.to_owned(), line });
        }
        line += taken.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The bytes of what a text begins with: a comment, what stands in quotation marks, a word, `::`, a
/// lifetime, or one sign.
fn length_of_token(text: &str) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    if is_quoted(text) {
        return length_of_quoted(text);
    }
    if text.starts_with("::") {
        return 2;
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        return 1 + length_after_apostrophe(quoted);
    }
    let word = text.strip_prefix("r#").unwrap_or(text);
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    match word.find(|c| !is_part(c)).unwrap_or(word.len()) {
        0 => first,
        length => text.len() - word.len() + length,
    }
}

/// What follows the apostrophe of a character or of a lifetime.
fn length_after_apostrophe(text: &str) -> usize {
    if let Some(escaped) = text.strip_prefix('\\') {
        let first = escaped.chars().next().map_or(0, char::len_utf8);
        return escaped[first..].find('\'').map_or(text.len(), |end| 1 + first + end + 1);
    }
    let first = text.chars().next().map_or(0, char::len_utf8);
    match text[first..].starts_with('\'') {
        true => first + 1,
        false => text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()),
    }
}

/// Whether a text begins with a text in quotation marks, raw and of bytes included.
fn is_quoted(text: &str) -> bool {
    let after = text.trim_start_matches(['b', 'c']);
    let is_raw = after.starts_with('r') && after[1..].trim_start_matches('#').starts_with('"');
    (after.starts_with('"') || is_raw) && text.len() - after.len() < 2
}

fn length_of_quoted(text: &str) -> usize {
    let start = text.find('"').expect("a quotation mark");
    let hashes = text[..start].matches('#').count();
    if text[..start].contains('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return text[start + 1..].find(&end).map_or(text.len(), |at| start + 1 + at + end.len());
    }
    let mut is_escaped = false;
    for (at, sign) in text.char_indices().skip(start + 1) {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
