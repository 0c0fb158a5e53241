//! What a request says: its JSON body and its query, read strictly and within limits.

use super::credentials::SIGN_IN_PARAMETERS;
use super::error::{Code, Outcome, Problem};
use super::patience::Patience;
use super::{Api, ApiSettings, transport};
use crate::domain::instance::InstanceId;
use crate::transport::{Exchange, Holder, TooMuchUnfinished};
use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use actix_web::{FromRequest, HttpRequest};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use std::future::{Ready, ready};
use std::ops::Deref;
use std::time::Duration;
use url::form_urlencoded;

/// Longest text of the client's own that an error repeats; a token is longer, and never shown.
const MOST_REPEATED: usize = 64;

/// What a body that comes in pieces holds at first, in bytes, unless it announced less.
const FIRST_ROOM: usize = 4 << 10;

/// When to try again where unfinished requests hold too much: they come and go within seconds.
const RETRY: Duration = Duration::from_secs(1);

/// A JSON body, and how large it may be.
pub trait RequestBody: DeserializeOwned + 'static {
    /// In bytes.
    fn limit(settings: &ApiSettings) -> usize {
        settings.body_bytes
    }

    /// Reads it from its text. Errors: those of [`parse_json`].
    fn parse(text: &str) -> Outcome<Self> {
        parse_json(text)
    }

    /// What a request without any body means; `None` where a body is required.
    fn absent() -> Option<Self> {
        None
    }
}

/// Whether a request announces a body (RFC 9112, section 6.3).
pub fn has_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(CONTENT_TYPE)
}

/// Reads a JSON body; one that is too large is refused from `Content-Length`, and while it streams.
/// `instance` is whom the caller was let in to. Errors: 415 `JSON_REQUIRED`, 413 `BODY_TOO_LARGE`,
/// 408 `REQUEST_TIMEOUT`, those of a `TooMuchUnfinished`, and those of
/// [`parse_json`].
pub async fn read_json<T: RequestBody>(
    request: &HttpRequest,
    mut payload: Payload,
    api: &Api,
    instance: Option<&InstanceId>,
) -> Outcome<T> {
    let limit = T::limit(&api.settings);
    let announced = announced(request, limit)?;
    let _reading = request.conn_data::<Exchange>().map(Exchange::reading_body);
    let mut patience = Patience::new(api.settings.least_rate);
    let first = patience.next_piece(&mut payload, 0).await?.unwrap_or_default();
    if announced == Some(first.len()) {
        return parse_bytes(&first);
    }
    let address = transport::client_address(request, &api.settings.trusted_proxies)?;
    let mut body = Vec::new();
    let instance = instance.map(|instance| instance.clone().into_text());
    let mut holding = api.unfinished.begin(Some(address), instance);
    let mut next = Some(first);
    while let Some(piece) = next {
        let length = body.len() + piece.len();
        if length > limit {
            return Err(too_large(limit, length));
        }
        if length > body.capacity() {
            let room = room_for(length, announced.unwrap_or(limit));
            holding.grow_to(room)?;
            body.reserve_exact(room - body.len());
        }
        body.extend_from_slice(&piece);
        next = patience.next_piece(&mut payload, length).await?;
    }
    request.conn_data::<Exchange>().inspect(|exchange| exchange.has_read_body());
    parse_bytes(&body)
}

/// What a body takes that has so many bytes by now and may have `most` in the end: twice as much,
/// so that it is seldom moved, and all of it once half of it is there.
fn room_for(length: usize, most: usize) -> usize {
    let room = FIRST_ROOM.max(2 * length);
    if room < most { room } else { most.max(length) }
}

/// The length that a JSON body announces, if it does. Errors: 415 and 413 of [`read_json`].
fn announced(request: &HttpRequest, limit: usize) -> Outcome<Option<usize>> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let kind = header(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            Code::JsonRequired,
            "send the body with the content type application/json",
        ));
    }
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    match length {
        Some(length) if length > limit => Err(too_large(limit, length)),
        length => Ok(length),
    }
}

fn too_large(limit: usize, actual: usize) -> Problem {
    let detail = format!("the body has {actual} bytes or more; at most {limit} are allowed");
    Problem::new(Code::BodyTooLarge, detail).with_limit(limit as u64, actual as u64)
}

impl From<TooMuchUnfinished> for Problem {
    fn from(error: TooMuchUnfinished) -> Self {
        let code = match error.holder {
            Holder::Address => Code::RateLimited,
            Holder::Instance | Holder::Server => Code::Overloaded,
        };
        let problem = Self::new(code, error.to_string()).with_retry_after(RETRY);
        problem.with_limit(error.bound as u64, error.actual as u64)
    }
}

fn parse_bytes<T: RequestBody>(body: &[u8]) -> Outcome<T> {
    match std::str::from_utf8(body) {
        Ok(text) => T::parse(text),
        Err(error) => {
            let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
            Err(Problem::new(Code::MalformedJson, detail))
        }
    }
}

