//! What became of a message: `GET /v1/messages/{id}`.

use super::Api;
use super::admission::Observer;
use super::body::StrictQuery;
use super::error::{Code, Outcome, Problem};
use super::responses::Watching;
use super::wording;
use crate::catalog::Tenant;
use crate::domain::audience::Audience;
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use crate::domain::verdict::{Denial, Verdict};
use crate::relay::outbox::When;
use crate::relay::{
    Answer, ConnectionSnapshot, DeliveryTrace, Head, Query, Stage, Step, delivery_trace,
    rights_changed,
};
use actix_web::get;
use actix_web::web::{Data, Json, Path};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

/// Most connections of a user that one answer tells about: the newest.
pub const MAX_CONNECTIONS: usize = 100;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(get_message);
}

/// What to tell beside the counts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TraceParameters {
    /// Also what became of it for this user's connections, the open ones and those that ended
    /// lately.
    #[serde(default)]
    #[param(example = "alice")]
    user: Option<String>,
}

/// What became of a message. Counted are connections: `matched` = `written` + `waiting` + all of
/// `lost`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageTrace {
    /// The message's id.
    id: String,
    /// Its place in the instance's order.
    cursor: String,
    /// When it was accepted, in UTC with milliseconds.
    #[schema(format = DateTime)]
    time: String,
    /// Who published it.
    publisher: PublisherBody,
    /// `channel` as published.
    channel: String,
    /// Canonical names of whom it was for.
    #[schema(example = json!(["group:eng", "user:eng"]))]
    audience: Vec<String>,
    /// Of these, only those of whom this expression is true; `null` for all of them.
    filter: Option<String>,
    /// When the first worker put it into outboxes, in UTC with milliseconds; `null` before.
    #[schema(format = DateTime)]
    queued_at: Option<String>,
    /// Connections it was for when it was sent.
    matched: u64,
    /// Those in whose outbox it was put.
    queued: u64,
    /// Those that had no room for it and were disconnected with 4420.
    dropped: u64,
    /// Those whose socket it was handed to. Whether a client has read it, only its acknowledgement
    /// tells.
    written: u64,
    /// Those in whose outbox it still is.
    waiting: u64,
    /// Connections that resumed and whose socket it was handed to then; not part of `matched`.
    replayed: u64,
    /// Connections, of those it was written or replayed to, whose `PING` had a cursor at or behind
    /// it while it was kept for clients that resume.
    acknowledged: u64,
    /// Connections it was for and that never got it, by why.
    lost: LostBody,
    /// What became of it for the user that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserTrace>,
}

/// A publisher.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublisherBody {
    /// The token's user.
    user_id: String,
    /// The token's component, its first 128 bytes; `null` for one who publishes by a role.
    component: Option<String>,
}

/// Connections that never got a message, by why.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostBody {
    /// The outbox was full: disconnected with 4420. The same as `dropped`.
    outbox_full: u64,
    /// It waited, and the client was too slow: disconnected with 4420 because of a later message or
    /// of time.
    too_slow: u64,
    /// It waited, and the connection ended otherwise.
    ended: u64,
    /// Under the channel's `latest` policy a newer message took its place.
    replaced: u64,
}

/// What became of a message for one user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserTrace {
    /// The user.
    user_id: String,
    /// Connections that are known: open, or ended within the window's time and among the instance's
    /// last 1,000.
    total: usize,
    /// The newest 100 of them, the oldest first.
    connections: Vec<ConnectionTrace>,
    /// Only present where no connection is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What became of a message for one connection.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionTrace {
    /// The connection's id.
    connection_id: String,
    /// When it was let in, in UTC with milliseconds.
    #[schema(format = DateTime)]
    connected_at: String,
    /// When it ended, in UTC with milliseconds; `null` while it is open.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// The close code; `null` where there was none: it is open, or the connection broke.
    close_code: Option<u16>,
    /// One word to decide by: `written`, `replayed`, `waiting`, `replaced`, `writtenOrReplaced`,
    /// `dropped`, `lost`, `ending`, `notConnected`, `notReplayed`, `excluded`, `narrowed`,
    /// `notAddressed`, `denied`, `filtered` or `notQueued`.
    outcome: &'static str,
    /// The same in a sentence, with times in UTC and the reason.
    detail: String,
    /// Of `denied`, the index of the rule that denies, from 0; `null` where no rule allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    /// Whether the client has acknowledged this position with a `PING`.
    acknowledged: bool,
    /// Whether its token or what it hears has changed since the message: rules are asked as they
    /// are now, and may have said otherwise then.
    rights_changed: bool,
}

