//! The relay beside a model that forgets nothing: every step is taken by both and compared.

use super::client::{Client, Due, Open};
use super::history::{Sent, Tenancy};
use super::naive::{INSTANCES, Person, State, tenant};
use super::node::Node;
use super::shared_log::CommonLog;
use crate::catalog::{Catalog, Snapshot};
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::domain::expression::compiled::{Compiled, CompiledBounds};
use crate::domain::instance::InstanceId;
use crate::domain::names::Names;
use crate::domain::principal::{GroupId, Principal, Scope, UserId};
use crate::relay::outbox::Next;
use crate::relay::{
    ConnectionBounds, HistoryBounds, Joining, OutboxBounds, QueueBounds, RelaySettings, SLICE,
    Step, TraceBounds, Transport,
};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that a client may be sent when it resumes.
const REPLAYED: usize = 10;

/// Of a small relay.
pub const SETTINGS: RelaySettings = RelaySettings {
    queue: QueueBounds { messages: 64, bytes: 1 << 20 },
    connection: ConnectionBounds {
        outbox: OutboxBounds { bytes: 2_000, stall: Duration::from_secs(10) },
        keep_alive: Duration::from_secs(75),
        comment: Duration::from_secs(15),
        leeway_seconds: 30,
        expiring_seconds: 60,
        filters: 4,
        newcomers: 100,
        heard_bytes: 64 << 20,
        slice: SLICE,
    },
    history: HistoryBounds { messages: 6, replay_messages: REPLAYED, ..HistoryBounds::WIDE },
    traces: TraceBounds::WIDE,
    ids: 100,
    keep_alive_seconds: 60,
    connections: 1_000,
};

/// What one run is about.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Relays: one has a log of its own, several share one.
    pub relays: usize,
    /// Messages that a worker's queue holds.
    pub queue: usize,
    /// Messages that a window keeps of an audience.
    pub kept: usize,
    /// Whether the workers come to nothing while a follower takes and people come and go.
    pub are_workers_late: bool,
    /// Of a turn: none at all makes a turn of every rule that is asked.
    pub slice: Duration,
}

pub struct World {
    pub terms: Terms,
    pub catalog: Catalog,
    /// What several relays share.
    pub log: Option<Arc<CommonLog>>,
    pub nodes: Vec<Node>,
    pub tenancies: Vec<Tenancy>,
    pub clients: Vec<Client>,
    numbers: usize,
}

impl Terms {
    /// One relay with a log of its own.
    pub const ALONE: Self = Self {
        relays: 1,
        queue: SETTINGS.queue.messages,
        kept: SETTINGS.history.messages,
        are_workers_late: false,
        slice: SLICE,
    };

    /// What each relay is built with.
    pub fn settings(self) -> RelaySettings {
        RelaySettings {
            queue: QueueBounds { messages: self.queue, ..SETTINGS.queue },
            history: HistoryBounds { messages: self.kept, ..SETTINGS.history },
            connection: ConnectionBounds { slice: self.slice, ..SETTINGS.connection },
            ..SETTINGS
        }
    }
}

impl World {
    /// Nobody is there and nothing was sent.
    pub fn new(terms: Terms) -> Self {
        let tenancies: Vec<_> = INSTANCES.iter().map(|_| Tenancy::default()).collect();
        let catalog = Catalog::new(snapshot(&tenancies));
        let log = (terms.relays > 1).then(Arc::default);
        let start = |_| Node::start(&catalog, terms, log.as_ref());
        let nodes = (0..terms.relays).map(start).collect();
        Self { terms, nodes, log, catalog, tenancies, clients: vec![], numbers: 0 }
    }

    /// The number of one more message.
    pub fn next_number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    /// Someone new connects on a node.
    pub async fn join(&mut self, node: usize, person: Person) {
        self.clients.push(Client { person, cursor: None, whole_to: None, open: None });
        self.connect(node, self.clients.len() - 1).await;
    }

