//! The relay beside a model that forgets nothing: every step is taken by both and compared.

use super::client::{Client, Due, Open};
use super::naive::{
    Channels, EXPRESSIONS, INSTANCES, Person, State, WORDS, meaning, reading, tenant,
};
use crate::catalog::{Catalog, Snapshot, Tenant};
use crate::domain::audience::{Address, Narrowing};
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{self, Expression};
use crate::domain::instance::InstanceId;
use crate::domain::message::{Author, Exclusion, Message, Payload, Reach};
use crate::domain::principal::{GroupId, Principal, Scope, UserId};
use crate::domain::verdict::{Verdict, verdict};
use crate::relay::outbox::Next;
use crate::relay::{
    Answer, ConnectionBounds, Considered, Counts, DryRun, DryRunReport, DryRunResult,
    HistoryBounds, Joining, Origin, OutboxBounds, Query, QueueBounds, Relay, RelaySettings, Step,
    TraceBounds, Transport, Worker,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shards, all on the test's one thread.
const WORKERS: usize = 2;
/// Messages that the window keeps of an audience.
const KEPT: usize = 6;
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
    },
    history: HistoryBounds { messages: KEPT, replay_messages: REPLAYED, ..HistoryBounds::WIDE },
    traces: TraceBounds::WIDE,
    ids: 100,
    keep_alive_seconds: 60,
    connections: 1_000,
};

/// A message of one step.
#[derive(Clone, Debug)]
pub struct Draft {
    pub instance: usize,
    pub address: String,
    pub without: Vec<&'static str>,
    /// One of the expressions.
    pub filter: Option<usize>,
    /// Whether it is for those connected now alone.
    pub live_only: bool,
    pub padding: usize,
}

/// What the model remembers of a message, for ever.
struct Sent {
    number: usize,
    cursor: Cursor,
    names: Vec<String>,
    draft: Draft,
}

/// One instance of the model.
#[derive(Default)]
struct Tenancy {
    channels: Channels,
    /// In this epoch.
    sent: Vec<Sent>,
    /// Up to here, messages were given up for bounds that are not the audience's own.
    given_up_to: u64,
}

pub struct World {
    relay: Relay,
    catalog: Catalog,
    workers: Vec<Worker>,
    tenancies: Vec<Tenancy>,
    pub clients: Vec<Client>,
    numbers: usize,
}

impl World {
    /// Nobody is there and nothing was sent.
    pub fn new() -> Self {
        let tenancies: Vec<_> = INSTANCES.iter().map(|_| Tenancy::default()).collect();
        let catalog = Catalog::new(snapshot(&tenancies));
        let (relay, workers) = start(&catalog);
        Self { relay, catalog, workers, tenancies, clients: vec![], numbers: 0 }
    }

