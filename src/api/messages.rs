//! Publishing: `POST /v1/messages` and `POST /v1/messages/batch`.

use super::admission::{Publisher, WithBody};
use super::body::{RequestBody, StrictQuery, parse_json};
use super::dry_run::{self, BatchParameters, PublishParameters};
use super::error::{Code, FieldError, Outcome, Problem};
use super::rates::{self, Spent};
use super::receipt::Receipt;
use super::repeats::{self, IdempotencyKey};
use super::{Api, ApiSettings};
use crate::catalog::{ResolveError, Tenant};
use crate::domain::audience::Address;
use crate::domain::channel::{Channel, Slow};
use crate::domain::expression::Facts;
use crate::domain::message::{
    Author, Draft, Exclusion, MAX_EXCLUDED, Message, MessageId, Payload, PayloadError, Reach,
};
use crate::domain::principal::{Principal, UserId};
use crate::relay::rehearsal::Inquiry;
use crate::relay::repeats::{Claim, Ticket};
use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpResponse, post, rt};
use chrono::Utc;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// Most entries of a batch (contract, "Sending").
const MAX_BATCH: usize = 100;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(publish_message).service(publish_batch);
}

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"channel": "ALL", "message": {"hello": "world!"}}))]
pub struct PublishRequest {
    /// Whom it is for: `ALL`; `channel:NAME`, `group:ID` or `user:ID`; or a bare word: the configured channel of that
    /// name if there is one, otherwise the group and the user of that id. Prefer the prefixes.
    #[schema(example = "ALL", min_length = 1, max_length = 136)]
    channel: String,
    /// Any JSON, `null` included. Delivered byte for byte as written, less white space outside strings. At most 1,024
    /// bytes (4,096 for component tokens) unless the instance's or the channel's limits say otherwise; nested at most
    /// 64 deep.
    #[schema(value_type = serde_json::Value)]
    message: Box<RawValue>,
    /// An id of your own, unique in the instance, 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`. The same request with
    /// the same id sends nothing again and is answered as the first one was, with `duplicate: true`, as long as messages
    /// are kept: so a retry is safe. The header `Idempotency-Key` is the same.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "order-7310")]
    pub(super) id: Option<String>,
    /// Who does not get it although it is for them.
    #[serde(default)]
    exclude: Option<ExcludeRequest>,
    /// Only to those of whom this expression is true: CEL over what their tokens say, at most 512 bytes; see
    /// `docs/expressions.md`. Needs a component's token or `REALTIME_ADMIN`.
    #[serde(default)]
    #[schema(max_length = 512, example = "claims.plan == 'pro'")]
    filter: Option<String>,
    /// Seconds that it is worth sending to clients that resume. 0: only to those connected now. Left out, and at most:
    /// as long as messages are kept, 120 unless the server's settings say otherwise.
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

/// A list of messages; each stands alone.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"messages": [{"channel": "ALL", "message": 1}, {"channel": "user:alice", "message": {"a": [2]}}]}))]
pub struct BatchRequest {
    /// 1 to 100 messages, published in this order.
    #[schema(value_type = Vec<PublishRequest>, min_items = 1, max_items = 100)]
    messages: Vec<Entry>,
}

/// One message of a batch.
#[derive(Debug)]
enum Entry {
    /// As it should be.
    Read(PublishRequest),
    /// Of a batch in which not all are: to be read by itself, so that a bad one fails alone.
    Raw(Box<RawValue>),
}

/// A batch in which all are as they should be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoodBatch {
    messages: Vec<PublishRequest>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(Self::Raw)
    }
}

impl Entry {
    fn read(self) -> Outcome<PublishRequest> {
        match self {
            Self::Read(request) => Ok(request),
            Self::Raw(raw) => parse_json(raw.get()),
        }
    }
}

impl RequestBody for PublishRequest {}

impl RequestBody for BatchRequest {
    fn limit(settings: &ApiSettings) -> usize {
        settings.batch_body_bytes
    }

    fn parse(text: &str) -> Outcome<Self> {
        // Nearly always all entries are good, and then one reading does.
        match serde_json::from_str::<GoodBatch>(text) {
            Ok(good) => Ok(Self { messages: good.messages.into_iter().map(Entry::Read).collect() }),
            Err(_) => parse_json(text),
        }
    }
}

/// One answer for each message, in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchResponse {
    /// Each is a receipt with `status` 202, or a problem with its `status`, `code` and `detail`.
    #[schema(value_type = Vec<Object>)]
    results: Vec<BatchResult>,
}

