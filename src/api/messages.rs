//! Publishing a message: `POST /v1/messages`.

use super::Api;
use super::admission::{Publisher, WithBody};
use super::body::{RequestBody, StrictQuery};
use super::dry_run::{self, Inquiry, PublishParameters};
use super::error::{Code, FieldError, Outcome, Problem};
use super::idempotency::{self, IdempotencyKey};
use super::rates::{self, Rates, Spent};
use super::receipt::Receipt;
use crate::catalog::{ResolveError, Tenant};
use crate::domain::audience::Address;
use crate::domain::channel::{Channel, Slow};
use crate::domain::message::{
    Draft, Exclusion, MAX_EXCLUDED, Message, MessageId, Payload, PayloadError, Reach,
};
use crate::domain::principal::{Principal, UserId};
use crate::relay::{Claim, NotPlaced};
use actix_web::web::Data;
use actix_web::{HttpResponse, post};
use chrono::Utc;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::{NoContext, Timestamp, Uuid};

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(publish_message);
}

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"channel": "ALL", "message": {"hello": "world!"}}))]
pub struct PublishRequest {
    /// Whom it is for: `ALL`; `channel:NAME`, `group:ID` or `user:ID`; or a bare word: the
    /// configured channel of that name if there is one, otherwise the group and the user of that
    /// id. Prefer the prefixes.
    #[schema(example = "ALL", min_length = 1, max_length = 136)]
    channel: String,
    /// Any JSON, `null` included. Delivered byte for byte as written, less white space outside
    /// strings. At most 1,024 bytes (4,096 for component tokens) unless the instance's or the
    /// channel's limits say otherwise; nested at most 64 deep.
    #[schema(value_type = serde_json::Value)]
    message: Box<RawValue>,
    /// An id of your own, unique in the instance, 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`.
    /// The same request with the same id sends nothing again and is answered as the first one was,
    /// with `duplicate: true`, as long as messages are kept: so a retry is safe. The header
    /// `Idempotency-Key` is the same.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "order-7310")]
    id: Option<String>,
    /// Who does not get it although it is for them.
    #[serde(default)]
    exclude: Option<ExcludeRequest>,
    /// Only to those of whom this expression is true: CEL over what their tokens say, at most 512
    /// bytes; see `docs/expressions.md`. Needs a component's token or `REALTIME_ADMIN`.
    #[serde(default)]
    #[schema(max_length = 512, example = "claims.plan == 'pro'")]
    filter: Option<String>,
    /// Seconds that it is worth sending to clients that resume. 0: only to those connected now.
    /// Left out, and at most: as long as messages are kept, 120 unless the server's settings say
    /// otherwise.
    #[serde(default)]
    #[schema(minimum = 0, example = 60)]
    ttl: Option<u64>,
}

/// Receivers to leave out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExcludeRequest {
    /// User ids, at most 100.
    #[serde(default)]
    #[schema(max_items = 100)]
    users: Vec<String>,
    /// Connection ids (`connectionId` of the `CONNECTED` frame), at most 100.
    #[serde(default)]
    #[schema(max_items = 100)]
    connections: Vec<String>,
}

impl RequestBody for PublishRequest {}

/// Publish a message.
///
/// Everyone who is connected and whom the message is for gets it. The answer tells how many
/// connections that are. With `dryRun` nobody gets it, and the answer tells who would.
#[utoipa::path(
    tag = "Messages",
    params(PublishParameters),
    request_body = PublishRequest,
    responses(
        (status = 202, description = "Sent, or counted where `dryRun` was given.", body = Receipt,
            headers(("RateLimit-Policy" = String, description = "The limits that hold."),
                    ("RateLimit" = String, description = "What is left of the tighter one."))),
        super::responses::Publishing,
    )
)]
#[post("/v1/messages")]
pub async fn publish_message(
    admitted: WithBody<Publisher, PublishRequest>,
    parameters: StrictQuery<PublishParameters>,
    key: IdempotencyKey,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission, body } = admitted;
    let inquiry = parameters.into_inner().inquiry(&admission.principal)?;
    let mode = inquiry.as_ref().map_or(Mode::Send, |inquiry| Mode::DryRun(Some(inquiry)));
    let body = PublishRequest { id: key.or(body.id)?, ..body };
    let Spent { remaining, outcome } = Rates::of(&api, &admission, 1).spend();
    let receipt = match outcome.and_then(|()| body.into_draft(&api, &admission)) {
        Ok(draft) => publish(&api, &admission, draft, mode).await,
        Err(problem) => Err(problem),
    };
    Ok(rates::with_headers(
        receipt.map_or_else(Problem::into_response, Receipt::into_response),
        &remaining,
    ))
}

