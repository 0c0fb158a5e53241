//! The problems that groups of operations may answer with, as the OpenAPI document lists them.

use super::error::Code;
use std::collections::BTreeMap;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// An error (RFC 9457), sent as `application/problem+json`.
#[derive(ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "/errors/PAYLOAD_TOO_LARGE",
    "title": "The message is over its quota",
    "status": 413,
    "detail": "the message has 1025 bytes without white space; at most 1024 are allowed",
    "code": "PAYLOAD_TOO_LARGE",
    "limit": 1024,
    "actual": 1025
}))]
#[allow(dead_code, reason = "describes what api::error writes; a test holds the two together")]
pub struct ProblemDocument {
    /// Where this code is explained, on this server.
    r#type: String,
    /// The same for every occurrence of the code.
    title: String,
    /// The HTTP status.
    status: u16,
    /// This occurrence, in one sentence.
    detail: String,
    /// Stable; decide by this.
    code: String,
    /// The limit that was reached.
    limit: Option<u64>,
    /// What was asked for, in the limit's unit.
    actual: Option<u64>,
    /// When it is worth trying again; also in `Retry-After`.
    #[schema(rename = "retryAfterSeconds")]
    retry_after_seconds: Option<u64>,
    /// What is wrong with which field.
    errors: Option<Vec<FieldProblem>>,
    /// Where an expression is wrong, in bytes from its start.
    position: Option<u64>,
    /// Why it is wrong.
    reason: Option<String>,
}

/// One field's part of a problem.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what api::error writes; a test holds the two together")]
pub struct FieldProblem {
    /// A JSON pointer into the body (RFC 6901), or a parameter's name.
    pointer: String,
    /// What is wrong there.
    detail: String,
}

/// Makes a response set out of codes.
macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident: $($code:ident)*;)*) => {$(
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                // Any node may stand by.
                responses_for(&[$(Code::$code,)* Code::Standby])
            }
        }
    )*};
}

problem_sets! {
    /// Of the publishing routes.
    Publishing: MalformedJson ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired
        TokenRevoked RoleRequired InstanceForbidden InstanceDisabled OriginForbidden PublishDenied
        ChannelNotFound InstanceNotFound RequestTimeout ChannelDisabled IdReused PayloadTooLarge BodyTooLarge
        JsonRequired InvalidRequest ExpressionInvalid RateLimited Overloaded;
    /// Of the WebSocket handshake; most are told by a close code instead.
    Connecting: OriginForbidden UpgradeRequired RateLimited TooManyConnections Overloaded;
    /// Of the event stream, which says in HTTP what is wrong.
    Streaming: ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired RoleRequired
        InstanceForbidden InstanceDisabled OriginForbidden InstanceNotFound InvalidRequest RateLimited TooManyConnections
        Overloaded;
    /// Of routes that read, for an instance's administrators.
    Reading: ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired TokenRevoked RoleRequired InstanceForbidden
        InstanceDisabled OriginForbidden NotFound ChannelNotFound InstanceNotFound InvalidRequest StoreUnavailable;
    /// Of routes that look at connections, for an instance's administrators.
    Watching: ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired TokenRevoked RoleRequired InstanceForbidden
        InstanceDisabled OriginForbidden NotFound InstanceNotFound InvalidRequest Overloaded;
    /// Of routes that explain, for an instance's administrators.
    Explaining: MalformedJson ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired
        TokenRevoked RoleRequired InstanceForbidden InstanceDisabled OriginForbidden NotFound ChannelNotFound
        InstanceNotFound RequestTimeout BodyTooLarge JsonRequired InvalidRequest RateLimited Overloaded;
    /// Of routes that make something, for an instance's administrators.
    Creating: MalformedJson ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired
        TokenRevoked RoleRequired InstanceForbidden InstanceDisabled OriginForbidden InstanceNotFound
        RequestTimeout BodyTooLarge JsonRequired InvalidRequest ExpressionInvalid RateLimited StoreUnavailable
        Overloaded;
    /// Of routes that change, for an instance's administrators.
    Changing: MalformedJson ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired
        TokenRevoked RoleRequired InstanceForbidden InstanceDisabled OriginForbidden ChannelNotFound
        InstanceNotFound RequestTimeout VersionStale BodyTooLarge JsonRequired InvalidRequest
        ExpressionInvalid IfMatchRequired RateLimited StoreUnavailable Overloaded;
    /// Of routes that take away something that was read, for an instance's administrators.
    Removing: ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired TokenRevoked RoleRequired
        InstanceForbidden InstanceDisabled OriginForbidden ChannelNotFound InstanceNotFound VersionStale
        InvalidRequest IfMatchRequired RateLimited StoreUnavailable;
    /// Of routes that take something away without a version, for an instance's administrators.
    Deleting: ConflictingParameter InstanceRequired TokenMissing TokenInvalid TokenExpired TokenRevoked RoleRequired
        InstanceForbidden InstanceDisabled OriginForbidden NotFound InstanceNotFound StoreUnavailable;
    /// Of operators' routes that make or decide something.
    Operating: MalformedJson ConflictingParameter TokenMissing TokenInvalid TokenExpired RoleRequired NotFound
        InstanceNotFound RequestTimeout BodyTooLarge JsonRequired InvalidRequest RateLimited StoreUnavailable
        Overloaded;
    /// Of operators' routes that read.
    OperatorsReading: ConflictingParameter TokenMissing TokenInvalid TokenExpired RoleRequired NotFound
        InstanceNotFound InvalidRequest RateLimited StoreUnavailable;
    /// Of operators' routes that take away something that they must have read.
    OperatorsRemoving: ConflictingParameter TokenMissing TokenInvalid TokenExpired RoleRequired InstanceNotFound
        VersionStale InvalidRequest IfMatchRequired RateLimited StoreUnavailable;
    /// Of operators' routes that change something they must have read.
    OperatingOnVersions: MalformedJson ConflictingParameter TokenMissing TokenInvalid TokenExpired
        RoleRequired InstanceNotFound RequestTimeout VersionStale BodyTooLarge JsonRequired InvalidRequest
        IfMatchRequired RateLimited StoreUnavailable Overloaded;
}

fn responses_for(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().as_str().to_owned()).or_default().push(*code);
    }
    let response = |codes: Vec<Code>| {
        let lines = codes.iter().map(|code| format!("`{}`: {}.", code.as_str(), code.title()));
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new()
            .description(lines.collect::<Vec<_>>().join(" "))
            .content("application/problem+json", content)
            .build()
    };
    by_status.into_iter().map(|(status, codes)| (status, response(codes).into())).collect()
}