/// What became of one message of a batch.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "nearly all are taken: a box for each would cost more than the room")]
enum BatchResult {
    Taken {
        status: u16,
        #[serde(flatten)]
        receipt: Receipt,
    },
    Refused(serde_json::Value),
}

/// Publish a message.
///
/// Everyone who is connected and whom the message is for gets it. The answer tells how many connections that are. With
/// `dryRun` nobody gets it, and the answer tells who would.
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
    let body = key.put_into(body)?;
    let Spent { remaining, outcome } = rates::spend(&api, &admission);
    let receipt = match outcome {
        Ok(()) => publish(&api, &admission, body, mode).await,
        Err(problem) => Err(problem),
    };
    Ok(rates::with_headers(receipt.map_or_else(Problem::into_response, Receipt::into_response), &remaining))
}

/// Publish up to 100 messages.
///
/// The entries are published in order, and each spends one of the rate limit; a bad entry fails alone.
#[utoipa::path(
    tag = "Messages",
    params(BatchParameters),
    request_body = BatchRequest,
    responses((status = 200, description = "One result for each entry.", body = BatchResponse), super::responses::Publishing)
)]
#[post("/v1/messages/batch")]
pub async fn publish_batch(
    admitted: WithBody<Publisher, BatchRequest>,
    parameters: StrictQuery<BatchParameters>,
    key: IdempotencyKey,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission, body } = admitted;
    let mode = if parameters.is_dry_run(&admission.principal)? { Mode::DryRun(None) } else { Mode::Send };
    key.refuse_for_a_batch()?;
    if !(1..=MAX_BATCH).contains(&body.messages.len()) {
        let problem = Problem::invalid("/messages", format!("a batch has 1 to {MAX_BATCH} messages"));
        return Err(problem.with_limit(MAX_BATCH as u64, body.messages.len() as u64));
    }
    let mut results = Vec::with_capacity(body.messages.len());
    let mut left = None;
    for entry in body.messages {
        let Spent { remaining, outcome } = rates::spend(&api, &admission);
        let result = match outcome {
            Ok(()) => publish_entry(&api, &admission, entry, mode).await,
            Err(problem) => Err(problem),
        };
        results.push(result.unwrap_or_else(|problem| BatchResult::Refused(problem.body())));
        left = Some(remaining);
    }
    let response = HttpResponse::Ok().json(BatchResponse { results });
    Ok(match left {
        Some(left) => rates::with_headers(response, &left),
        None => response,
    })
}

async fn publish_entry(api: &Data<Api>, admission: &Publisher, entry: Entry, mode: Mode<'_>) -> Outcome<BatchResult> {
    let receipt = publish(api, admission, entry.read()?, mode).await?;
    Ok(BatchResult::Taken { status: StatusCode::ACCEPTED.as_u16(), receipt })
}

/// What is done with a message.
#[derive(Clone, Copy)]
enum Mode<'a> {
    Send,
    /// Everything but the sending; with what else is asked.
    DryRun(Option<&'a Inquiry>),
}

async fn publish(api: &Data<Api>, admission: &Publisher, request: PublishRequest, mode: Mode<'_>) -> Outcome<Receipt> {
    let draft = request.into_draft(api, &admission.principal)?;
    let Some(id) = draft.id.clone().filter(|_| matches!(mode, Mode::Send)) else {
        return send(api, admission, draft, mode).await;
    };
    // Boxed, as all that few requests need: what a request may need is moved about with it.
    Box::pin(send_once(api, admission, draft, id)).await
}

/// Sends a message unless its id says that it was sent before.
async fn send_once(api: &Data<Api>, admission: &Publisher, draft: Draft, id: MessageId) -> Outcome<Receipt> {
    let same = repeats::fingerprint(&admission.principal.user, &draft);
    match api.relay.claim(&admission.tenant.instance.id, id.as_str(), same).await.map_err(repeats::refusal)? {
        Claim::Repeat(remembered) => Ok(Receipt::repeated(id.as_str(), &remembered)),
        Claim::First(ticket) => {
            let sending = rt::spawn(send_and_keep(api.clone(), admission.clone(), draft, ticket));
            sending.await.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Problem::new(Code::Overloaded, "the server is going away")),
            })
        }
    }
}

/// A task of its own, because a handler ends when its publisher hangs up: what was sent must be remembered all the same,
/// or a retry would send it again. Takes as long as the counting, one second at most.
async fn send_and_keep(api: Data<Api>, admission: Publisher, draft: Draft, ticket: Ticket) -> Outcome<Receipt> {
    let receipt = send(&api, &admission, draft, Mode::Send).await?;
    ticket.keep(receipt.remembered());
    Ok(receipt)
}

