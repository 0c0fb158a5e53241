//! One relay of the model with its workers, and how far it has followed the log.

use super::history::{Sent, Tenancy};
use super::naive::INSTANCES;
use super::shared_log::{CommonLog, Follower};
use super::world::{Terms, World};
use crate::catalog::Catalog;
use crate::domain::instance::InstanceId;
use crate::relay::{Link, Log, Relay, Tenure, Worker};
use futures_util::FutureExt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

/// Shards of each relay, all on the test's one thread.
const WORKERS: usize = 2;
/// Turns of the workers within which everything must be done.
const PATIENCE: usize = 100_000;

/// A relay in its own process, as it were.
pub struct Node {
    pub relay: Relay,
    pub workers: Vec<Worker>,
    /// Its end of the log; none where it has its own.
    pub follower: Option<Arc<Follower>>,
    /// How many of an instance's messages it has applied.
    pub applied: [usize; INSTANCES.len()],
    /// Up to here, messages were given up for bounds that are not the audience's own.
    pub given_up_to: [u64; INSTANCES.len()],
    /// Up to here, ids were forgotten.
    pub ids_gone_to: [u64; INSTANCES.len()],
    /// What it has applied since its workers had nothing to do.
    undelivered: [Vec<Undelivered>; INSTANCES.len()],
    /// Whether a worker may have lost something.
    pub has_lost: bool,
}

/// A message that workers may still have before them.
struct Undelivered {
    /// Which, of its instance.
    index: usize,
    /// For whom it was when it was applied.
    receivers: Vec<Rc<Link>>,
}

impl Node {
    /// A new process that has followed nothing yet.
    pub fn start(catalog: &Catalog, terms: Terms, log: Option<&Arc<CommonLog>>) -> Self {
        let follower = log.map(|log| Arc::new(Follower::new(log)));
        let end = match &follower {
            Some(follower) => Log::Shared(follower.clone()),
            None => Log::Memory(Tenure::default()),
        };
        let relay = Relay::with_log(catalog.clone(), terms.settings(), end);
        if let Some(follower) = &follower {
            follower.serve(&relay);
        }
        Self {
            workers: (0..WORKERS).map(|_| relay.add_worker()).collect(),
            relay,
            follower,
            applied: Default::default(),
            given_up_to: Default::default(),
            ids_gone_to: Default::default(),
            undelivered: Default::default(),
            has_lost: false,
        }
    }

    /// Whether its end of the log is stopped.
    pub fn is_stopped(&self) -> bool {
        self.follower.as_ref().is_some_and(|follower| follower.is_stopped())
    }

    /// Whether it has applied all there is, and its workers have delivered it.
    pub fn is_quiet(&self) -> bool {
        let is_late = self.follower.as_ref().is_some_and(|follower| follower.is_late());
        !is_late && self.undelivered.iter().all(Vec::is_empty)
    }

    /// Whether its workers have delivered what it has applied of an instance.
    pub fn has_delivered(&self, instance: usize) -> bool {
        self.undelivered[instance].is_empty()
    }

    fn is_idle(&self) -> bool {
        self.workers.iter().all(Worker::is_idle)
    }
}

impl World {
    /// A follower applies at most so many messages, at once: its workers come to nothing meanwhile.
    pub fn take(&mut self, node: usize, most: u64) {
        let there = self.there(node);
        if let Some(follower) = &self.nodes[node].follower {
            follower.take(most);
        }
        self.note(node, &there);
    }

    /// A follower applies nothing any more, or goes on.
    pub fn stop(&mut self, node: usize, is_stopped: bool) {
        if let Some(follower) = &self.nodes[node].follower {
            follower.stop(is_stopped);
        }
    }

    /// A new process in the place of this one: it knows nothing, and reads what the log keeps
    /// before anyone connects.
    pub fn start_anew(&mut self, node: usize) {
        self.leave(node);
        self.nodes[node] = Node::start(&self.catalog, self.terms, self.log.as_ref());
        let sent = self.tenancies.iter_mut().flat_map(|tenancy| &mut tenancy.sent);
        sent.for_each(|sent| sent.told = sent.told.filter(|(at, _)| *at != node));
        self.take(node, u64::MAX);
    }

    /// The connections that are there and not ending.
    pub fn there(&self, node: usize) -> Vec<usize> {
        let is_there = |which: &usize| {
            self.clients[*which]
                .open
                .as_ref()
                .is_some_and(|open| open.node == node && !open.is_ending())
        };
        (0..self.clients.len()).filter(is_there).collect()
    }

    /// Those of them that a message is for.
    pub fn receivers(&self, sent: &Sent, there: &[usize]) -> Vec<usize> {
        let mut receivers = there.to_vec();
        receivers.retain(|which| {
            let client = &self.clients[*which];
            client.open.as_ref().is_some_and(|open| sent.is_for_one_there(&client.person, open))
        });
        receivers
    }

