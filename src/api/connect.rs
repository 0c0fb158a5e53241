//! Receiving: the WebSocket handshake at `/` and `/v1/connect`.

use super::Api;
use super::admission::{Admission, Subscriber};
use super::body::StrictQuery;
use super::credentials::{headers, only};
use super::error::{Code, Outcome, Problem};
use super::gate::Pass;
use super::{pages, transport};
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::relay::{
    Close, ConnectError, Joining, NoSeat, NotNow, Origin, Refusal, Registration, Transport,
};
use crate::socket::{self, Sockets};
use actix_web::http::header::{HeaderName, UPGRADE, USER_AGENT};
use actix_web::web::Data;
use actix_web::{Error, HttpRequest, HttpResponse, get};
use chrono::Utc;
use serde::Deserialize;
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_actix_web::service_config::ServiceConfig;

/// Characters of a `User-Agent` that are kept.
const MAX_USER_AGENT: usize = 200;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The documented routes of this file; `/` is beside them, see [`connect_or_greet`].
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(connect);
}

/// What a client wants to hear.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectParameters {
    /// Narrows what is heard: canonical or bare names, comma-separated, or a JSON array of strings
    /// if it begins with `[`. Unknown and forbidden names are left out.
    #[param(example = "ALL,group:eng")]
    #[serde(default)]
    channels: Option<String>,
    /// The newest `cursor` that the client has seen: everything it has missed since then comes
    /// first, and `CONNECTED` says whether that is whole (`recovered`), or why not (`reason`).
    #[serde(default)]
    cursor: Option<String>,
}

/// Connect a WebSocket.
///
/// The documented path of the socket is `/`; this one is the same. Give the token and the instance
/// as headers, as query parameters, or the token as the subprotocols `herald.v1, bearer.<JWT>`.
/// What is wrong with the request or its sender is told by the close code of a socket that is
/// opened for that purpose, since browsers cannot read the status of a refused handshake. The
/// frames are described in `/asyncapi.json`.
#[utoipa::path(
    tag = "Receiving",
    params(ConnectParameters),
    responses(
        (status = 101, description = "The socket is open; the first frame is `CONNECTED`."),
        super::responses::Connecting,
    )
)]
#[get("/v1/connect")]
pub async fn connect(request: HttpRequest, api: Data<Api>) -> Result<HttpResponse, Error> {
    if !asks_for_websocket(&request) {
        return Err(Problem::new(Code::UpgradeRequired, "connect with a WebSocket client").into());
    }
    open(request, api).await
}

/// `/`: a WebSocket for clients, a page for browsers.
pub async fn connect_or_greet(request: HttpRequest, api: Data<Api>) -> Result<HttpResponse, Error> {
    if !asks_for_websocket(&request) {
        return Ok(pages::home());
    }
    open(request, api).await
}

