//! An instance whose rules take many turns, and one beside it.

use super::super::newcomer::Joining;
use super::super::registration::{ConnectError, Registration};
use super::super::thread::Worker;
use crate::catalog::{Catalog, Snapshot, Tenant};
use crate::domain::audience::Audience;
use crate::domain::channel::Channel;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Scope as ExpressionScope};
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::message::{Message, Reach};
use crate::domain::names::Names;
use crate::domain::principal::{GroupId, Principal, Scope, UserId};
use crate::domain::rule::{Effect, Rule, Rules, Subject};
use crate::relay::member::Link;
use crate::relay::model_test::SETTINGS;
use crate::relay::outbox::Next;
use crate::relay::settings::{ConnectionBounds, HistoryBounds, RelaySettings};
use crate::relay::{Head, Relay};
use futures_util::FutureExt;
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

pub const HEAVY: &str = "heavy";
pub const LIGHT: &str = "light";

/// Channels of the heavy instance, and rules of each: the last one lets everyone of a group in.
pub const CHANNELS: usize = 3;
pub const RULES: usize = 4;

pub type Arriving<'a> = Pin<Box<dyn Future<Output = Result<Registration, ConnectError>> + 'a>>;

pub struct Scene {
    pub relay: Relay,
    pub catalog: Catalog,
    pub worker: Worker,
}

fn when(text: &str) -> Rule {
    let expression = Expression::parse(text, ExpressionScope::Hear).unwrap();
    Rule { effect: Effect::Allow, subject: Subject::When(expression) }
}

pub fn heavy_channel(number: usize, group: &str) -> Arc<Channel> {
    let mut rules = vec![when("user == 'nobody'"); RULES - 1];
    rules.push(when(&format!("'{group}' in groups")));
    let rules = Rules::new(rules).unwrap();
    Arc::new(Channel { rules, ..Channel::of_a_test(&format!("c{number}")) })
}

pub fn tenant(id: &str, channels: impl IntoIterator<Item = Arc<Channel>>) -> Tenant {
    let channels = channels.into_iter().map(|channel| (channel.name.clone(), channel)).collect();
    Tenant { channels, ..Tenant::new(Instance::new(InstanceId::new(id).unwrap())) }
}

pub fn heavy() -> Tenant {
    heavy_at(1)
}

/// The same with other versions of the channels: all rules are to be asked again.
pub fn heavy_at(version: i64) -> Tenant {
    let channel = |number| (*heavy_channel(number, "eng")).clone();
    let at = |number| Arc::new(Channel { version, ..channel(number) });
    tenant(HEAVY, (0..CHANNELS).map(at))
}

pub fn principal(user: &str, groups: &[&str]) -> Principal {
    let groups: Vec<_> = groups.iter().map(|group| GroupId::new(group).unwrap()).collect();
    let groups = Names::new(&groups).unwrap();
    Principal {
        groups,
        scope: Scope::Everywhere,
        ..Principal::new(UserId::new(user).unwrap(), i64::MAX)
    }
}

pub fn json(link: &Link) -> Option<Value> {
    match link.outbox.poll_next(&mut Context::from_waker(Waker::noop()), Instant::now) {
        Poll::Ready(Next::Frame(frame)) => Some(serde_json::from_slice(frame.json()).unwrap()),
        Poll::Ready(Next::Close(close)) => Some(close.reason.into()),
        Poll::Pending => None,
    }
}

impl Scene {
    pub fn new(newcomers: usize) -> Self {
        Self::with(ConnectionBounds { newcomers, ..SETTINGS.connection })
    }

    /// With these bounds, and turns without time.
    pub fn with(bounds: ConnectionBounds) -> Self {
        let connection = ConnectionBounds { slice: Duration::ZERO, ..bounds };
        let history = HistoryBounds::WIDE;
        let catalog = Catalog::new(Snapshot::default());
        let settings = RelaySettings { connection, history, ..SETTINGS };
        let relay = Relay::new(catalog.clone(), settings);
        let worker = relay.add_worker();
        let scene = Self { relay, catalog, worker };
        scene.configure(heavy());
        scene
    }

    /// The heavy instance is this from now on.
    pub fn configure(&self, heavy: Tenant) {
        let tenants = [heavy, tenant(LIGHT, [])].map(|it| (it.instance.id.clone(), Arc::new(it)));
        self.catalog.replace(Snapshot { tenants: tenants.into_iter().collect() });
    }

    pub fn arrive(
        &self,
        instance: &str,
        principal: Principal,
        since: Option<Cursor>,
    ) -> Arriving<'_> {
        let tenant = self.catalog.tenant(&InstanceId::new(instance).unwrap()).unwrap();
        let joining = Joining::of_a_test(principal, tenant);
        let joining = Joining { since: since.map(Some), ..joining };
        Box::pin(self.relay.connect(&self.worker, joining))
    }

    /// Connects, however many turns it takes, and reads what comes first.
    pub fn connect(&self, instance: &str, principal: Principal) -> Registration {
        let mut arriving = self.arrive(instance, principal, None);
        loop {
            if let Some(registration) = arriving.as_mut().now_or_never() {
                let registration = registration.unwrap();
                assert_eq!(json(&registration.link).unwrap()["type"], "CONNECTED");
                return registration;
            }
            self.turn();
        }
    }

    /// One turn of whoever's turn it is.
    pub fn turn(&self) {
        let snapshot = self.catalog.load();
        self.worker.shard().borrow_mut().take_turn(&snapshot, Instant::now(), &|_| {});
    }

    /// Turns until there is nothing to do; how many.
    pub fn turns(&self) -> usize {
        let mut turns = 0;
        while self.worker.shard().borrow().has_turns() {
            self.turn();
            turns += 1;
        }
        turns
    }

    /// The worker sees what has changed.
    pub fn follow(&self) {
        self.worker.shard().borrow_mut().follow(&self.catalog.load());
    }

    pub fn begin_draining(&self) {
        assert_eq!(self.relay.drain(Duration::ZERO).now_or_never(), Some(1));
        self.worker.shard().borrow_mut().turn_newcomers_away();
    }

    pub fn asked(&self) -> u64 {
        self.relay.evaluations()
    }
}

pub fn error(outcome: Option<Result<Registration, ConnectError>>) -> Option<ConnectError> {
    outcome.and_then(Result::err)
}

/// In the scene's thread: its worker does nothing by itself.
pub fn stopped(scene: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (_here, workers) = (runtime.enter(), LocalSet::new());
    let _stopped = workers.enter();
    scene();
}

/// Publishes to a channel of the heavy instance; the worker is told of it, and does nothing yet.
pub fn publish(scene: &Scene, id: &str, filter: Option<&str>) -> Arc<Head> {
    let filter = filter.map(|text| Expression::parse(text, ExpressionScope::Filter).unwrap());
    let audience = Audience::Channel(heavy_channel(0, "eng").name.clone());
    let reach = Arc::new(Reach { filter, ..Reach::all_of(audience) });
    let message = Message { reach, ..Message::of_a_test(id) };
    let heavy = InstanceId::new(HEAVY).unwrap();
    // It has its place at once; nobody waits for the counts.
    assert!(scene.relay.publish(&heavy, message, None).now_or_never().is_none_or(|it| it.is_ok()));
    scene.relay.trace_of(&heavy, id).unwrap()
}
