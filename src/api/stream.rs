//! Receiving without a WebSocket: server-sent events at `/v1/stream`.

use super::Api;
use super::connect::{ConnectParameters, pass, register};
use super::error::Outcome;
use crate::relay::Transport;
use crate::socket::open_stream;
use crate::transport::Occupancy;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa_actix_web::service_config::ServiceConfig;

/// The route of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(stream);
}

/// Receive as server-sent events.
///
/// The same rights, order, limits and resuming as the socket, for clients that only speak HTTP:
/// `curl -N`, or a browser's `EventSource`, which gives token and instance in the query. `data` is
/// the frame that a socket gets. A `MESSAGE` has no event name, every other frame has its type as
/// its name; the last is `CLOSE` with `code` and `reason`. `CONNECTED` and `MESSAGE` carry their
/// cursor as `id`. A quiet stream is sent a comment every 15 seconds.
///
/// An `EventSource` connects again by itself and then sends the newest `id` as `Last-Event-ID`: put
/// no `cursor` into its URL, which would soon differ. What is refused is no stream, and an
/// `EventSource` gives up.
#[utoipa::path(
    tag = "Receiving",
    params(
        ConnectParameters,
        ("Last-Event-ID" = Option<String>, Header, description = "The same as `cursor`, as an `EventSource` sends it when \
            it connects again by itself. Where both are given they must be the same."),
    ),
    responses(
        (status = 200, description = "Events without end; the first is `CONNECTED`.", content_type = "text/event-stream",
            body = String, example = "id: YBmXvEWl9_QAAAAAAAAAKg\ndata: {\"type\":\"MESSAGE\",\"id\":\"order-7\",…}\n\n"),
        super::responses::Streaming,
    )
)]
#[get("/v1/stream")]
pub async fn stream(request: HttpRequest, api: Data<Api>) -> Outcome<HttpResponse> {
    let pass = pass(&request, &api)?;
    let registration = register(&request, &api, Transport::Sse).await?;
    if let Some(occupancy) = request.conn_data::<Occupancy>() {
        occupancy.stay();
    }
    Ok(open_stream(registration, Box::new(pass)))
}