    /// Connects a client anew, on any node, with the cursor that it has.
    pub async fn connect(&mut self, node: usize, which: usize) {
        let person = self.clients[which].person.clone();
        let since = self.clients[which].cursor;
        // It has nothing to read any more once it hangs up.
        self.clients[which].open = None;
        if let Some(since) = since
            && !self.is_in_time(node, person.instance, since).await
        {
            return;
        }
        let narrowing = person
            .narrowing
            .as_ref()
            .map(|wishes| Narrowing::parse(&json!(wishes).to_string()).unwrap());
        let id = InstanceId::new(INSTANCES[person.instance]).unwrap();
        let transport = if which.is_multiple_of(2) { Transport::Wss } else { Transport::Sse };
        let joining = Joining::of_a_test(principal(&person), self.catalog.tenant(&id).unwrap());
        let joining = Joining { transport, narrowing, since: since.map(Some), ..joining };
        let at = &self.nodes[node];
        let worker = &at.workers[which % at.workers.len()];
        let registration = at.relay.connect(worker, joining).await.unwrap();
        let heard = person.heard(&self.tenancies[person.instance].channels);
        let mut open = Open::new(registration, node, heard);
        let Some(Next::Frame(frame)) = open.next() else { panic!("no first frame") };
        let connected: Value = serde_json::from_slice(frame.json()).unwrap();
        assert_eq!(
            (&connected["type"], &connected["channels"]),
            (&json!("CONNECTED"), &json!(open.heard))
        );
        let cursor = Cursor::parse(connected["cursor"].as_str().unwrap()).unwrap();
        match since {
            None => assert!(connected.get("recovered").is_none()),
            Some(since) => open.due = self.replay(&connected, since, &open, &self.clients[which]),
        }
        self.clients[which].cursor = Some(cursor);
        if open.due.is_empty() {
            self.clients[which].whole_to = Some(cursor);
        }
        self.clients[which].open = Some(open);
    }

    /// Whether a node has applied what a cursor names, or does so now: unless it is stopped.
    async fn is_in_time(&mut self, node: usize, instance: usize, since: Cursor) -> bool {
        let there = self.there(node);
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let waited = self.nodes[node].relay.wait_for(&id, since).await;
        self.note(node, &there);
        let Some(follower) = &self.nodes[node].follower else { return true };
        assert_eq!(waited.is_ok(), follower.taken() >= since.position);
        assert!(waited.is_ok() || follower.is_stopped());
        waited.is_ok()
    }

    /// What must follow a `CONNECTED` that answers a cursor.
    fn replay(
        &self,
        connected: &Value,
        since: Cursor,
        open: &Open,
        client: &Client,
    ) -> VecDeque<Due> {
        let tenancy = &self.tenancies[client.person.instance];
        let now = Cursor::parse(connected["cursor"].as_str().unwrap()).unwrap();
        let node = &self.nodes[open.node];
        let applied = node.applied[client.person.instance];
        let whole_to = client.whole_to.unwrap_or(since);
        let missed = tenancy.missed(applied, whole_to, open, &client.person);
        if connected["recovered"] == true {
            assert_eq!(since.epoch, now.epoch, "another memory is called whole");
            assert!(missed.len() <= REPLAYED);
            return missed.into_iter().map(|sent| sent.due(None)).collect();
        }
        assert_eq!(connected["recovered"], false);
        match connected["reason"].as_str() {
            Some("EPOCH") => assert_ne!(since.epoch, now.epoch, "the memory is the same"),
            Some("TOO_MUCH") => {
                assert!(missed.len() > REPLAYED, "only {} were missed", missed.len())
            }
            Some("TOO_OLD") => {
                let behind = &tenancy.sent[tenancy.count_to(since.position).min(applied)..applied];
                let behind: Vec<&Sent> = behind.iter().collect();
                assert!(
                    since.position < node.given_up_to[client.person.instance]
                        || Tenancy::is_more_than_kept(self.terms.kept, &behind, open.heard.iter()),
                    "nothing was lost"
                );
            }
            other => panic!("{other:?} is no reason"),
        }
        VecDeque::new()
    }

    /// Gives a client a new token, on the open socket if there is one.
    pub async fn renew(&mut self, which: usize, groups: Vec<&'static str>, level: Option<i64>) {
        self.settle().await;
        let client = &mut self.clients[which];
        (client.person.groups, client.person.level) = (groups, level);
        let Some(open) = client.open.as_mut().filter(|open| !open.is_ending()) else { return };
        open.heard = client.person.heard(&self.tenancies[client.person.instance].channels);
        open.due.push_back(Due::Channels(open.heard.clone()));
        let renewed = open.registration.renew(Arc::new(principal(&client.person)));
        assert!(self.answer(renewed).await.is_some(), "it never holds");
    }

    /// Changes or deletes a channel, and waits until every connection knows.
    pub async fn configure(
        &mut self,
        instance: usize,
        channel: &'static str,
        state: Option<State>,
    ) {
        self.settle().await;
        let channels = &mut self.tenancies[instance].channels;
        match state {
            Some(state) => drop(channels.insert(channel, state)),
            None => drop(channels.remove(channel)),
        }
        self.catalog.replace(snapshot(&self.tenancies));
        for client in &mut self.clients {
            let Some(open) = &mut client.open else { continue };
            let heard = client.person.heard(&self.tenancies[client.person.instance].channels);
            for patience in 0.. {
                if open.is_ending() || open.registration.hears() == heard {
                    break;
                }
                assert!(patience < 1_000, "{:?} is not told", client.person);
                tokio::task::yield_now().await;
            }
            if heard != open.heard {
                open.due.push_back(Due::Channels(heard.clone()));
                open.heard = heard;
            }
        }
    }