/// Read what became of a message.
///
/// Who published it, when and to whom; how many connections it was for and how far it got; with
/// `user`, what became of it for each of the user's connections. It can be asked for the window's
/// time (2 minutes unless set otherwise), of the instance's newest 10,000 messages on this node,
/// live ones too, and not after a restart. Rules, filters and `channels=` are asked as they are
/// now.
#[utoipa::path(
    tag = "Messages",
    params(("id" = String, Path, description = "The message's id."), TraceParameters),
    responses((status = 200, description = "What became of it.", body = MessageTrace), Watching)
)]
#[get("/v1/messages/{id}")]
pub async fn get_message(
    observer: Observer,
    id: Path<String>,
    parameters: StrictQuery<TraceParameters>,
    api: Data<Api>,
) -> Outcome<Json<MessageTrace>> {
    let user = parameters.into_inner().user.map(UserId::new).transpose();
    let user = user.map_err(|error| Problem::invalid("user", error.to_string()))?;
    let instance = &observer.tenant.instance.id;
    let trace = api.relay.trace_of(instance, &id).ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            "there is no message with this id, or nothing is remembered of it any more",
        )
    })?;
    let mut shown = MessageTrace::of(&trace);
    if let Some(user) = user {
        let known = connections_of(&api, instance, &user, trace.cursor.position).await?;
        let tenant = observer.tenant.clone();
        let told = api
            .explain_pool
            .run(instance, move || UserTrace::of(&user, &known, &trace, &tenant))
            .await?;
        shown.user = Some(told);
    }
    Ok(Json(shown))
}

/// What is known of a user's connections for the message of this position, open and ended, by id.
/// Errors: 503 `OVERLOADED`.
async fn connections_of(
    api: &Api,
    instance: &InstanceId,
    user: &UserId,
    position: u64,
) -> Outcome<Vec<Arc<ConnectionSnapshot>>> {
    let query = Query::Trace { user: user.clone(), position };
    let (answer, outcome) = api.relay.survey(instance, &query).await?;
    outcome?;
    // Asked afterwards: one that ends in between is in both lists, and in none if it was the other
    // way round.
    let mut all = api.relay.ended(instance, user);
    let open = if let Answer::Known(known) = answer { known } else { Vec::new() };
    let ended: HashSet<String> = all.iter().map(|ended| ended.id.clone()).collect();
    let open = open.into_iter().filter(|open| !ended.contains(&open.id));
    all.extend(open.map(Arc::new));
    all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

impl UserTrace {
    fn of(user: &UserId, known: &[Arc<ConnectionSnapshot>], trace: &Head, tenant: &Tenant) -> Self {
        let newest = &known[known.len().saturating_sub(MAX_CONNECTIONS)..];
        let connections = newest.iter().map(|connection| {
            let fate = delivery_trace(connection, trace, tenant);
            ConnectionTrace::of(connection, trace, &fate)
        });
        let reason =
            "not connected: no connection is open, and none that ended lately is remembered";
        let reason = known.is_empty().then(|| reason.to_owned());
        Self {
            user_id: user.to_string(),
            total: known.len(),
            connections: connections.collect(),
            reason,
        }
    }
}

impl MessageTrace {
    fn of(trace: &Head) -> Self {
        let sums = trace.progress.sums();
        Self {
            id: trace.id.to_string(),
            cursor: trace.cursor.to_text(),
            time: text(trace.time),
            publisher: PublisherBody {
                user_id: trace.author.user.to_string(),
                component: trace.author.component.as_deref().map(Into::into),
            },
            channel: trace.address.to_string(),
            audience: trace.reach.audiences.iter().map(Audience::name).collect(),
            filter: trace.reach.filter.as_ref().map(ToString::to_string),
            queued_at: trace
                .progress
                .queued_at_ms()
                .and_then(DateTime::from_timestamp_millis)
                .map(text),
            matched: sums.of(Step::Matched),
            queued: sums.of(Step::Queued),
            dropped: sums.of(Step::Dropped),
            written: sums.of(Step::Written),
            waiting: sums.waiting(),
            replayed: sums.of(Step::Replayed),
            acknowledged: sums.of(Step::Acknowledged),
            lost: LostBody {
                outbox_full: sums.of(Step::Dropped),
                too_slow: sums.of(Step::TooSlow),
                ended: sums.of(Step::Ended),
                replaced: sums.of(Step::Replaced),
            },
            user: None,
        }
    }
}

impl ConnectionTrace {
    fn of(connection: &ConnectionSnapshot, trace: &Head, fate: &DeliveryTrace) -> Self {
        let ended_at = match connection.stage {
            Stage::Open { .. } => None,
            Stage::Gone { at, .. } => Some(text(at)),
        };
        let has_it = matches!(fate, DeliveryTrace::Written(_) | DeliveryTrace::Replayed(_));
        Self {
            connection_id: connection.id.clone(),
            connected_at: text(connection.origin.connected_at),
            ended_at,
            close_code: connection.closed().map(|closed| closed.close.code),
            outcome: word(fate),
            detail: detail(connection, trace, fate),
            rule: match fate {
                DeliveryTrace::NotFor(Verdict::Denied(_, Denial::Rule(rule))) => Some(rule.index),
                _ => None,
            },
            acknowledged: has_it && connection.acknowledged_to >= trace.cursor.position,
            rights_changed: rights_changed(connection, trace),
        }
    }
}

fn word(fate: &DeliveryTrace) -> &'static str {
    match fate {
        DeliveryTrace::Written(_) => "written",
        DeliveryTrace::Replayed(_) => "replayed",
        DeliveryTrace::Waiting => "waiting",
        DeliveryTrace::Replaced => "replaced",
        DeliveryTrace::WrittenOrReplaced => "writtenOrReplaced",
        DeliveryTrace::Dropped => "dropped",
        DeliveryTrace::Lost => "lost",
        DeliveryTrace::NotYetConnected
        | DeliveryTrace::Resumed
        | DeliveryTrace::NoLongerConnected => "notConnected",
        DeliveryTrace::NotReplayed => "notReplayed",
        DeliveryTrace::Ending => "ending",
        DeliveryTrace::NotFor(verdict) => wording::word(verdict),
        DeliveryTrace::NotQueued => "notQueued",
    }
}

