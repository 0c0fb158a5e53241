//! From the text of an expression to the parser's tree; what the parser says of a mistake becomes a
//! sentence.

use super::bounds::{MAX_BYTES, MAX_NESTING};
use super::error::ExpressionError;
use cel::common::ast::SourceInfo;
use cel::parser::Expression as Parsed;
use cel::{Env, ParseError};

/// Reads a text of at most `MAX_BYTES`. Macros stay the calls that they are written as. Errors:
/// `ExpressionError`.
///
/// The parser is recursive: with the bounds on length and nesting it and what follows need less
/// than 512 KiB of stack, a quarter of what a thread has.
pub(super) fn read(text: &str) -> Result<(Parsed, SourceInfo), ExpressionError> {
    if text.len() > MAX_BYTES {
        let reason =
            format!("an expression has at most {MAX_BYTES} bytes, this one has {}", text.len());
        return Err(ExpressionError { position: MAX_BYTES, reason });
    }
    if text.trim().is_empty() {
        return Err(ExpressionError { position: 0, reason: "the expression is empty".into() });
    }
    let parser =
        Env::default().with_optional_support(false).parser().max_recursion_depth(MAX_NESTING);
    parser.parse_with_source_info(text).map_err(|errors| {
        let first = errors.errors.iter().min_by_key(|error| position(text, error));
        match first {
            Some(error) => {
                ExpressionError { position: position(text, error), reason: sentence(&error.msg) }
            }
            None => ExpressionError { position: 0, reason: "this is not an expression".into() },
        }
    })
}

/// The byte at which an error stands. The parser counts lines and columns from 1, and columns in
/// characters.
fn position(text: &str, error: &ParseError) -> usize {
    let line = usize::try_from(error.pos.0).unwrap_or(0).saturating_sub(1);
    let column = usize::try_from(error.pos.1).unwrap_or(0).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let bytes: usize = text[start..].chars().take(column).map(char::len_utf8).sum();
    start + bytes
}

fn sentence(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    if message.contains("Recursion limit") {
        return format!("brackets and ?: are nested more than {MAX_NESTING} deep");
    }
    if message.contains("recovery attempt limit") {
        return "this is not an expression".into();
    }
    let (said, text) = message
        .split_once(" input ")
        .or_else(|| message.split_once(" at: "))
        .unwrap_or((message, ""));
    let text = text.split(" expecting ").next().unwrap_or(text).trim_matches('\'').trim();
    match said {
        _ if text == "<EOF>" => "the expression ends too early".into(),
        "mismatched" | "extraneous" | "no viable alternative at" => {
            format!("{text:?} is not expected here")
        }
        "token recognition error" => format!("{text:?} is not understood here"),
        _ => {
            match message.strip_prefix("missing ").and_then(|missing| missing.split_once(" at ")) {
                Some((missing, _)) => format!("{missing} is missing here"),
                None => message.into(),
            }
        }
    }
}
