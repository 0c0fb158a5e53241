//! What handlers share: cheap handles on the parts of the service, and the operator's settings.

use super::counters::{LeaseFigures, Metrics};
use super::explain_pool::ExplainPool;
use super::filters::Filters;
use super::gate::Gate;
use super::patience::LeastRate;
use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::limits::RateLimits;
use crate::relay::Relay;
use crate::store::Store;
use crate::transport::{Places, Unfinished};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// Everything a handler may use: one struct of cheap handles.
#[derive(Clone)]
pub struct Api {
    /// What is configured, in memory.
    pub catalog: Catalog,
    /// What is configured, in Postgres.
    pub store: Store,
    /// Tokens in, principals out.
    pub authenticator: Authenticator,
    /// How much each may publish and connect.
    pub limits: RateLimits,
    /// Filters that were compiled lately.
    pub filters: Filters,
    /// Turns for what evaluates rules many times over.
    pub explain_pool: ExplainPool,
    /// Who is connected.
    pub relay: Relay,
    /// The places for connections.
    pub places: Places,
    /// What one address may take.
    pub gate: Gate,
    /// What bodies hold that have not come whole.
    pub unfinished: Unfinished,
    /// What is counted.
    pub metrics: Metrics,
    /// What is known of the lease.
    pub lease: LeaseFigures,
    /// What the operator of this process chose.
    pub settings: Arc<ApiSettings>,
}

/// The settings that handlers read.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Proxies that may use the plain listener.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections of the process.
    pub connections: usize,
    /// How long messages are kept for clients that resume.
    pub window: Duration,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// How long any token may be good for.
    pub max_token_age: Duration,
    /// Most bytes of a request body.
    pub body_bytes: usize,
    /// Most bytes of a batch.
    pub batch_body_bytes: usize,
    /// How long bodies may take.
    pub least_rate: LeastRate,
}
