//! `/healthz` (alive) and `/readyz` (may take traffic).

use super::Api;
use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Where the health is told, also by a node that stands by.
pub const PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(check_health).service(check_readiness);
}

/// Whether this node may take traffic, and why not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Whether to send traffic here.
    ready: bool,
    /// False once the node is going away.
    accepting: bool,
    /// True while another node serves the database in this one's place, or may do so.
    standby: bool,
    /// Whether Postgres answered when last asked. Connecting and publishing go on without it, hence
    /// it does not decide.
    postgres: bool,
    /// Seconds since the configuration was last confirmed.
    catalog_age_seconds: u64,
}

/// Alive.
///
/// Answers as long as the process can answer at all.
#[utoipa::path(tag = "Operation", security(()), responses((status = 200, description = "The process is alive.")))]
#[get("/healthz")]
pub async fn check_health() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("alive\n")
}

/// Ready.
///
/// 503 while the node is going away, stands by, or has as many connections as the process may have.
#[utoipa::path(
    tag = "Operation",
    security(()),
    responses(
        (status = 200, description = "May take traffic.", body = Readiness),
        (status = 503, description = "Must not take traffic.", body = Readiness),
    )
)]
#[get("/readyz")]
pub async fn check_readiness(api: Data<Api>) -> HttpResponse {
    let accepting = !api.relay.is_draining();
    let has_room = api.relay.open() < api.settings.connections && !api.places.is_full();
    let standby = api.relay.stands_by();
    let ready = accepting && !standby && has_room;
    let readiness = Readiness {
        ready,
        accepting,
        standby,
        postgres: api.catalog.store_is_up(),
        catalog_age_seconds: api.catalog.age().as_secs(),
    };
    match ready {
        true => HttpResponse::Ok().json(readiness),
        false => HttpResponse::ServiceUnavailable().json(readiness),
    }
}
