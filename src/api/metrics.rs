//! What is counted, and the Prometheus page that shows it on a listener of its own.

use super::Api;
use super::error::Code;
use crate::relay::Relay;
use crate::relay::realm::Realm;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpResponse, Responder};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Instances that have labels of their own; the others are added up under `other`.
const INSTANCES_WITH_A_LABEL: usize = 100;
/// Upper bounds of the histogram of publishing, in seconds.
const PUBLISH_SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

type Label = [(&'static str, String); 1];
/// A route pattern and a class of status.
type Answered = [(&'static str, Cow<'static, str>); 2];

/// The routes that publish: there is a request for every message, and so what is done for each is
/// kept small.
pub const SENDING: [&str; 2] = ["/v1/messages", "/v1/messages/batch"];

/// Counters that nobody else keeps; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Refused requests and sockets by code: at most as many series as there are codes.
    refusals: Family<Label, Counter>,
    /// From a checked request to the workers' counts.
    publish_seconds: Histogram,
    /// Requests by route pattern and class of status.
    requests: Family<Answered, Counter>,
    /// Of these, the good answers of `SENDING`: looking a series up by its labels takes longer than
    /// counting.
    sent: [Counter; SENDING.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        let publish_seconds = Histogram::new(PUBLISH_SECONDS);
        let requests = Family::<Answered, Counter>::default();
        let sent = SENDING.map(|route| requests.get_or_create(&answered(route, "2xx")).clone());
        Self { refusals: Family::default(), publish_seconds, requests, sent }
    }
}

impl Metrics {
    /// A request or a socket was refused.
    pub fn refused(&self, code: Code) {
        self.refusals.get_or_create(&[("code", code.as_str().into())]).inc();
    }

    /// A message took so long from its check to the workers' counts.
    pub fn published(&self, took: Duration) {
        self.publish_seconds.observe(took.as_secs_f64());
    }

    /// A request was answered. `route` is the pattern, never the URI.
    pub fn answered(&self, route: &str, status: StatusCode) {
        let counter = SENDING
            .iter()
            .zip(&self.sent)
            .find(|(sending, _)| status.is_success() && **sending == route);
        if let Some((_, counter)) = counter {
            counter.inc();
            return;
        }
        let class = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&answered(route, class)).inc();
    }
}

fn answered(route: &str, class: &'static str) -> Answered {
    [("route", route.to_owned().into()), ("status", class.into())]
}

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
    let metrics = &api.metrics;
    registry.register(
        "refusals",
        "Refused requests and sockets by error code",
        metrics.refusals.clone(),
    );
    registry.register(
        "requests",
        "Answered requests by route pattern and status class",
        metrics.requests.clone(),
    );
    let help = "Time from a checked message to its counts";
    registry.register_with_unit("publish", help, Unit::Seconds, metrics.publish_seconds.clone());
    registry.register(
        "ack_lag",
        "Places between an acknowledgement and the newest message queued",
        api.relay.lag(),
    );
    register_relay(&mut registry, &api.relay);
    let age = api.catalog.age().as_secs_f64();
    registry.register_with_unit(
        "catalog_age",
        "Since the catalog was last confirmed",
        Unit::Seconds,
        gauge(age),
    );
    let up = f64::from(u8::from(api.catalog.store_is_up()));
    registry.register("postgres_up", "Whether Postgres answered when last asked", gauge(up));
    register_instances(&mut registry, api.relay.all_realms());
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
    let evaluations = Counter::<u64>::default();
    evaluations.inc_by(relay.evaluations());
    registry.register(
        "evaluations",
        "Expressions of rules and filters evaluated for connections",
        evaluations,
    );
}

fn gauge(value: f64) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    gauge
}

fn register_instances(registry: &mut Registry, mut realms: Vec<Arc<Realm>>) {
    realms.sort_by_key(|realm| std::cmp::Reverse(realm.counters.messages.load(Relaxed)));
    let connections = Family::<Label, Gauge>::default();
    let counters = ["messages", "matched", "queued", "dropped", "replaced"]
        .map(|_| Family::<Label, Counter>::default());
    for (rank, realm) in realms.iter().enumerate() {
        let name = if rank < INSTANCES_WITH_A_LABEL { realm.instance.as_str() } else { "other" };
        let label = [("instance", name.to_owned())];
        connections.get_or_create(&label).inc_by(realm.connections() as i64);
        let counted = &realm.counters;
        let values = [
            &counted.messages,
            &counted.matched,
            &counted.queued,
            &counted.dropped,
            &counted.replaced,
        ];
        for (family, value) in counters.iter().zip(values) {
            family.get_or_create(&label).inc_by(value.load(Relaxed));
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
