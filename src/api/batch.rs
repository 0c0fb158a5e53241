//! Publishing many messages with one request: `POST /v1/messages/batch`.

use super::admission::{Publisher, WithBody};
use super::body::{RequestBody, StrictQuery, parse_json};
use super::dry_run::BatchParameters;
use super::error::{Outcome, Problem};
use super::idempotency::IdempotencyKey;
use super::messages::{self, Mode, PublishRequest};
use super::rates::{self, Rates, Spent};
use super::receipt::Receipt;
use super::{Api, ApiSettings};
use crate::domain::message::{Draft, Message};
use crate::relay::LONGEST_RUN;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpResponse, post};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use tokio::task::yield_now;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Above so much time for one entry, others' work goes on before the next: filters are compiled, and
/// `publishRules` asked.
const LONGEST_PIECE: Duration = Duration::from_millis(1);
/// Most entries of a batch (contract, "Sending").
const MAX_BATCH: usize = 100;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(publish_batch);
}

/// A list of messages; each stands alone.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"messages": [{"channel": "ALL", "message": 1}, {"channel": "user:alice", "message": {"a": [2]}}]}))]
pub struct BatchRequest {
    /// 1 to 100 messages, published in this order.
    #[schema(value_type = Vec<PublishRequest>, min_items = 1, max_items = 100)]
    messages: Vec<BatchEntry>,
}

/// One message of a batch.
#[derive(Debug)]
enum BatchEntry {
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

impl<'de> Deserialize<'de> for BatchEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(Self::Raw)
    }
}

impl BatchEntry {
    fn read(self) -> Outcome<PublishRequest> {
        match self {
            Self::Read(request) => Ok(request),
            Self::Raw(raw) => parse_json(raw.get()),
        }
    }
}

impl RequestBody for BatchRequest {
    fn limit(settings: &ApiSettings) -> usize {
        settings.batch_body_bytes
    }

    fn parse(text: &str) -> Outcome<Self> {
        // Nearly always all entries are good, and then one reading does.
        match serde_json::from_str::<GoodBatch>(text) {
            Ok(good) => {
                Ok(Self { messages: good.messages.into_iter().map(BatchEntry::Read).collect() })
            }
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
enum BatchResult {
    Taken {
        status: u16,
        #[serde(flatten)]
        receipt: Receipt,
    },
    Refused(serde_json::Value),
}

/// Publish up to 100 messages.
///
/// The entries are published in order, and each spends one of the rate limit; a bad entry fails
/// alone.
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
    let mode =
        if parameters.is_dry_run(&admission.principal)? { Mode::DryRun(None) } else { Mode::Send };
    key.refuse_for_a_batch()?;
    if !(1..=MAX_BATCH).contains(&body.messages.len()) {
        let problem =
            Problem::invalid("/messages", format!("a batch has 1 to {MAX_BATCH} messages"));
        return Err(problem.with_limit(MAX_BATCH as u64, body.messages.len() as u64));
    }
    let results = Vec::with_capacity(body.messages.len());
    let mut batch = Batch { api: &api, admission: &admission, mode, results, run: Vec::new() };
    let mut rates = Rates::of(&api, &admission, body.messages.len() as u32);
    let mut left = None;
    for entry in body.messages {
        let Spent { remaining, outcome } = rates.spend();
        batch.publish(outcome.map(|()| entry)).await;
        left = Some(remaining);
    }
    let response = HttpResponse::Ok().json(BatchResponse { results: batch.finish().await });
    Ok(match left {
        Some(left) => rates::with_headers(response, &left),
        None => response,
    })
}

/// A batch on its way. Entries in a row that are simply to be sent are sent in one go; whatever
/// else an entry needs comes after those before it.
struct Batch<'a> {
    api: &'a Data<Api>,
    admission: &'a Publisher,
    mode: Mode<'a>,
    /// Of the entries up to the run.
    results: Vec<BatchResult>,
    /// Those that wait to be sent together.
    run: Vec<Message>,
}

/// What is to be done with an entry.
enum EntryStep {
    /// Sent, with those before it.
    Join(Message),
    /// Something else, or sent only if it was not sent before.
    Alone(Draft),
}

impl Batch<'_> {
    async fn publish(&mut self, entry: Outcome<BatchEntry>) {
        let started = Instant::now();
        let step = entry.and_then(|entry| self.read(entry));
        if started.elapsed() >= LONGEST_PIECE {
            yield_now().await;
        }
        match step {
            Ok(EntryStep::Join(message)) => {
                self.run.push(message);
                if self.run.len() == LONGEST_RUN {
                    self.send_run().await;
                }
            }
            Ok(EntryStep::Alone(draft)) => {
                self.send_run().await;
                let outcome = messages::publish(self.api, self.admission, draft, self.mode).await;
                self.results.push(outcome.into());
            }
            Err(problem) => {
                self.send_run().await;
                self.results.push(Err(problem).into());
            }
        }
    }

    async fn finish(mut self) -> Vec<BatchResult> {
        self.send_run().await;
        self.results
    }

    fn read(&self, entry: BatchEntry) -> Outcome<EntryStep> {
        let draft = entry.read()?.into_draft(self.api, self.admission)?;
        match (self.mode, &draft.id) {
            (Mode::Send, None) => messages::address(self.admission, draft).map(EntryStep::Join),
            _ => Ok(EntryStep::Alone(draft)),
        }
    }

    async fn send_run(&mut self) {
        if !self.run.is_empty() {
            let run = std::mem::take(&mut self.run);
            let receipts = messages::send_run(self.api, self.admission, run).await;
            self.results.extend(receipts.into_iter().map(Into::into));
        }
    }
}

impl From<Outcome<Receipt>> for BatchResult {
    fn from(outcome: Outcome<Receipt>) -> Self {
        match outcome {
            Ok(receipt) => Self::Taken { status: StatusCode::ACCEPTED.as_u16(), receipt },
            Err(problem) => Self::Refused(problem.body()),
        }
    }
}