fn detail(connection: &ConnectionSnapshot, trace: &Head, fate: &DeliveryTrace) -> String {
    let queued = trace
        .progress
        .queued_at_ms()
        .map_or_else(|| "queued".into(), |at| format!("queued {}", clock(at)));
    let connected = clock(connection.origin.connected_at.timestamp_millis());
    let end = connection.closed().map_or_else(
        || "the connection broke".into(),
        |closed| {
            format!("disconnected {} {}", closed.close.code, closed.close.reason)
                .trim_end()
                .to_owned()
        },
    );
    match fate {
        DeliveryTrace::Written(when) => format!("{queued}, written {}", moment(*when)),
        DeliveryTrace::Replayed(when) => {
            format!("connected {connected} and resumed, replayed {}", moment(*when))
        }
        DeliveryTrace::Waiting => format!("{queued}, waiting to be written"),
        DeliveryTrace::Replaced => {
            format!("{queued}, replaced by a newer message before it was written")
        }
        DeliveryTrace::WrittenOrReplaced => {
            format!("{queued}, written or replaced: which of both is no longer remembered")
        }
        DeliveryTrace::Dropped => format!("outbox full: {end}"),
        DeliveryTrace::Lost => format!("{queued}, not written: {end}"),
        DeliveryTrace::NotYetConnected => {
            format!("not connected at the time: connected {connected}")
        }
        DeliveryTrace::Resumed => format!(
            "not connected at the time: connected {connected}, with a cursor behind the message"
        ),
        DeliveryTrace::NotReplayed => {
            "resumed later, but the message is for those connected at the time, or its ttl was over"
                .into()
        }
        DeliveryTrace::NoLongerConnected => format!("not connected at the time: {end}"),
        DeliveryTrace::Ending => format!("was being closed: {end}"),
        DeliveryTrace::NotFor(verdict) => wording::verdict(verdict),
        DeliveryTrace::NotQueued => {
            "not queued: its worker has not come to it yet, or it was not for it at the time".into()
        }
    }
}

fn moment(when: When) -> String {
    match when {
        When::At(at) => clock(at),
        When::By(at) => format!("before {}", clock(at)),
    }
}

/// A time of the day in UTC, with milliseconds.
fn clock(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).unwrap_or_default().format("%H:%M:%S%.3f").to_string()
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
