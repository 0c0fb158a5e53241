//! What a neighbour that publishes all it may does to the latency of a quiet instance.

use std::time::{Duration, Instant};

use futures_util::future::try_join;
use serde_json::json;
use tokio::time::{sleep, sleep_until};

use crate::Outcome;
use crate::clients::listener::Ending;
use crate::clients::load::{Load, Target};
use crate::clients::neighbour::Neighbour;
use crate::clients::publisher::Inlet;
use crate::clients::punctual::Punctual;
use crate::measure::Bench;
use crate::report::figures::{Figure, Layout, Report, Sample};
use crate::scenario::{FairnessOptions, Scenario};
use crate::servers::Server;

const FIGURES: &[Figure] = &[
    Figure::compared("p50 ms"),
    Figure::compared("p99 ms"),
    Figure::compared("p99.9 ms"),
    Figure::compared("greatest ms"),
    Figure::alone("server CPU s"),
    Figure::alone("neighbour's messages"),
    Figure::alone("neighbour's deliveries/s"),
    Figure::alone("answers 429"),
    Figure::alone("answers 503"),
    Figure::alone("closed with 4420"),
    Figure::alone("cut"),
];
/// The two kinds of window, in the order of the report.
const WINDOWS: [Window; 2] = [Window::Alone, Window::Storm];
/// The other instance, and the group of its listeners.
const NEIGHBOUR: &str = "neighbour";
/// How long everything is left alone before a window.
const SETTLING: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Window {
    /// The neighbour is connected and publishes nothing.
    Alone,
    /// It publishes all it may.
    Storm,
}

impl Bench {
    /// Windows without and with a neighbour that publishes, in turn on one Herald.
    pub async fn fairness(
        &self,
        scenario: &Scenario,
        options: &FairnessOptions,
    ) -> Outcome<Report> {
        let variants = vec!["alone", "storm"];
        let report =
            Report::new(Layout { variants, ratios: vec![(1, 0)], figures: FIGURES.to_vec() });
        let (server, _processors) = self.start_apart(scenario).await?;
        let result = self.fairness_rounds(&server, options, report).await;
        result.map_err(|failure| server.process().explain(failure))
    }

    async fn fairness_rounds(
        &self,
        server: &Server,
        options: &FairnessOptions,
        report: Report,
    ) -> Outcome<Report> {
        let neighbour = self.neighbour(server, options).await?;
        let load = Load::open(self.target(server, "quiet", options.quiet)?).await?;
        let inlet = server.inlet(&self.certificate)?;
        let publishing =
            Punctual::begin(&load, inlet, self.messages.clone(), self.options.rate).await?;
        let scene = Scene { publishing, neighbour, length: self.options.length };
        let report =
            self.in_turn(report, async |which| scene.window(server, WINDOWS[which]).await).await?;
        scene.publishing.end().await?;
        load.delivered(load.ledger().messages()).await?;
        load.check()?;
        Ok(report)
    }

    /// An instance with the product's own rates of messages. How many may connect, and how fast, is
    /// no part of this.
    async fn neighbour(&self, server: &Server, options: &FairnessOptions) -> Outcome<Neighbour> {
        let Server::Herald(herald) = server else { return Err("a neighbour needs Herald".into()) };
        let limits = json!({
            "payloadBytes": 65_536, "componentPayloadBytes": 65_536,
            "connections": 100_000, "connectsPerSecond": 100_000,
        });
        herald.make_instance(NEIGHBOUR, limits).await?;
        let target = Target {
            path: format!("/?instance={NEIGHBOUR}"),
            ending: Ending::TooSlow,
            ..self.target(server, NEIGHBOUR, options.neighbours)?
        };
        let inlet = server.inlet(&self.certificate)?;
        let tokens = (0..options.publishers)
            .map(|index| self.setup.publisher_token(&format!("{NEIGHBOUR}-{index}")));
        let inlets =
            tokens.map(|token| Ok(Inlet { token: token?, instance: NEIGHBOUR, ..inlet.clone() }));
        Neighbour::open(target, inlets.collect::<Outcome<_>>()?, options.insist).await
    }
}

/// Everyone who takes part.
struct Scene {
    /// To the quiet instance.
    publishing: Punctual,
    neighbour: Neighbour,
    length: Duration,
}

impl Scene {
    /// One window of the same length for both kinds. A storm lasts for all of it, and has drained
    /// before the next.
    async fn window(&self, server: &Server, window: Window) -> Outcome<Sample> {
        let gathered = self.neighbour.gather().await?;
        let publishers = match window {
            Window::Alone => Vec::new(),
            Window::Storm => gathered,
        };
        sleep(SETTLING).await;
        let [closed_before, cut_before] = self.neighbour.load().progress().departures();
        let deliveries = || self.neighbour.load().progress().deliveries();
        let (start, cpu, before) = (Instant::now(), server.process().cpu_seconds()?, deliveries());
        let end = start + self.length;
        let watching = async {
            sleep_until(end.into()).await;
            Ok((server.process().cpu_seconds()? - cpu, deliveries() - before))
        };
        let (tally, (cpu, delivered)) =
            try_join(self.neighbour.publish(publishers, end), watching).await?;
        let delays = self.publishing.delays(start..end).await?;
        self.neighbour.drained().await?;
        let [closed, cut] = self.neighbour.load().progress().departures();
        let [accepted, limited, overloaded] = tally.counts();
        let delivered = delivered as f64 / self.length.as_secs_f64();
        let rest = [
            cpu,
            accepted,
            delivered,
            limited,
            overloaded,
            (closed - closed_before) as f64,
            (cut - cut_before) as f64,
        ];
        Ok([delays, rest.into()].concat())
    }
}
