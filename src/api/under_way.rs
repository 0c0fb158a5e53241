//! A request under way: its connection counts for its client, and does not give way, until the
//! answer is written.

use super::error::{Code, Outcome, Problem};
use super::transport;
use crate::transport::{NoPlace, Occupancy, UnderWay};
use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use bytes::Bytes;
use ipnet::IpNet;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that keeps its request under way.
pub struct Counted {
    body: BoxBody,
    _under_way: Option<UnderWay>,
}

/// Counts the request for its client; none where no connection is counted. Errors: 426, and 429
/// `TOO_MANY_CONNECTIONS`.
pub(super) fn begin(request: &HttpRequest, trusted: &[IpNet]) -> Outcome<Option<UnderWay>> {
    let client = transport::client_address(request, trusted)?;
    // A proxy that names no client has no share either.
    let is_proxy = trusted.iter().any(|network| network.contains(&client));
    let client = (!is_proxy).then_some(client);
    let occupancy = request.conn_data::<Occupancy>();
    let begun = occupancy.map(|occupancy| occupancy.begin(client)).transpose();
    begun.map_err(|error| {
        let problem = Problem::new(Code::TooManyConnections, error.to_string());
        match error {
            NoPlace::Address { limit } => problem.with_limit(limit as u64, limit as u64 + 1),
            NoPlace::Process => problem,
        }
    })
}

/// Keeps the request under way until the answer's body is written.
pub(super) fn counted(
    answer: ServiceResponse<BoxBody>,
    under_way: Option<UnderWay>,
) -> ServiceResponse<Counted> {
    answer.map_body(|_, body| Counted { body, _under_way: under_way })
}

impl MessageBody for Counted {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
