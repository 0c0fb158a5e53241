//! What a client's text means: a keep-alive, a new token, or nothing that clients send.

use serde::Deserialize;
use std::borrow::Cow;

/// Largest message of a client, in bytes, that is not an `AUTH` frame (contract, "Receiving").
pub(super) const MAX_TEXT_BYTES: usize = 1_024;

/// A client's text frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientFrame<'a> {
    /// `PING`, bare or as `{"type":"PING"}`; with `cursor` it also acknowledges.
    Ping {
        /// How far the client has heard everything, as it wrote it.
        cursor: Option<Cow<'a, str>>,
    },
    /// `{"type":"AUTH","authorization":"Bearer …"}`.
    Auth {
        /// As written.
        authorization: Cow<'a, str>,
    },
    /// Over 1,024 bytes and no `AUTH`.
    TooLarge,
    /// Anything else.
    Other,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    cursor: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    authorization: Option<Cow<'a, str>>,
}

impl<'a> ClientFrame<'a> {
    /// Reads a text.
    pub fn parse(text: &'a str) -> Self {
        let typed = serde_json::from_str::<Typed<'a>>(text);
        match typed {
            Ok(Typed { r#type, authorization: Some(authorization), .. }) if r#type == "AUTH" => {
                Self::Auth { authorization }
            }
            _ if text.len() > MAX_TEXT_BYTES => Self::TooLarge,
            _ if text == "PING" => Self::Ping { cursor: None },
            Ok(Typed { r#type, cursor, .. }) if r#type == "PING" => Self::Ping { cursor },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_by_their_type() {
        let ping =
            |cursor: Option<&'static str>| ClientFrame::Ping { cursor: cursor.map(Cow::from) };
        let auth =
            |authorization: &'static str| ClientFrame::Auth { authorization: authorization.into() };
        for (text, frame) in [
            ("PING", ping(None)),
            (r#"{"type":"PING"}"#, ping(None)),
            (r#"{"cursor":"abc","type":"PING","more":[1]}"#, ping(Some("abc"))),
            (r#"{"type":"AUTH","authorization":"Bearer x"}"#, auth("Bearer x")),
            (r#"{"type":"\u0041UTH","authorization":"a\"b"}"#, auth("a\"b")),
            (r#"{"type":"AUTH"}"#, ClientFrame::Other),
            (r#"{"type":"AUTH","authorization":1}"#, ClientFrame::Other),
            (r#"{"type":"ping"}"#, ClientFrame::Other),
            ("ping", ClientFrame::Other),
            ("", ClientFrame::Other),
        ] {
            assert_eq!(ClientFrame::parse(text), frame, "{text}");
        }
    }

    #[test]
    fn only_a_token_may_be_longer_than_1024_bytes() {
        let of = |kind: &str, length: usize| {
            let text = format!(r#"{{"type":"{kind}","authorization":""}}"#);
            format!(r#"{{"type":"{kind}","authorization":"{}"}}"#, "x".repeat(length - text.len()))
        };
        assert!(matches!(ClientFrame::parse(&of("AUTH", 9_000)), ClientFrame::Auth { .. }));
        assert!(matches!(ClientFrame::parse(&of("PING", 1_024)), ClientFrame::Ping { .. }));
        assert_eq!(ClientFrame::parse(&of("PING", 1_025)), ClientFrame::TooLarge);
        assert_eq!(ClientFrame::parse(&of("WHAT", 1_025)), ClientFrame::TooLarge);
    }
}
