//! Writing parts of expressions and values for people, within a bound.

use super::tree::{Literal, Node, What};
use super::value::{List, Value};
use std::fmt::{self, Display, Write};

/// Most bytes of one value in an explanation.
const MAX_VALUE: usize = 64;

/// What `display` writes, cut to `most` bytes; a text that was cut ends with `…`.
pub(super) fn bounded(most: usize, display: impl Display) -> String {
    let mut bounded = Bounded { text: String::new(), most };
    if write!(bounded, "{display}").is_err() {
        let end = bounded.text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
        bounded.text.truncate(end);
        bounded.text.push('…');
    }
    bounded.text
}

/// Longest word of a refused text that is repeated, in bytes.
const MAX_WORD: usize = 15;

/// The same with every longer word cut to its beginning: a token that was pasted in the wrong place
/// must not come back in an error.
pub(super) fn without_long_words(reason: &str) -> String {
    let is_of_a_word = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
    let mut kept = String::with_capacity(reason.len());
    for piece in reason.split_inclusive(|char| !is_of_a_word(char)) {
        let word = piece.trim_end_matches(|char| !is_of_a_word(char));
        let cut =
            if word.len() > MAX_WORD { word.floor_char_boundary(MAX_WORD / 2) } else { word.len() };
        kept.push_str(&word[..cut]);
        if cut < word.len() {
            kept.push('…');
        }
        kept.push_str(&piece[word.len()..]);
    }
    kept
}

struct Bounded {
    text: String,
    most: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.most - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        Err(fmt::Error)
    }
}

/// A value as an explanation shows it: like CEL, at most 64 bytes.
pub(super) fn shown(value: &Value<'_>) -> String {
    bounded(MAX_VALUE, value)
}

/// A part of an expression as an explanation shows it.
pub(super) fn quoted(node: &Node) -> String {
    bounded(2 * MAX_VALUE, node)
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value}u"),
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "{:?}", value.as_str()),
            Self::List(list) => write_list(f, list),
            Self::Map(map) => write_entries(f, map.entries()),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, list: &List<'_>) -> fmt::Result {
    f.write_str("[")?;
    for index in 0..list.len() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{}", list.get(index).unwrap_or(Value::Null))?;
    }
    f.write_str("]")
}

fn write_entries(
    f: &mut fmt::Formatter<'_>,
    entries: impl Iterator<Item = (impl Display, impl Display)>,
) -> fmt::Result {
    f.write_str("{")?;
    for (index, (key, value)) in entries.enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{key}: {value}")?;
    }
    f.write_str("}")
}

impl Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Value::from(self))
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Literal(literal) => write!(f, "{literal}"),
            What::Variable(variable) => f.write_str(variable.text()),
            What::Element(name) => f.write_str(name),
            What::Select(operand, field) => write!(f, "{}.{field}", Operand(operand, 7)),
            What::Has(operand) => write!(f, "has({operand})"),
            What::Index(pair) => write!(f, "{}[{}]", Operand(&pair[0], 7), pair[1]),
            What::Not(operand) => write!(f, "!{}", Operand(operand, 6)),
            What::Negate(operand) => write!(f, "-{}", Operand(operand, 6)),
            What::And(parts) => join(f, " && ", 3, parts),
            What::Or(parts) => join(f, " || ", 2, parts),
            What::Choice(three) => {
                write!(f, "{} ? {} : {}", Operand(&three[0], 1), Operand(&three[1], 1), three[2])
            }
            What::Binary(operator, pair) => {
                let (left, right) = (operator.binding(), operator.binding() + 1);
                write!(
                    f,
                    "{} {} {}",
                    Operand(&pair[0], left),
                    operator.text(),
                    Operand(&pair[1], right)
                )
            }
            What::Call(function, operands) if function.is_method() => {
                write!(f, "{}.{}(", Operand(&operands[0], 7), function.text())?;
                join(f, ", ", 0, &operands[1..])?;
                f.write_str(")")
            }
            What::Call(function, operands) => {
                write!(f, "{}(", function.text())?;
                join(f, ", ", 0, operands)?;
                f.write_str(")")
            }
            What::Matches(text, pattern) => {
                write!(f, "{}.matches({:?})", Operand(text, 7), pattern.as_str())
            }
            What::List(elements) => {
                f.write_str("[")?;
                join(f, ", ", 0, elements)?;
                f.write_str("]")
            }
            What::Map(entries) => write_entries(f, entries.iter().map(|(key, value)| (key, value))),
            What::Walk(walk) => {
                write!(
                    f,
                    "{}.{}({}, {})",
                    Operand(&walk.range, 7),
                    walk.name.text(),
                    walk.element,
                    walk.body
                )
            }
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, between: &str, binding: u8, parts: &[Node]) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        write!(f, "{}{}", if index == 0 { "" } else { between }, Operand(part, binding))?;
    }
    Ok(())
}

/// A part in brackets, unless it binds at least as tightly as asked for.
struct Operand<'n>(&'n Node, u8);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binding = match &self.0.what {
            What::Choice(_) => 0,
            What::Or(_) => 1,
            What::And(_) => 2,
            What::Binary(operator, _) => operator.binding(),
            What::Not(_) | What::Negate(_) => 6,
            _ => 7,
        };
        if binding < self.1 { write!(f, "({})", self.0) } else { write!(f, "{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::without_long_words;

    #[test]
    fn words_of_a_refused_text_are_repeated_only_if_they_are_short() {
        for (reason, told) in [
            ("nobody is not known", "nobody is not known"),
            ("fifteen-letters is not known", "fifteen-letters is not known"),
            ("sixteen--letters is not known", "sixteen… is not known"),
            (
                "user == \"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9\"",
                "user == \"eyJhbGc….eyJzdWI…\"",
            ),
        ] {
            assert_eq!(without_long_words(reason), told);
        }
    }
}