/// Reads a JSON text. Errors: 400 `MALFORMED_JSON` with line and column; 422 `INVALID_REQUEST` with
/// a pointer.
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Outcome<T> {
    // Keeping the path at every step costs as much as reading: only what is refused is read again
    // with it.
    serde_json::from_str(text)
        .map_err(|error| refusal::<T>(text).unwrap_or_else(|| malformed(&error)))
}

/// Why a text is not what it should be; none where it is.
fn refusal<T: DeserializeOwned>(text: &str) -> Option<Problem> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return reader.end().err().map(|error| malformed(&error));
    };
    Some(match (error.inner().classify(), serde_json::from_str::<IgnoredAny>(text)) {
        (Category::Data, Ok(_)) => {
            Problem::invalid(pointer(error.path()), plain(&error.inner().to_string()))
        }
        (_, Err(whole)) => malformed(&whole),
        _ => malformed(error.inner()),
    })
}

fn malformed(error: &serde_json::Error) -> Problem {
    let detail =
        format!("the body is not JSON at line {}, column {}", error.line(), error.column());
    Problem::new(Code::MalformedJson, detail)
}

/// RFC 6901.
fn pointer(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text += &format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                text += &format!("/{}", shown(key).replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => {}
        }
    }
    text
}

/// serde's sentence without the client's own values and without its place in the text.
fn plain(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if let Some(rest) = message
        .strip_prefix("unknown field `")
        .or_else(|| message.strip_prefix("unknown variant `"))
    {
        let known = rest.rsplit_once("`, ").map_or("", |(_, known)| known);
        let known = rest.split_once("`, expected ").map_or(known, |(_, known)| known);
        return format!("unknown; expected {known}");
    }
    for what in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let (true, Some((found, expected))) =
            (message.starts_with(what), message.rsplit_once(", expected "))
        {
            let found = found[what.len()..].split(['"', '`']).next().unwrap_or("").trim_end();
            return format!("expected {expected}, found {found}");
        }
    }
    message.to_owned()
}

fn shown(text: &str) -> &str {
    if text.len() <= MOST_REPEATED { text } else { "…" }
}

/// The query of a request: unknown parameters are refused, and so is one that is given twice with
/// different values.
pub struct StrictQuery<T>(T);

impl<T: DeserializeOwned> StrictQuery<T> {
    /// Reads it. Errors: 422 `INVALID_REQUEST`, 400 `CONFLICTING_PARAMETER`.
    pub fn read(request: &HttpRequest) -> Outcome<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()).into_owned()
        {
            match pairs.iter().find(|(known, _)| *known == name) {
                _ if SIGN_IN_PARAMETERS.contains(&name.as_str()) => {}
                None => pairs.push((name, value)),
                Some((_, known)) if *known == value => {}
                Some(_) => {
                    let detail = format!("{} is given twice with different values", shown(&name));
                    return Err(Problem::new(Code::ConflictingParameter, detail));
                }
            }
        }
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let reader = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text.as_bytes()));
        serde_path_to_error::deserialize(reader).map(Self).map_err(|error| {
            let name = pointer(error.path());
            Problem::invalid(name.trim_start_matches('/'), plain(&error.inner().to_string()))
        })
    }

    /// The parameters.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for StrictQuery<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: DeserializeOwned> FromRequest for StrictQuery<T> {
    type Error = Problem;
    type Future = Ready<Outcome<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::read(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only read")]
        list: Vec<u8>,
        raw: Box<RawValue>,
    }

    fn refusal(text: &str) -> (Code, String) {
        let problem = parse_json::<Sample>(text).unwrap_err();
        (
            problem.code,
            problem
                .errors
                .first()
                .map_or(problem.detail, |error| format!("{} {}", error.pointer, error.detail)),
        )
    }

    #[test]
    fn raw_parts_keep_their_bytes() {
        assert_eq!(
            parse_json::<Sample>("{\"list\":[1],\"raw\": [1.0, 2] }").unwrap().raw.get(),
            "[1.0, 2]"
        );
    }

    #[test]
    fn a_wrong_value_is_told_by_pointer_and_never_repeated() {
        let secret = "eyJhbGciOiJIUzI1NiJ9.".repeat(4);
        let (code, text) = refusal(&format!("{{\"list\":[1,\"{secret}\"],\"raw\":1}}"));
        assert_eq!(
            (code, text.as_str()),
            (Code::InvalidRequest, "/list/1 expected u8, found string")
        );
        let (_, text) = refusal(&format!("{{\"list\":[],\"raw\":1,\"{secret}\":1}}"));
        assert_eq!(text, "/… unknown; expected `list` or `raw`");
        assert_eq!(refusal("{\"list\":[]}").1, " missing field `raw`");
        assert_eq!(refusal("{\"list\":[300],\"raw\":1}").1, "/list/0 expected u8, found integer");
    }

    #[test]
    fn what_is_not_json_is_told_by_line_and_column() {
        for text in ["", "{", "{\"list\":[300],\"raw\":1", "{\"list\":[],\"raw\":1}}", "nul"] {
            assert_eq!(refusal(text).0, Code::MalformedJson, "{text}");
        }
    }
}