    /// Connects a client anew, with the cursor that it has.
    pub fn connect(&mut self, which: usize) {
        let person = self.clients[which].person.clone();
        let since = self.clients[which].cursor;
        // It has nothing to read any more once it hangs up.
        self.clients[which].open = None;
        let narrowing = person
            .narrowing
            .as_ref()
            .map(|wishes| Narrowing::parse(&json!(wishes).to_string()).unwrap());
        let id = InstanceId::new(INSTANCES[person.instance]).unwrap();
        let joining = Joining {
            transport: if which.is_multiple_of(2) { Transport::Wss } else { Transport::Sse },
            principal: Arc::new(principal(&person)),
            tenant: self.catalog.tenant(&id).unwrap(),
            origin: Origin {
                address: [127, 0, 0, 1].into(),
                user_agent: "".into(),
                connected_at: chrono::DateTime::UNIX_EPOCH,
            },
            narrowing,
            since: since.map(Some),
        };
        let registration = self.relay.connect(&self.workers[which % WORKERS], joining).unwrap();
        let heard = person.heard(&self.tenancies[person.instance].channels);
        let mut open = Open::new(registration, heard);
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
        let missed = tenancy.missed(client.whole_to.unwrap_or(since), open, &client.person);
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
            Some("TOO_OLD") => assert!(tenancy.has_lost(since, open), "nothing was lost"),
            other => panic!("{other:?} is no reason"),
        }
        VecDeque::new()
    }

    /// Gives a client a new token, on the open socket if there is one.
    pub fn renew(&mut self, which: usize, groups: Vec<&'static str>, level: Option<i64>) {
        let client = &mut self.clients[which];
        (client.person.groups, client.person.level) = (groups, level);
        let Some(open) = client.open.as_mut().filter(|open| !open.is_ending()) else { return };
        open.heard = client.person.heard(&self.tenancies[client.person.instance].channels);
        open.registration.renew(Arc::new(principal(&client.person)));
        open.due.push_back(Due::Channels(open.heard.clone()));
    }

    /// Changes or deletes a channel, and waits until every connection knows.
    pub async fn configure(
        &mut self,
        instance: usize,
        channel: &'static str,
        state: Option<State>,
    ) {
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

    /// Publishes a message, and compares the counts of it, of its rehearsal, and of the model.
    pub async fn publish(&mut self, draft: Draft) {
        let tenancy = &self.tenancies[draft.instance];
        let known = tenant(draft.instance, &tenancy.channels);
        let names = meaning(&draft.address, &tenancy.channels);
        let Ok((audiences, channel)) = known.resolve(&Address::parse(&draft.address).unwrap())
        else {
            return assert!(names.is_empty(), "{} should resolve", draft.address);
        };
        assert_eq!(audiences.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
        let slow = channel.map_or(Slow::Disconnect, |channel| channel.slow);
        let users = draft.without.iter().map(|id| UserId::new(id).unwrap()).collect();
        let exclude = Exclusion { users, connections: vec![] };
        let expression = |which: usize| {
            Expression::parse(EXPRESSIONS[which].0, expression::Scope::Filter).unwrap()
        };
        let filter = draft.filter.map(expression);
        let data = json!({"n": self.numbers, "padding": "x".repeat(draft.padding)}).to_string();
        let message = Message {
            id: self.numbers.to_string().into(),
            author: Arc::new(Author { user: UserId::new("shop").unwrap(), component: None }),
            address: draft.address.as_str().into(),
            reach: Arc::new(Reach { audiences, exclude, filter }),
            slow,
            time: chrono::DateTime::UNIX_EPOCH,
            ttl: draft.live_only.then_some(Duration::ZERO),
            payload: Payload::new(&data, 10_000).unwrap(),
        };
        let receivers = self.receivers(&names, &draft);
        let before = self.compare_with_dry_run(&known, &message, &receivers).await;
        let (instance, id) = (&known.instance.id, message.id.clone());
        let published = self.relay.publish(instance, message, None).await.unwrap();
        let counts = published.counts;
        assert_eq!(
            (before.matched, before.queued, before.dropped),
            (counts.matched, counts.queued, counts.dropped)
        );
        assert_eq!(counts.matched, receivers.len() as u64, "{draft:?}");
        let sent = Sent { number: self.numbers, cursor: published.head.cursor, names, draft };
        let lane = (slow == Slow::Latest).then(|| sent.names[0].clone());
        let mut dropped = 0;
        for which in receivers {
            let open = self.clients[which].open.as_mut().unwrap();
            dropped += u64::from(open.is_ending());
            open.due.push_back(sent.due(lane.clone()));
        }
        assert_eq!((counts.dropped, counts.queued), (dropped, counts.matched - dropped));
        let trace = self.relay.trace_of(instance, &id).unwrap();
        let sums =
            [Step::Matched, Step::Queued, Step::Dropped].map(|step| trace.progress.sums().of(step));
        assert_eq!(sums, [counts.matched, counts.queued, counts.dropped]);
        assert!(slow == Slow::Latest || counts.replaced == 0);
        self.tenancies[sent.draft.instance].sent.push(sent);
        self.numbers += 1;
    }

    /// What a dry run tells of the users must be what is then delivered, and the verdict on each
    /// connection what the index says. Returns its counts.
    async fn compare_with_dry_run(
        &self,
        tenant: &Tenant,
        message: &Message,
        receivers: &[usize],
    ) -> Counts {
        let mut users = BTreeMap::new();
        for which in receivers {
            *users.entry(self.clients[*which].person.user).or_insert(0u64) += 1;
        }
        let mut counts = self.dry_run(tenant, DryRun::of(message)).await.counts;
        for about in WORDS {
            let about = UserId::new(about).unwrap();
            let expected = users.get(about.as_str()).copied().unwrap_or_default();
            let asked = DryRun { most: 100, about: Some(about), ..DryRun::of(message) };
            let report = self.dry_run(tenant, asked).await;
            let told: Vec<(&str, u64)> =
                report.users.iter().map(|(user, count)| (user.as_str(), *count)).collect();
            assert_eq!(told, users.iter().map(|(user, count)| (*user, *count)).collect::<Vec<_>>());
            let mut meant = 0;
            for Considered { connection, result } in &report.considered {
                let facts = connection.facts();
                let verdict =
                    verdict(&message.reach, &connection.candidate(&facts, &tenant.channels));
                let is_meant = matches!(result, DryRunResult::Receives | DryRunResult::NoRoom);
                let hears = matches!(verdict, Verdict::Hears { .. });
                assert!(hears == is_meant || *result == DryRunResult::Ending, "{verdict:?}");
                meant += u64::from(is_meant);
            }
            assert!(meant == expected || report.connections > report.considered.len() as u64);
            assert_eq!(report.counts, std::mem::take(&mut counts));
            counts = report.counts;
        }
        counts
    }

    async fn dry_run(&self, tenant: &Tenant, asked: DryRun) -> DryRunReport {
        let query = Query::DryRun(asked);
        match self.relay.survey(&tenant.instance.id, &query).await.unwrap() {
            (Answer::DryRun(report), Ok(())) => report,
            other => panic!("{other:?}"),
        }
    }

    /// The clients that a message is for, and that have not been told to go.
    fn receivers(&self, names: &[String], draft: &Draft) -> Vec<usize> {
        let is_meant = |client: &Client| {
            let Some(open) = client.open.as_ref().filter(|open| !open.is_ending()) else {
                return false;
            };
            client.person.instance == draft.instance
                && draft.is_for(&client.person)
                && names.iter().any(|name| open.heard.contains(name))
        };
        (0..self.clients.len()).filter(|which| is_meant(&self.clients[*which])).collect()
    }

    /// More than the patience with stalled sockets passes: whoever has something waiting is told to
    /// go.
    pub fn stall(&mut self) {
        let later = Instant::now() + Duration::from_secs(11);
        let waits = |open: &Open| open.registration.link.outbox.waiting_bytes() > 0;
        let stalled: Vec<bool> =
            self.clients.iter().map(|client| client.open.as_ref().is_some_and(waits)).collect();
        for worker in &self.workers {
            worker.shard().borrow_mut().tick(later, 0);
        }
        for (client, stalled) in self.clients.iter().zip(stalled) {
            assert!(!stalled || client.open.as_ref().is_some_and(Open::is_ending));
        }
    }

    /// The window passes, or half of it is given up for the process's bound.
    pub fn trim(&mut self, instance: usize, all: bool) {
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let timeline = self.relay.timeline(&id);
        match all {
            true => timeline.trim(Instant::now() + Duration::from_secs(1_000)),
            false => timeline.evict_window(),
        }
        let tenancy = &mut self.tenancies[instance];
        tenancy.given_up_to = tenancy.sent.last().map_or(0, |sent| sent.cursor.position);
    }

    /// A new process: after a graceful stop it takes up the windows, after a kill it knows nothing.
    pub fn restart(&mut self, graceful: bool) {
        self.clients.iter_mut().for_each(|client| client.open = None);
        assert_eq!(self.relay.open(), 0);
        let mut file = Vec::new();
        self.relay.write_windows(&mut file).unwrap();
        (self.relay, self.workers) = start(&self.catalog);
        match graceful {
            true => drop(self.relay.read_windows(file.as_slice()).unwrap()),
            false => self.tenancies.iter_mut().for_each(|tenancy| {
                tenancy.sent.clear();
                tenancy.given_up_to = 0;
            }),
        }
    }

    /// Everyone who is connected reads to the end, and all leave.
    pub fn end(mut self) {
        self.clients.iter_mut().for_each(|client| client.read(usize::MAX));
        self.clients.clear();
        assert_eq!(self.relay.open(), 0);
        // Nobody is there any more: what was queued was written, or is counted as lost.
        let instances = INSTANCES.map(|id| InstanceId::new(id).unwrap());
        for id in (0..self.numbers).map(|number| number.to_string()) {
            for trace in instances.iter().filter_map(|instance| self.relay.trace_of(instance, &id))
            {
                let sums = trace.progress.sums();
                let ends = [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended]
                    .map(|step| sums.of(step));
                assert_eq!(sums.of(Step::Queued), ends.iter().sum::<u64>(), "{trace:?}");
            }
        }
        assert!(self.workers.iter().all(|worker| worker.shard().borrow().keys().is_empty()));
    }
}

impl Draft {
    /// Whether someone of its audiences gets it.
    fn is_for(&self, person: &Person) -> bool {
        !self.without.contains(&person.user)
            && self.filter.is_none_or(|which| reading(which, person) == Some(true))
    }
}

impl Sent {
    fn due(&self, lane: Option<String>) -> Due {
        Due::Message { number: self.number, cursor: self.cursor, lane }
    }
}

impl Tenancy {
    /// What someone who saw everything up to `since` has not seen of what it hears now.
    fn missed(&self, since: Cursor, open: &Open, person: &Person) -> Vec<&Sent> {
        let is_missed = |sent: &&Sent| {
            sent.cursor.position > since.position
                && !sent.draft.live_only
                && sent.draft.is_for(person)
                && sent.names.iter().any(|name| open.heard.contains(name))
        };
        self.sent.iter().filter(is_missed).collect()
    }

    /// Whether something that it hears now, sent after `since`, is no longer kept.
    fn has_lost(&self, since: Cursor, open: &Open) -> bool {
        let after = |name: &String| {
            let of =
                self.sent.iter().filter(|sent| !sent.draft.live_only && sent.names.contains(name));
            of.filter(|sent| sent.cursor.position > since.position).count()
        };
        since.position < self.given_up_to || open.heard.iter().any(|name| after(name) > KEPT)
    }
}

fn start(catalog: &Catalog) -> (Relay, Vec<Worker>) {
    let relay = Relay::new(catalog.clone(), SETTINGS);
    let workers = (0..WORKERS).map(|_| relay.add_worker()).collect();
    (relay, workers)
}

fn snapshot(tenancies: &[Tenancy]) -> Snapshot {
    let tenants = tenancies
        .iter()
        .enumerate()
        .map(|(index, tenancy)| Arc::new(tenant(index, &tenancy.channels)));
    Snapshot { tenants: tenants.map(|tenant| (tenant.instance.id.clone(), tenant)).collect() }
}

fn principal(person: &Person) -> Principal {
    Principal {
        user: UserId::new(person.user).unwrap(),
        groups: person.groups.iter().map(|group| GroupId::new(group).unwrap()).collect(),
        roles: vec![],
        scope: Scope::Everywhere,
        component: None,
        claims: person.level.map(|level| ("level".to_owned(), json!(level))).into_iter().collect(),
        token_id: None,
        issued_at: None,
        expires_at: i64::MAX,
        key: Default::default(),
    }
}