    /// What a node has applied by now is due to those who were there.
    pub fn note(&mut self, node: usize, there: &[usize]) {
        for instance in 0..INSTANCES.len() {
            let tenancy = &self.tenancies[instance];
            let applied = match &self.nodes[node].follower {
                Some(follower) => tenancy.count_to(follower.taken()),
                None => tenancy.sent.len(),
            };
            for index in self.nodes[node].applied[instance]..applied {
                let sent = &self.tenancies[instance].sent[index];
                let mut receivers = Vec::new();
                for which in self.receivers(sent, there) {
                    let Some(open) = &mut self.clients[which].open else { continue };
                    open.due.push_back(sent.due(sent.lane.clone()));
                    receivers.push(open.registration.link.clone());
                }
                self.nodes[node].undelivered[instance].push(Undelivered { index, receivers });
            }
            self.nodes[node].applied[instance] = applied;
        }
    }

    /// What `asked` answers once the workers have nothing to do; none where it waits for what has
    /// been lost.
    pub async fn answer<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        let mut asked = pin!(asked);
        loop {
            if let Some(answer) = asked.as_mut().now_or_never() {
                return Some(answer);
            }
            if self.nodes.iter().all(Node::is_idle) {
                return None;
            }
            self.wait_until_idle().await;
        }
    }

    /// The workers do all they have to do, and have then told of each message what they did.
    pub async fn settle(&mut self) {
        self.wait_until_idle().await;
        for node in 0..self.nodes.len() {
            for instance in 0..INSTANCES.len() {
                let has_lost = self.note_loss(node, instance);
                let delivered = std::mem::take(&mut self.nodes[node].undelivered[instance]);
                for message in &delivered {
                    self.compare_counts(node, instance, message, has_lost);
                }
            }
        }
    }

    /// The workers do a piece of what they have to do, each.
    pub async fn turn(&mut self) {
        tokio::task::yield_now().await;
        for node in 0..self.nodes.len() {
            for instance in 0..INSTANCES.len() {
                self.note_loss(node, instance);
            }
        }
    }

    /// Those of an instance who are ending by now may be so because a worker has lost something.
    /// Whether one may have.
    pub fn note_loss(&mut self, node: usize, instance: usize) -> bool {
        let has_lost = self.may_have_lost(node, instance);
        self.nodes[node].has_lost |= has_lost;
        for client in self.clients.iter_mut().filter(|client| client.person.instance == instance) {
            if let Some(open) = client.open.as_mut().filter(|open| open.node == node) {
                open.may_lack |= has_lost && open.is_ending();
            }
        }
        has_lost
    }

    async fn wait_until_idle(&self) {
        for _ in 0..PATIENCE {
            if self.nodes.iter().all(Node::is_idle) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the workers come to no end");
    }

    /// Whether something of what was applied may have left the window before a worker that fell
    /// behind was sent it.
    fn may_have_lost(&self, node: usize, instance: usize) -> bool {
        let (node, tenancy) = (&self.nodes[node], &self.tenancies[instance]);
        let sent: Vec<&Sent> =
            node.undelivered[instance].iter().map(|it| &tenancy.sent[it.index]).collect();
        let names = sent.iter().flat_map(|sent| &sent.names);
        let was_trimmed =
            sent.first().is_some_and(|sent| sent.cursor.position <= node.given_up_to[instance]);
        was_trimmed || Tenancy::is_more_than_kept(self.terms.kept, &sent, names)
    }

    /// The counts of a message are those whom it was for when it was applied, but for those who
    /// left or were told to go before it came to them.
    fn compare_counts(&self, node: usize, instance: usize, message: &Undelivered, has_lost: bool) {
        let sent = &self.tenancies[instance].sent[message.index];
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let Some(head) = self.nodes[node].relay.trace_of(&id, &sent.id()) else {
            let forgotten = self.nodes[node].ids_gone_to[instance];
            return assert!(sent.cursor.position <= forgotten, "{} left no trace", sent.id());
        };
        assert_eq!(head.cursor, sent.cursor);
        let (counts, is_complete) = (head.progress.counts(), head.progress.is_complete());
        assert!(is_complete || has_lost, "a worker has not reported {sent:?}");
        let opens = self.clients.iter().filter_map(|client| client.open.as_ref());
        let stayed: Vec<&Rc<Link>> = opens
            .map(|open| &open.registration.link)
            .filter(|link| !link.outbox.is_ending())
            .collect();
        let is_here = |link: &&Rc<Link>| stayed.iter().any(|open| Rc::ptr_eq(open, link));
        let least = match has_lost {
            true => 0,
            false => message.receivers.iter().filter(is_here).count() as u64,
        };
        let most = message.receivers.len() as u64;
        assert!((least..=most).contains(&counts.matched), "{counts:?} of {sent:?}");
        assert_eq!(counts.matched, counts.queued + counts.dropped);
    }
}
