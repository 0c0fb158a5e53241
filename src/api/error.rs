//! The one place where an error becomes a status, a code and a problem body (RFC 9457).

use crate::domain::expression::{Excess, ExpressionError};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Makes the table of codes: variant, name on the wire, HTTP status, title, and what to do about
/// it.
macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $title:literal $help:literal;)*) => {
        /// A stable error code (contract, "Errors").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// Every code, in the order of the contract.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> StatusCode {
                let status: u16 = match self { $(Code::$variant => $status,)* };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// One short line that is the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// What it means and what to do, for the page behind `type`.
            pub fn help(self) -> &'static str {
                match self { $(Code::$variant => $help,)* }
            }
        }
    };
}

codes! {
    MalformedJson "MALFORMED_JSON" 400 "The body is not JSON" "The request body could not be read as JSON text (RFC 8259) in UTF-8. The detail names the line and column. Send the body through a JSON serialiser instead of building it by hand.";
    ConflictingParameter "CONFLICTING_PARAMETER" 400 "A parameter was given twice with different values" "The token, the instance or another parameter came more than once (header, query, subprotocol) and the values differ, or a subprotocol carries a token without herald.v1. Send each in one place.";
    InstanceRequired "INSTANCE_REQUIRED" 400 "The instance is missing" "Name the instance in the header or the query parameter `instance`.";
    TokenMissing "TOKEN_MISSING" 401 "The token is missing" "Send `Authorization: Bearer <JWT>`, the query parameter `authorization`, or in browsers the subprotocols herald.v1 and bearer.<JWT>.";
    TokenInvalid "TOKEN_INVALID" 401 "The token was not accepted" "The signature, the issuer, the audience or the form of the token is wrong, or it is not valid yet. Fetch a new token; if that fails too, compare the signing key and the claims with this server's settings.";
    TokenExpired "TOKEN_EXPIRED" 401 "The token has expired" "Its `exp` is more than the leeway ago. Fetch a new token and try again.";
    TokenRevoked "TOKEN_REVOKED" 401 "The token was revoked" "An administrator revoked it. Sign in again.";
    RoleRequired "ROLE_REQUIRED" 403 "The token lacks a role" "The detail names the role. Roles do not imply one another.";
    InstanceForbidden "INSTANCE_FORBIDDEN" 403 "The token is not valid in this instance" "The token's `instances` (or `instance`) claim does not hold this instance.";
    InstanceDisabled "INSTANCE_DISABLED" 403 "The instance is disabled" "An operator disabled the instance; nobody connects or publishes until it is enabled again.";
    OriginForbidden "ORIGIN_FORBIDDEN" 403 "Pages of this origin may not use the instance" "The instance lists the origins that browsers may come from, and this one is not among them.";
    PublishDenied "PUBLISH_DENIED" 403 "The token may not publish here" "Publishing needs a `component` claim or one of the instance's publishRoles, and the channel's publishRules must allow it.";
    NotFound "NOT_FOUND" 404 "There is nothing here" "No such route or resource. /docs lists the routes.";
    ChannelNotFound "CHANNEL_NOT_FOUND" 404 "There is no such channel" "Create it with POST /v1/channels, or write user: or group: if you meant a user or a group.";
    InstanceNotFound "INSTANCE_NOT_FOUND" 404 "There is no such instance" "Only a token that is valid everywhere is told so.";
    RequestTimeout "REQUEST_TIMEOUT" 408 "The request took too long to come" "The head of a request has some seconds, and its body a least rate after that. Nothing was done. Send the request again, in one go.";
    ChannelExists "CHANNEL_EXISTS" 409 "A channel of this name exists" "Change it with PUT, or choose another name.";
    InstanceExists "INSTANCE_EXISTS" 409 "An instance of this id exists" "Change it with PUT, or choose another id.";
    ChannelDisabled "CHANNEL_DISABLED" 409 "The channel is disabled" "Enable it before publishing to it. A bare word that names a disabled channel never falls back to the user of that name.";
    IdReused "ID_REUSED" 409 "The id was used for another message" "Use a new id for every new message and the same id only to repeat the very same request.";
    AlreadyDecided "ALREADY_DECIDED" 409 "The quota request is decided" "A request is approved or denied once. File a new one.";
    VersionStale "VERSION_STALE" 412 "Somebody changed it meanwhile" "Read it again, apply your change to what you read, and send it with the new ETag in If-Match.";
    PayloadTooLarge "PAYLOAD_TOO_LARGE" 413 "The message is over its quota" "limit and actual are in bytes, without white space outside strings. Send less, or request an increase with POST /v1/quota-requests.";
    BodyTooLarge "BODY_TOO_LARGE" 413 "The request body is too large" "limit is in bytes: 64 KiB, and for a batch 1 MiB, unless the operator of this server chose otherwise.";
    JsonRequired "JSON_REQUIRED" 415 "The body must be JSON" "Send `Content-Type: application/json`.";
    InvalidRequest "INVALID_REQUEST" 422 "The request does not have the right shape" "errors lists where (a JSON pointer, RFC 6901, or the parameter's name) and why. Unknown fields are refused too, so that a typing error is never ignored.";
    ExpressionInvalid "EXPRESSION_INVALID" 422 "The expression was not accepted" "position is where it is wrong, in bytes from its start, and reason says why. It is CEL over user, groups, roles, claims and connection, at most 512 bytes; docs/expressions.md has the language and twenty examples. limit and actual tell that all expressions of the instance together would cost too much.";
    TlsRequired "TLS_REQUIRED" 426 "Only TLS is served" "Use https and wss. The proxy listener takes requests only from the configured proxies with X-Forwarded-Proto: https.";
    UpgradeRequired "UPGRADE_REQUIRED" 426 "This route is a WebSocket" "Connect with a WebSocket client (RFC 6455).";
    IfMatchRequired "IF_MATCH_REQUIRED" 428 "The If-Match header is missing" "Send the ETag that you read, so that you change what you saw.";
    RateLimited "RATE_LIMITED" 429 "Too many requests" "Wait for Retry-After seconds. The RateLimit headers tell how much is left.";
    TooManyConnections "TOO_MANY_CONNECTIONS" 429 "Too many connections" "The detail names the limit. Close connections that are not needed, or request an increase.";
    Internal "INTERNAL" 500 "Something broke on our side" "Nothing is known to be wrong with the request. The server's log has the cause under the answer's x-request-id.";
    StoreUnavailable "STORE_UNAVAILABLE" 503 "The database cannot be reached" "Connecting and publishing go on; managing does not. Try again shortly.";
    Overloaded "OVERLOADED" 503 "The server has more to do than it can" "Nothing was sent. Try again shortly.";
    Standby "STANDBY" 503 "This node stands by" "Another node serves in its place, or will in a moment. Nothing was done, unless the detail says that a message may have been sent: then repeat it with the same id. Try again shortly; an address that leads to several nodes leads to the one that is ready.";
}

