//! A request under way, until its answer is written: nothing more is read meanwhile, and its
//! connection counts for its client and does not give way.

use super::error::{Code, Outcome, Problem};
use super::transport;
use crate::transport::{AnnouncedBody, Answering, Exchange, NoPlace, Occupancy, UnderWay};
use actix_http::ConnectionType;
use actix_web::HttpRequest;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ipnet::IpNet;

/// Keeps a request under way until it is dropped.
#[derive(Default)]
pub struct Begun {
    /// None where the connection has no pace.
    answering: Option<Answering>,
    /// None where no connection is counted.
    under_way: Option<UnderWay>,
}

impl Begun {
    /// Of a request that is not counted yet.
    pub fn new(request: &HttpRequest) -> Self {
        let exchange = request.conn_data::<Exchange>();
        let answering = exchange.map(|exchange| exchange.answering(announced_body(request)));
        Self { answering, under_way: None }
    }

    /// Ends the connection with this answer where something of the request is left that nobody can
    /// count.
    pub(super) fn end_if_left<B>(&self, answer: &mut ServiceResponse<B>) {
        if self.answering.as_ref().is_some_and(Answering::leaves_chunks) {
            answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        }
    }

    /// Counts the request for its client. Errors: 426, and 429 `TOO_MANY_CONNECTIONS`.
    pub(super) fn count(&mut self, request: &HttpRequest, trusted: &[IpNet]) -> Outcome<()> {
        let client = transport::client_address(request, trusted)?;
        // A proxy that names no client has no share either.
        let is_proxy = trusted.iter().any(|network| network.contains(&client));
        let client = (!is_proxy).then_some(client);
        let occupancy = request.conn_data::<Occupancy>();
        let under_way = occupancy.map(|occupancy| occupancy.begin(client)).transpose();
        self.under_way = under_way.map_err(too_many)?;
        Ok(())
    }
}

fn announced_body(request: &HttpRequest) -> AnnouncedBody {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        return AnnouncedBody::Chunks;
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match length.and_then(|length| length.trim().parse().ok()) {
        None | Some(0) => AnnouncedBody::None,
        Some(length) => AnnouncedBody::Length(length),
    }
}

/// 429 `TOO_MANY_CONNECTIONS`, with the limit of an address.
pub fn too_many(error: NoPlace) -> Problem {
    let problem = Problem::new(Code::TooManyConnections, error.to_string());
    match error {
        NoPlace::Address { limit } => problem.with_limit(limit as u64, limit as u64 + 1),
        NoPlace::Process => problem,
    }
}
