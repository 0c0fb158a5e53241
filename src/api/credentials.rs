//! Where a request says who sends it and which instance it is about: headers, query, subprotocols.

use super::error::{Code, Outcome, Problem};
use crate::auth::strip_bearer;
use crate::socket::SUBPROTOCOL;
use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use smallvec::SmallVec;
use std::borrow::Cow;
use url::form_urlencoded;

/// The query parameters that sign a request in; every operation understands them.
pub const SIGN_IN_PARAMETERS: [&str; 2] = ["authorization", "instance"];

const INSTANCE: HeaderName = HeaderName::from_static("instance");
const BEARER_SUBPROTOCOL: &str = "bearer.";

/// What a parameter is given: hardly ever more than one value.
type Values<'a> = SmallVec<[Cow<'a, str>; 2]>;

/// What a request was signed in with, unverified. Never printed.
pub struct Credentials<'a> {
    /// Without its `Bearer ` prefix.
    pub token: Option<Cow<'a, str>>,
    /// As written.
    pub instance: Option<Cow<'a, str>>,
}

impl<'a> Credentials<'a> {
    /// Reads headers and query. Errors: 400 `CONFLICTING_PARAMETER` where two values differ.
    pub fn read(request: &'a HttpRequest) -> Outcome<Self> {
        Self::with_tokens(request, SmallVec::new())
    }

    /// The same, and the subprotocols of a WebSocket handshake. Errors: also for `bearer.…` without
    /// `herald.v1`.
    pub fn read_handshake(request: &'a HttpRequest) -> Outcome<Self> {
        let offered = subprotocols(request);
        let bearers = offered.iter().filter_map(|one| one.strip_prefix(BEARER_SUBPROTOCOL));
        let tokens: Values<'_> = bearers.map(|token| Cow::Owned(token.to_owned())).collect();
        if !tokens.is_empty() && !offered.iter().any(|one| one == SUBPROTOCOL) {
            let detail =
                "offer the subprotocol herald.v1 beside bearer.…, so that the answer can select it";
            return Err(Problem::new(Code::ConflictingParameter, detail));
        }
        Self::with_tokens(request, tokens)
    }

    fn with_tokens(request: &'a HttpRequest, offered: Values<'a>) -> Outcome<Self> {
        let (mut tokens, mut instances) = (offered, Values::new());
        tokens.extend(headers(request, AUTHORIZATION));
        instances.extend(headers(request, INSTANCE));
        for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()) {
            match &*name {
                "authorization" => tokens.push(value),
                "instance" => instances.push(value),
                _ => {}
            }
        }
        let tokens = tokens.into_iter().map(|token| match token {
            Cow::Borrowed(token) => Cow::Borrowed(strip_bearer(token)),
            Cow::Owned(token) => Cow::Owned(strip_bearer(&token).to_owned()),
        });
        Ok(Self { token: only("authorization", tokens)?, instance: only("instance", instances)? })
    }
}

/// The one value of a parameter; empty ones count as not given.
pub(super) fn only<'a>(
    name: &str,
    values: impl IntoIterator<Item = Cow<'a, str>>,
) -> Outcome<Option<Cow<'a, str>>> {
    let mut values = values.into_iter().filter(|value| !value.is_empty());
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(Problem::new(
            Code::ConflictingParameter,
            format!("{name} is given twice with different values"),
        ));
    }
    Ok(Some(first))
}

/// The values of a header, without white space around them; what is not UTF-8 in them is replaced.
pub(super) fn headers<'a>(
    request: &'a HttpRequest,
    name: HeaderName,
) -> impl Iterator<Item = Cow<'a, str>> {
    request.headers().get_all(name).map(|value| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text.trim()),
        Err(_) => Cow::Owned(String::from_utf8_lossy(value.as_bytes()).trim().to_owned()),
    })
}

/// The offered subprotocols (RFC 6455, section 4.1).
fn subprotocols(request: &HttpRequest) -> Vec<String> {
    let split =
        |value: Cow<'_, str>| value.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>();
    headers(request, SEC_WEBSOCKET_PROTOCOL).flat_map(split).collect()
}
