//! What clients that resume all at once do to the latency of the others.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use crate::Outcome;
use crate::clients::crowd::{Crowd, Missed, Return};
use crate::clients::envelope::Envelope;
use crate::clients::load::{Load, Target};
use crate::clients::message::Number;
use crate::clients::publisher::Inlet;
use crate::clients::punctual::Punctual;
use crate::measure::Bench;
use crate::report::figures::{Figure, Layout, Report, Sample};
use crate::scenario::{Scenario, StormOptions};
use crate::servers::Server;

const FIGURES: &[Figure] = &[
    Figure::compared("p50 ms"),
    Figure::compared("p99 ms"),
    Figure::compared("p99.9 ms"),
    Figure::compared("greatest ms"),
    Figure::compared("server CPU s"),
    Figure::alone("storm s"),
];
/// The three kinds of window, in the order of the report.
const WINDOWS: [Option<Return>; 3] = [None, Some(Return::Afresh), Some(Return::Resuming)];
/// Those who are connected throughout, and the crowd, hear a group of their own each.
const HEALTHY: &str = "healthy";
const CROWD: &str = "crowd";
const TO_HEALTHY: Envelope = Envelope::To("group:healthy");
const TO_CROWD: Envelope = Envelope::To("group:crowd");
/// How long the server has to notice who was cut, and how far into a window the storm begins.
const SETTLING: Duration = Duration::from_secs(1);

impl Bench {
    /// Windows without a storm, with one of new clients, and with one of resuming clients, in turn
    /// on one Herald.
    pub async fn storms(&self, scenario: &Scenario, options: &StormOptions) -> Outcome<Report> {
        let variants = vec!["quiet", "connecting", "resuming"];
        let report = Report::new(Layout {
            variants,
            ratios: vec![(2, 0), (2, 1), (1, 0)],
            figures: FIGURES.to_vec(),
        });
        let server = self.start_giving_way(scenario).await?;
        let result = self.storm_rounds(&server, options, report).await;
        result.map_err(|failure| server.process().explain(failure))
    }

    async fn storm_rounds(
        &self,
        server: &Server,
        options: &StormOptions,
        report: Report,
    ) -> Outcome<Report> {
        let mut scene = self.set_scene(server, options).await?;
        let report = self
            .in_turn(report, async |which| scene.window(self, server, WINDOWS[which]).await)
            .await?;
        scene.publishing.end().await?;
        scene.load.delivered(scene.load.ledger().messages()).await?;
        scene.load.check()?;
        Ok(report)
    }

    async fn set_scene(&self, server: &Server, options: &StormOptions) -> Outcome<Scene> {
        let load = Load::open(self.target(server, HEALTHY, options.healthy)?).await?;
        let Target { route, path, tokens, .. } = self.target(server, CROWD, options.crowd)?;
        let mut crowd = Crowd::new(route, path, tokens)?;
        let nothing = Missed { messages: self.messages.clone(), places: 1..1 };
        crowd.come_back(Return::Afresh, &nothing).await?;
        let inlet = Inlet { envelope: TO_HEALTHY, ..server.inlet(&self.certificate)? };
        let publishing =
            Punctual::begin(&load, inlet, self.messages.clone(), self.options.rate).await?;
        Ok(Scene { load, publishing, crowd, missed: nothing, miss: options.missed.into() })
    }
}

/// Everyone who takes part.
struct Scene {
    load: Load,
    publishing: Punctual,
    crowd: Crowd,
    missed: Missed,
    miss: u64,
}

impl Scene {
    /// One window of the same length for all kinds; a storm begins `SETTLING` after the window.
    async fn window(
        &mut self,
        bench: &Bench,
        server: &Server,
        storm: Option<Return>,
    ) -> Outcome<Sample> {
        match storm {
            None => {
                self.crowd.ping().await?;
                sleep(SETTLING).await;
            }
            Some(_) => {
                self.crowd.cut();
                sleep(SETTLING).await;
                self.publish_to_the_crowd(bench, server).await?;
            }
        }
        let (start, cpu) = (Instant::now(), server.process().cpu_seconds()?);
        sleep(SETTLING).await;
        let lasted = match storm {
            Some(how) => self.crowd.come_back(how, &self.missed).await?,
            None => Duration::ZERO,
        };
        let end = start + bench.options.length;
        if Instant::now() > end {
            return Err(format!("the storm lasted {lasted:?}, longer than the window").into());
        }
        sleep_until(end.into()).await;
        let cpu = server.process().cpu_seconds()? - cpu;
        let mut sample = self.publishing.delays(start..end).await?;
        sample.extend([cpu, lasted.as_secs_f64()]);
        Ok(sample)
    }

    /// What the crowd misses while it is cut. The counts show that it is.
    async fn publish_to_the_crowd(&mut self, bench: &Bench, server: &Server) -> Outcome<()> {
        let mut publisher =
            Inlet { envelope: TO_CROWD, ..server.inlet(&bench.certificate)? }.open().await?;
        let first = self.missed.places.end;
        self.missed.places = first..first + self.miss;
        for place in self.missed.places.clone() {
            publisher.publish(&bench.messages.text(Number { lane: 0, place }), &(0..=0)).await?;
        }
        Ok(())
    }
}
