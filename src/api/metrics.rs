//! The Prometheus page that shows what is counted, on a listener of its own.

use super::Api;
use super::counters::Label;
use crate::relay::{Counts, InstanceFigures, Relay};
use crate::transport::{PlaceFigures, Stage};
use actix_web::web::Data;
use actix_web::{HttpResponse, Responder};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// Instances that have labels of their own; the others are added up under `other`.
const INSTANCES_WITH_A_LABEL: usize = 100;
/// `GET /metrics` on the metrics listener.
pub async fn show_metrics(api: Data<Api>) -> impl Responder {
    let mut text = String::new();
    match encode(&mut text, &registry(&api)) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// Everything as it is now. Built for each scrape from what the parts of the service count
/// themselves.
fn registry(api: &Api) -> Registry {
    let mut registry = Registry::with_prefix("herald");
    api.metrics.register(&mut registry);
    registry.register(
        "ack_lag",
        "Messages between an acknowledgement and the newest that was queued, as far as they are kept",
        api.relay.lag(),
    );
    register_relay(&mut registry, &api.relay);
    register_places(&mut registry, api.places.figures());
    registry.register(
        "unfinished_request_bytes",
        "Bytes held by requests whose head or body has not come whole",
        gauge(api.unfinished.bytes() as f64),
    );
    registry.register(
        "expression_bytes",
        "Bytes of the compiled expressions of rules and filters",
        gauge(api.store.compiled().bytes() as f64),
    );
    registry.register(
        "principal_bytes",
        "Bytes kept of verified tokens: of connections, of tokens remembered, and in traces",
        gauge(api.authenticator.principal_bytes() as f64),
    );
    let age = api.catalog.age().as_secs_f64();
    registry.register_with_unit(
        "catalog_age",
        "Since the catalog was last confirmed",
        Unit::Seconds,
        gauge(age),
    );
    let up = f64::from(u8::from(api.catalog.store_is_up()));
    registry.register("postgres_up", "Whether Postgres answered when last asked", gauge(up));
    api.lease.register(&mut registry);
    register_instances(&mut registry, api.relay.figures());
    registry
}

fn register_relay(registry: &mut Registry, relay: &Relay) {
    registry.register(
        "open_connections",
        "Open connections of this process",
        gauge(relay.open() as f64),
    );
    registry.register(
        "outbox_bytes",
        "Bytes that wait for sockets",
        gauge(relay.waiting_bytes() as f64),
    );
    registry.register(
        "trace_bytes",
        "Bytes kept to say what became of messages",
        gauge(relay.trace_bytes() as f64),
    );
    registry.register(
        "history_bytes",
        "Bytes kept for clients that resume",
        gauge(relay.history_bytes() as f64),
    );
    registry.register(
        "membership_bytes",
        "Bytes of the different sets of groups and channels that connections hear",
        gauge(relay.heard_bytes() as f64),
    );
    let shed = Counter::<u64>::default();
    shed.inc_by(relay.shed());
    registry.register(
        "shed_connections",
        "Connections closed since a change made more such sets than an instance may have",
        shed,
    );
    let evaluations = Counter::<u64>::default();
    evaluations.inc_by(relay.evaluations());
    registry.register(
        "evaluations",
        "Expressions of rules and filters evaluated for connections",
        evaluations,
    );
}

fn register_places(registry: &mut Registry, figures: PlaceFigures) {
    let accepted = Family::<Label, Gauge>::default();
    for stage in Stage::ALL {
        let label = [("stage", stage.as_str().to_owned())];
        accepted.get_or_create(&label).set(figures.by_stage[stage as usize] as i64);
    }
    registry.register("accepted_connections", "Accepted connections by how far they are", accepted);
    let (given_way, refused) = (Counter::<u64>::default(), Counter::<u64>::default());
    given_way.inc_by(figures.given_way);
    refused.inc_by(figures.refused);
    registry.register("displaced_connections", "Connections closed for newcomers", given_way);
    registry.register(
        "unplaced_connections",
        "Newcomers that found no place, and requests of clients whose share was taken",
        refused,
    );
}

fn gauge(value: f64) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    gauge
}

fn register_instances(registry: &mut Registry, mut all: Vec<InstanceFigures>) {
    all.sort_by_key(|figures| std::cmp::Reverse(figures.messages));
    let connections = Family::<Label, Gauge>::default();
    let counters = ["messages", "matched", "queued", "dropped", "replaced"]
        .map(|_| Family::<Label, Counter>::default());
    for (rank, figures) in all.iter().enumerate() {
        let InstanceFigures { instance, connections: open, messages, counts } = figures;
        let name = if rank < INSTANCES_WITH_A_LABEL { instance.as_str() } else { "other" };
        let label = [("instance", name.to_owned())];
        connections.get_or_create(&label).inc_by(*open as i64);
        let Counts { matched, queued, dropped, replaced } = *counts;
        for (family, value) in counters.iter().zip([*messages, matched, queued, dropped, replaced])
        {
            family.get_or_create(&label).inc_by(value);
        }
    }
    let [messages, matched, queued, dropped, replaced] = counters;
    registry.register("connections", "Open connections by instance", connections);
    registry.register("messages", "Messages that got a place in their instance's order", messages);
    registry.register("matched", "Connections that messages were for", matched);
    registry.register("queued", "Connections that messages were queued for", queued);
    registry.register("dropped", "Connections that had no room for a message", dropped);
    registry.register(
        "replaced",
        "Messages that a newer one of their channel replaced in an outbox",
        replaced,
    );
}
