//! What clients that resume all at once do to the latency of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use crate::Outcome;
use crate::clients::crowd::{Crowd, Missed, Return};
use crate::clients::envelope::Envelope;
use crate::clients::latency::{Schedule, joined, on_own_thread};
use crate::clients::listener::Ending;
use crate::clients::load::{Load, Target};
use crate::clients::message::Number;
use crate::clients::progress::TIMED_LANE;
use crate::clients::publisher::Inlet;
use crate::measure::Bench;
use crate::report::figures::{Figure, Layout, Report, Sample};
use crate::scenario::{Scenario, StormOptions, Variant};
use crate::servers::Server;
use crate::servers::herald::INSTANCE;

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
/// The server gives way to the listeners, as if these were on machines of their own (setpriority(2)).
const SERVER_PRIORITY: i32 = 10;

impl Bench {
    /// Windows without a storm, with one of new clients, and with one of resuming clients, in turn on one Herald.
    pub async fn storms(&self, scenario: &Scenario, options: &StormOptions, rounds: usize) -> Outcome<Report> {
        let variants = vec!["quiet", "connecting", "resuming"];
        let mut report =
            Report::new(Layout { variants, ratios: vec![(2, 0), (2, 1), (1, 0)], figures: FIGURES.to_vec() });
        let server = self.start(scenario, Variant::Herald).await?;
        let result = self.storm_rounds(&server, options, rounds, &mut report).await;
        result.map_err(|failure| server.process().explain(failure))?;
        Ok(report)
    }

    async fn storm_rounds(
        &self,
        server: &Server,
        options: &StormOptions,
        rounds: usize,
        report: &mut Report,
    ) -> Outcome<()> {
        server.process().lower_priority(SERVER_PRIORITY)?;
        let mut scene = self.set_scene(server, options).await?;
        for round in 0..rounds {
            let mut samples = vec![Sample::new(); WINDOWS.len()];
            for place in 0..WINDOWS.len() {
                let which = (place + round) % WINDOWS.len();
                samples[which] = scene.window(self, server, WINDOWS[which]).await?;
            }
            report.add(samples);
        }
        scene.end().await
    }

    async fn set_scene(&self, server: &Server, options: &StormOptions) -> Outcome<Scene> {
        let (route, path) = (server.route(&self.certificate)?, format!("/?instance={INSTANCE}"));
        let target = Target {
            route: route.clone(),
            path: path.clone(),
            tokens: self.setup.listener_tokens(HEALTHY, options.healthy)?,
            messages: self.messages.clone(),
            ending: Ending::Never,
        };
        let load = Load::open(target).await?;
        let mut crowd = Crowd::new(route, path, self.setup.listener_tokens(CROWD, options.crowd)?)?;
        let nothing = Missed { messages: self.messages.clone(), places: 1..1 };
        crowd.come_back(Return::Afresh, &nothing).await?;
        let interval = Duration::from_secs(1) / self.options.rate;
        let schedule = Schedule { start: Instant::now(), interval, before: 0 };
        load.progress().follow(schedule);
        let stop = Arc::new(AtomicBool::new(false));
        let inlet = Inlet { envelope: TO_HEALTHY, ..server.inlet(&self.certificate)? };
        let (messages, ledger, stopped) = (self.messages.clone(), load.ledger().clone(), stop.clone());
        let receivers = options.healthy as usize..=options.healthy as usize;
        let publishing = on_own_thread(async move || {
            let mut publisher = inlet.open().await?;
            for place in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    return Ok(());
                }
                schedule.wait_for(place);
                publisher.publish(&messages.text(ledger.next(TIMED_LANE)), &receivers).await?;
            }
            Ok(())
        });
        Ok(Scene { load, crowd, schedule, stop, publishing, missed: nothing, miss: options.missed.into() })
    }
}

/// Everyone who takes part.
struct Scene {
    load: Load,
    crowd: Crowd,
    schedule: Schedule,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Outcome<()>>,
    missed: Missed,
    miss: u64,
}

impl Scene {
    /// One window of the same length for all kinds; a storm begins `SETTLING` after the window.
    async fn window(&mut self, bench: &Bench, server: &Server, storm: Option<Return>) -> Outcome<Sample> {
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
        let places = self.schedule.place_at(start) + 1..self.schedule.place_at(end) + 1;
        if self.publishing.is_finished() {
            return Err("the publisher ended".into());
        }
        self.load.delivered(places.end - 1).await?;
        let mut sample = self.load.progress().latencies().take(places).figures();
        sample.extend([cpu, lasted.as_secs_f64()]);
        Ok(sample)
    }

    /// What the crowd misses while it is cut. The counts show that it is.
    async fn publish_to_the_crowd(&mut self, bench: &Bench, server: &Server) -> Outcome<()> {
        let mut publisher = Inlet { envelope: TO_CROWD, ..server.inlet(&bench.certificate)? }.open().await?;
        let first = self.missed.places.end;
        self.missed.places = first..first + self.miss;
        for place in self.missed.places.clone() {
            publisher.publish(&bench.messages.text(Number { lane: TIMED_LANE, place }), &(0..=0)).await?;
        }
        Ok(())
    }

    /// Stops publishing; says what went wrong with it, if anything.
    async fn end(self) -> Outcome<()> {
        self.stop.store(true, Ordering::SeqCst);
        joined(self.publishing).await
    }
}
