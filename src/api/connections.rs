//! Connections, for administrators: who is there, and sending them away.

use super::Api;
use super::admission::Admin;
use super::body::StrictQuery;
use super::error::{Code, Outcome, Problem};
use super::resource::{Page, PageParameters};
use super::responses::Watching;
use crate::domain::audience::Audience;
use crate::domain::channel::ChannelName;
use crate::domain::principal::{GroupId, UserId};
use crate::relay::{
    Answer, Close, ConnectionInfo, Listing, Query, Selection, Transport, Unanswered,
};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

/// Longest reason, in bytes: a close frame has room for 123, and the code's word stands before it.
const MAX_REASON: usize = 100;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(list_connections).service(disconnect_connection).service(disconnect_connections);
}

/// Which connections, and which part of their list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectionParameters {
    /// Only this user's.
    #[serde(default)]
    user: Option<String>,
    /// Only those of this group's members.
    #[serde(default)]
    group: Option<String>,
    /// Only those that hear this channel.
    #[serde(default)]
    channel: Option<String>,
    /// Most entries to answer with, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    after: Option<String>,
}

/// Which connections to close, and why.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DisconnectParameters {
    /// This user's; one of `user` and `group` is needed.
    #[param(example = "alice")]
    #[serde(default)]
    user: Option<String>,
    /// Those of this group's members.
    #[serde(default)]
    group: Option<String>,
    /// Shown to the clients, at most 100 bytes.
    #[serde(default)]
    reason: Option<String>,
}

/// Why a connection is closed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReasonParameter {
    /// Shown to the client, at most 100 bytes.
    #[serde(default)]
    reason: Option<String>,
}

/// An open connection.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionBody {
    /// As its `CONNECTED` frame told it.
    connection_id: String,
    /// Whose it is.
    user_id: String,
    /// The user's groups, by the newest token.
    groups: Vec<String>,
    /// Canonical names of all it hears.
    channels: Vec<String>,
    /// The client's address.
    address: String,
    /// The client's `User-Agent`, cut at 200 characters.
    user_agent: String,
    /// `wss` or `sse`.
    transport: &'static str,
    /// When it was let in, in UTC.
    connected_at: DateTime<Utc>,
    /// When its newest token ends, in UTC.
    expires_at: Option<DateTime<Utc>>,
    /// Bytes that wait for it.
    queued_bytes: usize,
    /// How far it says that it has heard everything (`cursor` of its last `PING`); `null` before it
    /// did.
    acked_cursor: Option<String>,
    /// Messages of the instance behind that cursor, up to the newest one that was queued for the
    /// connection. Counted are messages that are kept for clients that resume: where the cursor
    /// lies before the oldest of them, it is at least so many.
    lag: Option<u64>,
}

/// A part of the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionPage {
    /// The connections, by id: the oldest first.
    items: Vec<ConnectionBody>,
    /// What to give as `after` for the next page; `null` on the last one.
    next: Option<String>,
    /// How many there are on all pages.
    total: u64,
}

/// How many connections were closed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Disconnected {
    /// Connections.
    disconnected: u64,
}

/// List the open connections.
///
/// Of this node, the oldest first, with how far each has acknowledged.
#[utoipa::path(
    tag = "Connections",
    params(ConnectionParameters),
    responses((status = 200, description = "A page of connections.", body = ConnectionPage), Watching)
)]
#[get("/v1/connections")]
pub async fn list_connections(
    admin: Admin,
    parameters: StrictQuery<ConnectionParameters>,
    api: Data<Api>,
) -> Outcome<Json<ConnectionPage>> {
    let ConnectionParameters { user, group, channel, limit, after } = parameters.into_inner();
    let limit = PageParameters::new(limit, None).limit()?;
    let mut selection = selection(user, group)?;
    let channel =
        channel.map(|name| ChannelName::new(name.strip_prefix("channel:").unwrap_or(&name)));
    let channel =
        channel.transpose().map_err(|error| Problem::invalid("channel", error.to_string()))?;
    selection.audience = channel.map(Audience::Channel);
    let instance = &admin.tenant.instance.id;
    // One more than is shown tells whether there is a next page.
    let query = Query::List { selection, after, most: limit as usize + 1 };
    let listing = match api.relay.survey(instance, &query).await? {
        (Answer::List(listing), outcome) => outcome.map(|()| listing)?,
        _ => Listing::default(),
    };
    let page = Page::new(listing.items, limit, |info| info.id.clone(), ConnectionBody::from);
    let (items, next) = page.into_parts();
    Ok(Json(ConnectionPage { items, next, total: listing.total }))
}