fn asks_for_websocket(request: &HttpRequest) -> bool {
    request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Floods are answered in HTTP; what is wrong with the request or its sender by a close code.
async fn open(request: HttpRequest, api: Data<Api>) -> Result<HttpResponse, Error> {
    let pass = pass(&request, &api)?;
    let sockets = sockets(&request)?;
    if api.relay.is_draining() {
        return socket::refuse(sockets, &request, Close::restarting(), Box::new(pass)).await;
    }
    match register(&request, &api, Transport::Wss).await {
        Ok(registration) => socket::accept(sockets, &request, registration, Box::new(pass)).await,
        Err(problem) if stays_http(problem.code) => Err(problem.into()),
        Err(problem) => {
            api.metrics.refused(problem.code);
            socket::refuse(sockets, &request, close_for(&problem), Box::new(pass)).await
        }
    }
}

/// The sockets of the worker that serves the request.
fn sockets(request: &HttpRequest) -> Outcome<&Sockets> {
    request
        .app_data::<Sockets>()
        .ok_or_else(|| Problem::new(Code::Internal, "this listener has no relay"))
}

/// What one address and the process may take, before anything else is looked at. Errors: 426, 429,
/// 503.
pub(super) fn pass(request: &HttpRequest, api: &Api) -> Outcome<Pass> {
    let address = transport::client_address(request, &api.settings.trusted_proxies)?;
    let pass = api.gate.pass(address)?;
    match api.relay.open() >= api.settings.connections {
        true => Err(ConnectError::ProcessFull { limit: api.settings.connections }.problem(false)),
        false => Ok(pass),
    }
}

/// Lets the sender of a request in: who it is, what it wants to hear, its seat.
pub(super) async fn register(
    request: &HttpRequest,
    api: &Api,
    by: Transport,
) -> Outcome<Registration> {
    let subscriber = Subscriber::admit(request, api).await?;
    let parameters = StrictQuery::<ConnectParameters>::read(request)?.into_inner();
    let narrowing = parameters.channels.as_deref().map(Narrowing::parse).transpose();
    let narrowing = narrowing.map_err(|error| Problem::invalid("channels", error.to_string()))?;
    super::rates::spend_connect(api, &subscriber.tenant)?;
    let worker = sockets(request)?.worker();
    // A page that has no cursor yet may well send an empty one.
    let cursor = match by {
        Transport::Wss => parameters.cursor.filter(|cursor| !cursor.is_empty()),
        Transport::Sse => resume_from(request, parameters.cursor)?,
    };
    let since = cursor.map(|cursor| Cursor::parse(&cursor).ok());
    let Subscriber { principal, tenant } = subscriber;
    // Another node may have told a place that this one has not come to yet.
    if let Some(Some(cursor)) = since {
        api.relay.wait_for(&tenant.instance.id, cursor).await.map_err(NotNow::problem)?;
    }
    let address = transport::client_address(request, &api.settings.trusted_proxies)?;
    let origin = origin(request, address);
    let joining = Joining { transport: by, principal, tenant, origin, narrowing, since };
    let is_everywhere = joining.principal.is_valid_everywhere();
    let registration = api.relay.connect(worker, joining).await;
    registration.map_err(|error| error.problem(is_everywhere))
}

/// The one cursor of `cursor=` and `Last-Event-ID`. Errors: 400 `CONFLICTING_PARAMETER` where they
/// differ.
fn resume_from(request: &HttpRequest, cursor: Option<String>) -> Outcome<Option<String>> {
    let given = headers(request, LAST_EVENT_ID).chain(cursor.map(Cow::Owned));
    Ok(only("cursor or Last-Event-ID", given)?.map(Cow::into_owned))
}

fn origin(request: &HttpRequest, address: IpAddr) -> Origin {
    let user_agent =
        request.headers().get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let user_agent: String = user_agent.unwrap_or_default().chars().take(MAX_USER_AGENT).collect();
    Origin { address, user_agent: user_agent.into(), connected_at: Utc::now() }
}

fn stays_http(code: Code) -> bool {
    matches!(code, Code::OriginForbidden | Code::TlsRequired)
}

impl NotNow {
    fn problem(self) -> Problem {
        Problem::new(Code::Overloaded, self.to_string()).with_retry_after(Duration::from_secs(1))
    }
}

impl ConnectError {
    /// Told to a token that is valid everywhere, or to another one.
    fn problem(&self, is_everywhere: bool) -> Problem {
        match self {
            Self::NoSeat(NoSeat::Instance { limit } | NoSeat::User { limit }) => {
                let limit = u64::from(*limit);
                Problem::new(Code::TooManyConnections, self.to_string())
                    .with_limit(limit, limit + 1)
            }
            Self::NotHeld => Problem::standing_by(self),
            Self::ProcessFull { .. } | Self::Draining => {
                Problem::new(Code::Overloaded, self.to_string())
            }
            Self::Crowded { .. } | Self::TooManySets { .. } | Self::TooHeavy => {
                Problem::new(Code::Overloaded, self.to_string())
                    .with_retry_after(Duration::from_secs(1))
            }
            Self::Refused(refusal) => Problem::new(refusal.code(is_everywhere), self.to_string()),
        }
    }
}

impl Refusal {
    /// Whether there is such an instance is told only to a token that is valid everywhere.
    fn code(self, is_everywhere: bool) -> Code {
        match self {
            Self::InstanceGone if is_everywhere => Code::InstanceNotFound,
            Self::InstanceGone => Code::InstanceForbidden,
            Self::InstanceDisabled => Code::InstanceDisabled,
            Self::TokenRevoked => Code::TokenRevoked,
            Self::TokenExpired => Code::TokenExpired,
            Self::KeyWithdrawn => Code::TokenInvalid,
        }
    }
}

/// The close code that says what the HTTP status would have said (contract, "Receiving").
fn close_for(problem: &Problem) -> Close {
    let code = match problem.code.status().as_u16() {
        401 => 4401,
        403 => 4403,
        404 => 4404,
        429 => 4429,
        500.. => 1013,
        _ => 4400,
    };
    Close::new(code, problem.code.as_str(), &problem.detail)
}