/// What is done with a message.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// It is sent.
    Send,
    /// Everything but the sending; with what else is asked.
    DryRun(Option<&'a Inquiry>),
}

/// Publishes one message by itself. Errors: those of [`address`], of its id, and 503 `OVERLOADED`.
pub async fn publish(
    api: &Data<Api>,
    admission: &Publisher,
    draft: Draft,
    mode: Mode<'_>,
) -> Outcome<Receipt> {
    let Some(id) = draft.id.clone().filter(|_| matches!(mode, Mode::Send)) else {
        return send(api, admission, draft, mode).await;
    };
    // Boxed, as all that few requests need: what a request may need is moved about with it.
    Box::pin(send_once(api, admission, draft, id)).await
}

/// Sends a message unless its id says that it was sent before. What has its place is remembered with
/// it: a publisher that hangs up before the answer may ask again.
async fn send_once(
    api: &Api,
    admission: &Publisher,
    draft: Draft,
    id: MessageId,
) -> Outcome<Receipt> {
    let digest = idempotency::digest(&admission.principal.user, &draft);
    let instance = &admission.tenant.instance.id;
    let claim =
        api.relay.claim(instance, id.as_str(), digest).await.map_err(idempotency::refusal)?;
    let published = match claim {
        Claim::Repeat(head) => api.relay.repeat(head).await,
        Claim::First(claimed) => {
            let started = Instant::now();
            let message = address(admission, draft)?;
            let published = api.relay.publish(instance, message, Some(claimed)).await;
            api.metrics.published(started.elapsed());
            published.map_err(unplaced)?
        }
    };
    Ok(Receipt::new(published))
}

async fn send(api: &Api, admission: &Publisher, draft: Draft, mode: Mode<'_>) -> Outcome<Receipt> {
    let started = Instant::now();
    let message = address(admission, draft)?;
    let instance = &admission.tenant.instance.id;
    match mode {
        Mode::Send => {
            let published = api.relay.publish(instance, message, None).await.map_err(unplaced)?;
            api.metrics.published(started.elapsed());
            Ok(Receipt::new(published))
        }
        Mode::DryRun(inquiry) => Box::pin(dry_run::run(api, instance, &message, inquiry)).await,
    }
}

/// Sends messages that need nothing else, in their order; see `Relay::publish_run`. Each took as
/// long as all of them.
pub async fn send_run(
    api: &Api,
    admission: &Publisher,
    messages: Vec<Message>,
) -> Vec<Outcome<Receipt>> {
    let started = Instant::now();
    let published = api.relay.publish_run(&admission.tenant.instance.id, messages).await;
    let took = started.elapsed();
    let receipt = |published: Result<_, _>| {
        let published = published.map_err(unplaced)?;
        api.metrics.published(took);
        Ok(Receipt::new(published))
    };
    published.into_iter().map(receipt).collect()
}

fn unplaced(error: NotPlaced) -> Problem {
    match error {
        NotPlaced::Reused => Problem::new(Code::IdReused, error.to_string()),
        NotPlaced::Overloaded | NotPlaced::NotSent => {
            Problem::new(Code::Overloaded, format!("{error}; nothing was sent"))
                .with_retry_after(Duration::ZERO)
        }
        NotPlaced::NotHeld => Problem::standing_by(&error),
        NotPlaced::TooLate => {
            let detail = format!("{error}; it may have been sent: repeat it with the same id");
            Problem::new(Code::Standby, detail).with_retry_after(Duration::from_secs(1))
        }
        NotPlaced::Unknown => {
            let detail = format!("{error}; it may have been sent: repeat it with the same id");
            Problem::new(Code::Overloaded, detail).with_retry_after(Duration::from_secs(1))
        }
    }
}