/// Where in a request something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// A JSON pointer into the body (RFC 6901), or the name of a parameter.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// An error as the client sees it. Its text never holds a token, a payload or the cause of a
/// server's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Decides the status, the type and the title.
    pub code: Code,
    /// One sentence about this occurrence.
    pub detail: String,
    /// The limit that was reached, in the unit of its name.
    pub limit: Option<u64>,
    /// What was asked for, in the same unit.
    pub actual: Option<u64>,
    /// Whole seconds until it is worth trying again; also sent as `Retry-After`.
    pub retry_after_seconds: Option<u64>,
    /// What is wrong with which field.
    pub errors: Vec<FieldError>,
    /// Where an expression is wrong, in bytes from its start, and why.
    pub expression: Option<Box<ExpressionError>>,
}

/// What every layer above the store answers with.
pub type Outcome<T> = Result<T, Problem>;

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            limit: None,
            actual: None,
            retry_after_seconds: None,
            errors: Vec::new(),
            expression: None,
        }
    }

    /// `INVALID_REQUEST` at one place of the body or one parameter.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (pointer, detail) = (pointer.into(), detail.into());
        let mut problem = Self::new(Code::InvalidRequest, format!("{pointer}: {detail}"));
        problem.errors.push(FieldError { pointer, detail });
        problem
    }

    /// `EXPRESSION_INVALID` at one place of the body.
    pub fn expression(pointer: impl Into<String>, error: ExpressionError) -> Self {
        let (pointer, detail) =
            (pointer.into(), format!("{} (at byte {})", error.reason, error.position));
        let mut problem = Self::new(Code::ExpressionInvalid, format!("{pointer}: {detail}"));
        problem.errors.push(FieldError { pointer, detail });
        problem.expression = Some(Box::new(error));
        problem
    }

    /// `EXPRESSION_INVALID` for what all expressions of an instance cost together.
    pub fn too_costly(excess: Excess) -> Self {
        let (limit, actual) = (excess.limit(), excess.actual());
        let cost = match excess {
            Excess::Steps { .. } => "could take so many steps",
            Excess::Bytes { .. } => "would take so many bytes compiled",
        };
        let detail = format!(
            "the expressions of all channels of the instance together {cost}: {actual}; at most {limit} are allowed"
        );
        Self::new(Code::ExpressionInvalid, detail).with_limit(limit, actual)
    }

    /// `STANDBY`, worth trying again at once.
    pub fn standing_by(why: &dyn fmt::Display) -> Self {
        let detail = format!("{why}: it stands by, and nothing was done");
        Self::new(Code::Standby, detail).with_retry_after(Duration::from_secs(1))
    }

    /// Adds the figures concerned.
    pub fn with_limit(mut self, limit: u64, actual: u64) -> Self {
        (self.limit, self.actual) = (Some(limit), Some(actual));
        self
    }

    /// Adds when to try again, rounded up to whole seconds, at least 1.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_seconds = Some(wait.as_millis().div_ceil(1_000).max(1) as u64);
        self
    }

    /// The answer that tells of it.
    pub fn into_response(self) -> HttpResponse {
        HttpResponse::from_error(self)
    }

    /// The whole answer as bytes, for a client whose request cannot be answered otherwise; the last
    /// on its connection.
    pub fn into_last_answer(self) -> Bytes {
        let status = self.code.status();
        self.into_last_answer_as(status)
    }

    /// The last answer on a connection whose request has a head over `most` bytes: 431 (RFC 6585,
    /// section 5), which no request with a whole head gets.
    pub fn head_too_large(most: usize) -> Bytes {
        let detail = format!("the head of the request has more than {most} bytes");
        let problem = Self::new(Code::InvalidRequest, detail);
        problem
            .with_limit(most as u64, most as u64 + 1)
            .into_last_answer_as(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    }

    fn into_last_answer_as(self, status: StatusCode) -> Bytes {
        let mut body = self.body();
        body["status"] = status.as_u16().into();
        let body = body.to_string();
        let retry = self.retry_after_seconds.map(|seconds| format!("retry-after: {seconds}\r\n"));
        let answer = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
             {}content-length: {}\r\ncache-control: no-store\r\n\r\n{body}",
            retry.unwrap_or_default(),
            body.len()
        );
        answer.into()
    }

    /// The problem document as JSON; also what a batch's entries are made of.
    pub fn body(&self) -> serde_json::Value {
        serde_json::json!(ProblemBody {
            r#type: format!("/errors/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            limit: self.limit,
            actual: self.actual,
            retry_after_seconds: self.retry_after_seconds,
            errors: &self.errors,
            position: self.expression.as_ref().map(|error| error.position),
            reason: self.expression.as_ref().map(|error| &*error.reason),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProblemBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            response.insert_header(("WWW-Authenticate", "Bearer"));
        }
        response.body(self.body().to_string())
    }
}
