//! Counters that nobody else keeps: requests, refusals, and how long publishing took.

use super::error::Code;
use actix_web::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the histogram of publishing, in seconds.
const PUBLISH_SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// The one label of a family, and its value.
pub(super) type Label = [(&'static str, String); 1];
/// A route pattern and a class of status.
type Answered = [(&'static str, Cow<'static, str>); 2];

/// The routes that publish: there is a request for every message, and so what is done for each is
/// kept small.
pub const SENDING: [&str; 2] = ["/v1/messages", "/v1/messages/batch"];

/// What is known of the lease by which this node holds the database; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LeaseFigures(Arc<LeaseNow>);

#[derive(Debug, Default)]
struct LeaseNow {
    is_held: AtomicBool,
    /// Of the newest lease; 0 before the first.
    term: AtomicI64,
}

impl LeaseFigures {
    /// It was taken or renewed.
    pub fn hold(&self, term: i64) {
        self.0.term.store(term, Relaxed);
        self.0.is_held.store(true, Relaxed);
    }

    /// It is over, given back or another's.
    pub fn lose(&self) {
        self.0.is_held.store(false, Relaxed);
    }

    /// Puts them on a page.
    pub(super) fn register(&self, registry: &mut Registry) {
        let (held, term) = (Gauge::<i64>::default(), Gauge::<i64>::default());
        held.set(i64::from(self.0.is_held.load(Relaxed)));
        term.set(self.0.term.load(Relaxed));
        registry.register("lease_held", "Whether this node holds the database's lease", held);
        let help =
            "Grows with every node that takes the lease without the memory of the one before";
        registry.register("lease_term", help, term);
    }
}

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

    /// Puts them on a page.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "refusals",
            "Refused requests and sockets by error code",
            self.refusals.clone(),
        );
        registry.register(
            "requests",
            "Answered requests by route pattern and status class",
            self.requests.clone(),
        );
        let help = "Time from a checked message to its counts";
        registry.register_with_unit("publish", help, Unit::Seconds, self.publish_seconds.clone());
    }
}

fn answered(route: &str, class: &'static str) -> Answered {
    [("route", route.to_owned().into()), ("status", class.into())]
}