async fn send(api: &Api, admission: &Publisher, draft: Draft, mode: Mode<'_>) -> Outcome<Receipt> {
    let started = Instant::now();
    let message = address(&admission.tenant, &admission.principal, draft)?;
    let instance = &admission.tenant.instance.id;
    let published = match mode {
        Mode::Send => api.relay.publish(instance, &message).await,
        Mode::DryRun(_) => api.relay.rehearse(instance, &message).await,
    };
    let published = published.map_err(|error| {
        Problem::new(Code::Overloaded, format!("{error}; nothing was sent")).with_retry_after(Duration::ZERO)
    })?;
    api.metrics.published(started.elapsed());
    let told = match mode {
        Mode::DryRun(Some(inquiry)) => Some(Box::pin(dry_run::tell(api, instance, &message, inquiry)).await?),
        _ => None,
    };
    Ok(Receipt::new(&message, published).telling(told))
}

impl PublishRequest {
    fn into_draft(self, api: &Api, principal: &Principal) -> Outcome<Draft> {
        let address = Address::parse(&self.channel).map_err(|error| Problem::invalid("/channel", error.to_string()))?;
        let ExcludeRequest { users, connections } = self.exclude.unwrap_or_default();
        for (list, length) in [("users", users.len()), ("connections", connections.len())] {
            if length > MAX_EXCLUDED {
                let problem = Problem::invalid(format!("/exclude/{list}"), format!("at most {MAX_EXCLUDED} entries"));
                return Err(problem.with_limit(MAX_EXCLUDED as u64, length as u64));
            }
        }
        let users = users.iter().enumerate().map(|(index, user)| {
            UserId::new(user).map_err(|error| Problem::invalid(format!("/exclude/users/{index}"), error.to_string()))
        });
        let exclude = Exclusion { users: users.collect::<Outcome<_>>()?, connections };
        let window = api.settings.window.as_secs();
        if let Some(ttl) = self.ttl.filter(|ttl| *ttl > window) {
            let problem = Problem::invalid("/ttl", format!("messages are kept for {window} seconds at most"));
            return Err(problem.with_limit(window, ttl));
        }
        let ttl = self.ttl.map(Duration::from_secs);
        let id = self.id.map(MessageId::new).transpose();
        let id = id.map_err(|error| Problem::invalid("/id", error.to_string()))?;
        let filter = self.filter.map(|filter| api.filters.get(&filter, principal)).transpose()?;
        Ok(Draft { id, written: self.channel.into(), address, json: self.message.into(), exclude, filter, ttl })
    }
}

/// Resolves whom a draft is for and holds it to their limits.
fn address(tenant: &Tenant, principal: &Principal, draft: Draft) -> Outcome<Message> {
    let (audiences, channel) = tenant.resolve(&draft.address).map_err(|error| {
        let code = match error {
            ResolveError::Unknown(_) => Code::ChannelNotFound,
            ResolveError::Disabled(_) => Code::ChannelDisabled,
        };
        Problem::new(code, error.to_string())
    })?;
    let facts = Facts::new(principal, None);
    if let Some(channel) = channel.filter(|channel| !channel.publish_rules.decide(&facts).allowed) {
        let detail = format!("the publishRules of the channel {} do not allow it", channel.name);
        return Err(Problem::new(Code::PublishDenied, detail));
    }
    let payload = Payload::from_box(draft.json, quota(tenant, principal, channel)).map_err(too_much)?;
    let reach = Reach { audiences, exclude: draft.exclude, filter: draft.filter };
    Ok(Message {
        id: draft.id.map_or_else(fresh_id, MessageId::into_text),
        author: Author { user: principal.user.clone(), component: principal.component.as_deref().map(Into::into) },
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
    Arc::from(&*Uuid::now_v7().hyphenated().encode_lower(&mut text))
}

/// Bytes that a message may have: by the kind of token, and lowered by the channel.
fn quota(tenant: &Tenant, principal: &Principal, channel: Option<&Channel>) -> usize {
    let limits = &tenant.instance.limits;
    let own = if principal.component.is_some() { limits.component_payload_bytes } else { limits.payload_bytes };
    channel.and_then(|channel| channel.payload_limit).map_or(own, |limit| limit.min(own)) as usize
}

fn too_much(error: PayloadError) -> Problem {
    match error {
        PayloadError::TooLarge { limit, actual } => {
            Problem::new(Code::PayloadTooLarge, error.to_string()).with_limit(limit as u64, actual as u64)
        }
        PayloadError::TooDeep { .. } => Problem {
            errors: vec![FieldError { pointer: "/message".into(), detail: error.to_string() }],
            ..Problem::new(Code::InvalidRequest, format!("/message: {error}"))
        },
    }
}
