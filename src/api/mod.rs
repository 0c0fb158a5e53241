//! HTTP in, HTTP out: the one route table, grouped by audience.

pub mod admission;
pub mod audit;
pub mod batch;
pub mod body;
pub mod channels;
pub mod connect;
pub mod connections;
pub mod counters;
pub mod credentials;
pub mod documents;
pub mod dry_run;
pub mod error;
pub mod explain;
pub mod explain_pool;
pub mod filters;
pub mod gate;
pub mod health;
pub mod idempotency;
pub mod instances;
pub mod messages;
pub mod metrics;
pub mod middleware;
pub mod openapi;
pub mod pages;
pub mod patience;
pub mod pieces;
pub mod publish_rights;
pub mod quotas;
pub mod rates;
pub mod receipt;
pub mod resource;
pub mod responses;
pub mod revocations;
pub mod rules;
mod state;
pub mod stream;
pub mod traces;
pub mod transport;
pub mod under_way;
pub mod wording;

pub use state::{Api, ApiSettings};

use error::{Code, Problem};
use utoipa_actix_web::service_config::ServiceConfig;

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
        .route("/openapi.json", get().to(documents::show_openapi))
        .route("/asyncapi.json", get().to(documents::show_asyncapi));
    pages::routes(config);
    config.default_service(to(|| async {
        Err::<String, _>(Problem::new(
            Code::NotFound,
            "there is no such route, or it does not take this method",
        ))
    }));
}