impl PublishRequest {
    /// What it asks for, where it is well formed. Errors: 403 `ROLE_REQUIRED` for a filter, 422
    /// `INVALID_REQUEST` and `EXPRESSION_INVALID` with a pointer.
    pub fn into_draft(self, api: &Api, admission: &Publisher) -> Outcome<Draft> {
        let address = Address::parse(&self.channel)
            .map_err(|error| Problem::invalid("/channel", error.to_string()))?;
        let ExcludeRequest { users, connections } = self.exclude.unwrap_or_default();
        for (list, length) in [("users", users.len()), ("connections", connections.len())] {
            if length > MAX_EXCLUDED {
                let problem = Problem::invalid(
                    format!("/exclude/{list}"),
                    format!("at most {MAX_EXCLUDED} entries"),
                );
                return Err(problem.with_limit(MAX_EXCLUDED as u64, length as u64));
            }
        }
        let users = users.iter().enumerate().map(|(index, user)| {
            UserId::new(user).map_err(|error| {
                Problem::invalid(format!("/exclude/users/{index}"), error.to_string())
            })
        });
        let exclude = Exclusion { users: users.collect::<Outcome<_>>()?, connections };
        let window = api.settings.window.as_secs();
        if let Some(ttl) = self.ttl.filter(|ttl| *ttl > window) {
            let problem =
                Problem::invalid("/ttl", format!("messages are kept for {window} seconds at most"));
            return Err(problem.with_limit(window, ttl));
        }
        let ttl = self.ttl.map(Duration::from_secs);
        let id = self.id.map(MessageId::new).transpose();
        let id = id.map_err(|error| Problem::invalid("/id", error.to_string()))?;
        let Publisher { principal, tenant, .. } = admission;
        let filter = |text: String| api.filters.get(&text, &tenant.instance.id, principal);
        let filter = self.filter.map(filter).transpose()?;
        Ok(Draft {
            id,
            written: self.channel.into(),
            address,
            json: self.message.into(),
            exclude,
            filter,
            ttl,
        })
    }
}

/// Resolves whom a draft is for and holds it to their limits. Errors: 404 `CHANNEL_NOT_FOUND`, 409
/// `CHANNEL_DISABLED`, 403 `PUBLISH_DENIED`, 413 `PAYLOAD_TOO_LARGE`, and 422 for a message that is
/// nested too deep.
pub fn address(admission: &Publisher, draft: Draft) -> Outcome<Message> {
    let Publisher { principal, author, tenant, rights } = admission;
    let (audiences, channel) = tenant.resolve(&draft.address).map_err(|error| {
        let code = match error {
            ResolveError::Unknown(_) => Code::ChannelNotFound,
            ResolveError::Disabled(_) => Code::ChannelDisabled,
        };
        Problem::new(code, error.to_string())
    })?;
    if let Some(channel) = channel.filter(|channel| !rights.allow(principal, channel)) {
        let detail = format!("the publishRules of the channel {} do not allow it", channel.name);
        return Err(Problem::new(Code::PublishDenied, detail));
    }
    let payload =
        Payload::from_box(draft.json, quota(tenant, principal, channel)).map_err(too_much)?;
    let reach = Reach { audiences, exclude: draft.exclude, filter: draft.filter };
    Ok(Message {
        id: draft.id.map_or_else(fresh_id, MessageId::into_text),
        author: author.clone(),
        address: draft.written,
        reach: Arc::new(reach),
        slow: channel.map_or_else(Slow::default, |channel| channel.slow),
        time: Utc::now(),
        ttl: draft.ttl,
        payload,
    })
}

/// An id for a message whose publisher chose none.
fn fresh_id() -> Arc<str> {
    let mut text = Uuid::encode_buffer();
    // Without a counter that all processors share: the order of messages is their cursors'.
    Arc::from(&*Uuid::new_v7(Timestamp::now(NoContext)).hyphenated().encode_lower(&mut text))
}

/// Bytes that a message may have: by the kind of token, and lowered by the channel.
fn quota(tenant: &Tenant, principal: &Principal, channel: Option<&Channel>) -> usize {
    let limits = &tenant.instance.limits;
    let own = if principal.component.is_some() {
        limits.component_payload_bytes
    } else {
        limits.payload_bytes
    };
    channel.and_then(|channel| channel.payload_limit).map_or(own, |limit| limit.min(own)) as usize
}

fn too_much(error: PayloadError) -> Problem {
    match error {
        PayloadError::TooLarge { limit, actual } => {
            Problem::new(Code::PayloadTooLarge, error.to_string())
                .with_limit(limit as u64, actual as u64)
        }
        PayloadError::TooDeep { .. } => Problem {
            errors: vec![FieldError { pointer: "/message".into(), detail: error.to_string() }],
            ..Problem::new(Code::InvalidRequest, format!("/message: {error}"))
        },
    }
}
