//! Where a request says who sends it and which instance it is about: headers, query, subprotocols.

use super::error::{Code, Outcome, Problem};
use crate::auth::strip_bearer;
use crate::relay::connection::SUBPROTOCOL;
use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use url::form_urlencoded;

/// The query parameters that sign a request in; every operation understands them.
pub const SIGN_IN_PARAMETERS: [&str; 2] = ["authorization", "instance"];

const INSTANCE: HeaderName = HeaderName::from_static("instance");
const BEARER_SUBPROTOCOL: &str = "bearer.";

/// What a request was signed in with, unverified. Never printed.
pub struct Credentials {
    /// Without its `Bearer ` prefix.
    pub token: Option<String>,
    /// As written.
    pub instance: Option<String>,
}

impl Credentials {
    /// Reads headers and query. Errors: 400 `CONFLICTING_PARAMETER` where two values differ.
    pub fn read(request: &HttpRequest) -> Outcome<Self> {
        Self::with_tokens(request, Vec::new())
    }

    /// The same, and the subprotocols of a WebSocket handshake. Errors: also for `bearer.…` without `herald.v1`.
    pub fn read_handshake(request: &HttpRequest) -> Outcome<Self> {
        let offered = subprotocols(request);
        let tokens: Vec<String> =
            offered.iter().filter_map(|one| one.strip_prefix(BEARER_SUBPROTOCOL)).map(str::to_owned).collect();
        if !tokens.is_empty() && !offered.iter().any(|one| one == SUBPROTOCOL) {
            let detail = "offer the subprotocol herald.v1 beside bearer.…, so that the answer can select it";
            return Err(Problem::new(Code::ConflictingParameter, detail));
        }
        Self::with_tokens(request, tokens)
    }

    fn with_tokens(request: &HttpRequest, mut tokens: Vec<String>) -> Outcome<Self> {
        let mut instances = headers(request, &INSTANCE);
        tokens.extend(headers(request, &AUTHORIZATION));
        for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()) {
            match &*name {
                "authorization" => tokens.push(value.into_owned()),
                "instance" => instances.push(value.into_owned()),
                _ => {}
            }
        }
        let tokens = tokens.iter().map(|token| strip_bearer(token).to_owned()).collect();
        Ok(Self { token: only("authorization", tokens)?, instance: only("instance", instances)? })
    }
}

/// The one value of a parameter; empty ones count as not given.
pub(super) fn only(name: &str, mut values: Vec<String>) -> Outcome<Option<String>> {
    values.retain(|value| !value.is_empty());
    values.dedup();
    match values.len() {
        0 | 1 => Ok(values.pop()),
        _ => Err(Problem::new(Code::ConflictingParameter, format!("{name} is given twice with different values"))),
    }
}

pub(super) fn headers(request: &HttpRequest, name: &HeaderName) -> Vec<String> {
    request.headers().get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).collect()
}

/// The offered subprotocols (RFC 6455, section 4.1).
fn subprotocols(request: &HttpRequest) -> Vec<String> {
    let values = headers(request, &SEC_WEBSOCKET_PROTOCOL);
    values.iter().flat_map(|value| value.split(',')).map(|one| one.trim().to_owned()).collect()
}
