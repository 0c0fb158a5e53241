//! HTTP in, HTTP out: the one route table, grouped by audience.

pub mod admission;
pub mod audit;
pub mod batch;
pub mod body;
pub mod channels;
pub mod connect;
pub mod connections;
pub mod credentials;
pub mod deliberation;
pub mod dry_run;
pub mod error;
pub mod explain;
pub mod filters;
pub mod gate;
pub mod health;
pub mod instances;
pub mod messages;
pub mod metrics;
pub mod middleware;
pub mod openapi;
pub mod pages;
pub mod quotas;
pub mod rates;
pub mod receipt;
pub mod repeats;
pub mod resource;
pub mod responses;
pub mod revocations;
pub mod rules;
pub mod stream;
pub mod traces;
pub mod transport;
pub mod wording;

use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::limits::RateLimits;
use crate::relay::Relay;
use crate::relay::outbox::OutboxBounds;
use crate::store::Store;
use error::{Code, Problem};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;
use utoipa_actix_web::service_config::ServiceConfig;

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
    pub filters: filters::Filters,
    /// Turns for what evaluates rules many times over.
    pub deliberation: deliberation::Deliberation,
    /// Who is connected.
    pub relay: Relay,
    /// What one address may take.
    pub gate: gate::Gate,
    /// What is counted.
    pub metrics: metrics::Metrics,
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
    /// Of each connection.
    pub outbox: OutboxBounds,
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
}

/// The route table: every operation of the OpenAPI document.
pub fn operations(config: &mut ServiceConfig<'_>) {
    messages::routes(config);
    batch::routes(config);
    traces::routes(config);
    connect::routes(config);
    connections::routes(config);
    stream::routes(config);
    channels::routes(config);
    explain::routes(config);
    quotas::routes(config);
    revocations::routes(config);
    instances::routes(config);
    audit::routes(config);
    health::routes(config);
}

/// Everything the client listeners serve: the operations, the socket at `/`, the documents and the
/// pages.
pub fn configure(config: &mut actix_web::web::ServiceConfig) {
    use actix_web::web::{get, to};
    operations(&mut ServiceConfig::new(config));
    config
        .route("/", get().to(connect::connect_or_greet))
        .route("/openapi.json", get().to(openapi::show_openapi))
        .route("/asyncapi.json", get().to(openapi::show_asyncapi));
    pages::routes(config);
    config.default_service(to(|| async {
        Err::<String, _>(Problem::new(
            Code::NotFound,
            "there is no such route, or it does not take this method",
        ))
    }));
}