/// Close a connection.
///
/// The client is told with close code 4409 and the reason. Its token is not revoked: it may come
/// back.
#[utoipa::path(
    tag = "Connections",
    params(("id" = String, Path, description = "The connection's id."), ReasonParameter),
    responses((status = 204, description = "Closed."), Watching)
)]
#[delete("/v1/connections/{id}")]
pub async fn disconnect_connection(
    admin: Admin,
    id: Path<String>,
    parameters: StrictQuery<ReasonParameter>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let selection = Selection { id: Some(id.into_inner()), ..Selection::default() };
    match disconnect(&api, &admin, selection, parameters.into_inner().reason).await? {
        0 => Err(Problem::new(Code::NotFound, "there is no such connection on this node")),
        _ => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Close the connections of a user or a group.
///
/// The clients are told with close code 4409 and the reason. Their tokens are not revoked: they may
/// come back.
#[utoipa::path(
    tag = "Connections",
    params(DisconnectParameters),
    responses((status = 200, description = "Closed.", body = Disconnected), Watching)
)]
#[delete("/v1/connections")]
pub async fn disconnect_connections(
    admin: Admin,
    parameters: StrictQuery<DisconnectParameters>,
    api: Data<Api>,
) -> Outcome<Json<Disconnected>> {
    let DisconnectParameters { user, group, reason } = parameters.into_inner();
    if user.is_none() && group.is_none() {
        return Err(Problem::invalid(
            "user",
            "name a user or a group: nobody closes everything by mistake",
        ));
    }
    let disconnected = disconnect(&api, &admin, selection(user, group)?, reason).await?;
    Ok(Json(Disconnected { disconnected }))
}

async fn disconnect(
    api: &Api,
    admin: &Admin,
    selection: Selection,
    reason: Option<String>,
) -> Outcome<u64> {
    let reason = reason.unwrap_or_else(|| "an administrator closed the connection".into());
    if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        let problem = Problem::invalid(
            "reason",
            format!("at most {MAX_REASON} bytes without control characters"),
        );
        return Err(problem.with_limit(MAX_REASON as u64, reason.len() as u64));
    }
    let instance = &admin.tenant.instance.id;
    let query = Query::Disconnect { selection, close: Close::disconnected(&reason) };
    let closed = match api.relay.survey(instance, &query).await? {
        (Answer::Disconnected(closed), outcome) => outcome.map(|()| closed)?,
        _ => 0,
    };
    tracing::info!(instance.id = %instance, user.id = %admin.principal.user, connections = closed, "disconnected");
    Ok(closed)
}

fn selection(user: Option<String>, group: Option<String>) -> Outcome<Selection> {
    let user = user
        .map(UserId::new)
        .transpose()
        .map_err(|error| Problem::invalid("user", error.to_string()))?;
    let group = group
        .map(GroupId::new)
        .transpose()
        .map_err(|error| Problem::invalid("group", error.to_string()))?;
    Ok(Selection { user, group, ..Selection::default() })
}

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Self {
        Self::new(Code::Overloaded, error.to_string()).with_retry_after(Duration::from_secs(1))
    }
}

impl From<ConnectionInfo> for ConnectionBody {
    fn from(info: ConnectionInfo) -> Self {
        Self {
            connection_id: info.id,
            user_id: info.user.to_string(),
            groups: info.groups.iter().map(ToString::to_string).collect(),
            channels: info.audiences.iter().map(ToString::to_string).collect(),
            address: info.origin.address.to_string(),
            user_agent: info.origin.user_agent.into(),
            transport: match info.transport {
                Transport::Wss => "wss",
                Transport::Sse => "sse",
            },
            connected_at: info.origin.connected_at,
            expires_at: DateTime::from_timestamp(info.expires_at, 0),
            queued_bytes: info.queued_bytes,
            acked_cursor: info.acknowledged.map(|cursor| cursor.to_text()),
            lag: info.lag,
        }
    }
}
