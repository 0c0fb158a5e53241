//! A request under way, until its answer is written: nothing more is read meanwhile, and its
//! connection counts for its client and does not give way.

use super::error::{Code, Outcome, Problem};
use super::transport;
use crate::transport::{Answering, Exchange, NoPlace, Occupancy, UnderWay};
use actix_web::HttpRequest;
use ipnet::IpNet;

/// Keeps a request under way until it is dropped.
#[derive(Default)]
pub struct Begun {
    /// None where the connection has no pace.
    _answering: Option<Answering>,
    /// None where no connection is counted.
    under_way: Option<UnderWay>,
}

impl Begun {
    /// Of a request that is not counted yet.
    pub fn new(request: &HttpRequest) -> Self {
        let answering = request.conn_data::<Exchange>().map(Exchange::answering);
        Self { _answering: answering, under_way: None }
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

/// 429 `TOO_MANY_CONNECTIONS`, with the limit of an address.
pub fn too_many(error: NoPlace) -> Problem {
    let problem = Problem::new(Code::TooManyConnections, error.to_string());
    match error {
        NoPlace::Address { limit } => problem.with_limit(limit as u64, limit as u64 + 1),
        NoPlace::Process => problem,
    }
}