    /// A client reads at most so many frames.
    pub fn read(&mut self, which: usize, most: usize) {
        let client = &self.clients[which];
        let (instance, Some(open)) = (client.person.instance, &client.open) else { return };
        let node = open.node;
        // Workers also work while another node is asked something.
        self.note_loss(node, instance);
        let is_delivered = self.nodes[node].has_delivered(instance);
        self.clients[which].read(most, is_delivered);
    }

    /// More than the patience with stalled sockets passes: whoever has something waiting is told to
    /// go.
    pub async fn stall(&mut self) {
        self.settle().await;
        let later = Instant::now() + Duration::from_secs(11);
        let waits = |open: &Open| open.registration.link.outbox.waiting_bytes() > 0;
        let stalled: Vec<bool> =
            self.clients.iter().map(|client| client.open.as_ref().is_some_and(waits)).collect();
        for worker in self.nodes.iter().flat_map(|node| &node.workers) {
            worker.shard().borrow_mut().tick(later, 0);
        }
        for (client, stalled) in self.clients.iter().zip(stalled) {
            assert!(!stalled || client.open.as_ref().is_some_and(Open::is_ending));
        }
    }

    /// The window passes on a node, or half of it is given up for the process's bound.
    pub fn trim(&mut self, node: usize, instance: usize, all: bool) {
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let at = &mut self.nodes[node];
        let newest = match at.applied[instance].checked_sub(1) {
            Some(last) => self.tenancies[instance].sent[last].cursor.position,
            None => 0,
        };
        at.given_up_to[instance] = newest;
        let timeline = at.relay.timeline(&id);
        if all {
            at.ids_gone_to[instance] = newest;
            timeline.trim(Instant::now() + Duration::from_secs(1_000));
        } else {
            timeline.evict_window();
        }
    }

    /// A new process in the place of the only one: after a graceful stop it takes up the windows,
    /// after a kill it knows nothing.
    pub fn restart(&mut self, graceful: bool) {
        self.leave(0);
        let mut file = Vec::new();
        self.nodes[0].relay.write_windows("1", &mut file).unwrap();
        let fresh = Node::start(&self.catalog, self.terms, None);
        let old = std::mem::replace(&mut self.nodes[0], fresh);
        if graceful {
            let Node { applied, given_up_to, ids_gone_to, .. } = old;
            let node = &mut self.nodes[0];
            (node.applied, node.given_up_to, node.ids_gone_to) =
                (applied, given_up_to, ids_gone_to);
            let compiled = Compiled::new(CompiledBounds::default());
            node.relay.read_windows(Some("1"), file.as_slice(), &compiled).unwrap();
        } else {
            self.tenancies.iter_mut().for_each(|tenancy| tenancy.sent.clear());
        }
    }

    /// Everyone who is connected on a node loses the connection.
    pub fn leave(&mut self, node: usize) {
        for client in &mut self.clients {
            client.open.take_if(|open| open.node == node);
        }
        assert_eq!(self.nodes[node].relay.open(), 0);
    }

    /// All nodes follow to the end, everyone who is connected reads to the end, and all leave.
    pub async fn end(mut self) {
        for node in 0..self.nodes.len() {
            self.stop(node, false);
            self.take(node, u64::MAX);
        }
        self.settle().await;
        (0..self.clients.len()).for_each(|which| self.read(which, usize::MAX));
        (0..self.nodes.len()).for_each(|node| self.leave(node));
        // Nobody is there any more: what was queued was written, or is counted as lost.
        let instances = INSTANCES.map(|id| InstanceId::new(id).unwrap());
        for node in &self.nodes {
            for id in (0..=self.numbers).map(|number| number.to_string()) {
                let traces = instances.iter().filter_map(|it| node.relay.trace_of(it, &id));
                for trace in traces {
                    let sums = trace.progress.sums();
                    let ends = [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended];
                    let ended: u64 = ends.map(|step| sums.of(step)).iter().sum();
                    assert_eq!(sums.of(Step::Queued), ended, "{trace:?}");
                }
            }
            assert!(node.workers.iter().all(|it| it.shard().borrow().keys().is_empty()));
        }
    }
}

fn snapshot(tenancies: &[Tenancy]) -> Snapshot {
    let tenants = tenancies
        .iter()
        .enumerate()
        .map(|(index, tenancy)| Arc::new(tenant(index, &tenancy.channels)));
    Snapshot { tenants: tenants.map(|tenant| (tenant.instance.id.clone(), tenant)).collect() }
}

fn principal(person: &Person) -> Principal {
    let groups: Vec<GroupId> =
        person.groups.iter().map(|group| GroupId::new(group).unwrap()).collect();
    Principal {
        groups: Names::new(&groups).unwrap(),
        scope: Scope::Everywhere,
        claims: person.level.map(|level| ("level".to_owned(), json!(level))).into_iter().collect(),
        ..Principal::new(UserId::new(person.user).unwrap(), i64::MAX)
    }
}
