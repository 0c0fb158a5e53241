//! How instances share a worker: who is woken when, who finds room, and what waits for whom.

use super::asked::Asked;
use super::inboxes::Unanswered;
use super::newcomer::Joining;
use super::registration::Registration;
use super::thread::Worker;
use crate::catalog::{Catalog, Snapshot, Tenant};
use crate::domain::audience::Audience;
use crate::domain::channel::{Channel, ChannelName, Slow};
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Scope as ExpressionScope};
use crate::domain::instance::{Instance, InstanceId, Limits};
use crate::domain::message::{Message, Reach};
use crate::domain::principal::{Principal, Scope, UserId};
use crate::domain::revocation::Revocations;
use crate::relay::close::Close;
use crate::relay::model_test::SETTINGS;
use crate::relay::outbox::{Batch, Outbox, Pushed, Wake as WakeSocket};
use crate::relay::queue::{Dispatch, Share};
use crate::relay::sealed::Sealed;
use crate::relay::settings::{QueueBounds, RelaySettings};
use crate::relay::survey::{Answer, Query, Selection};
use crate::relay::timeline::Spaces;
use crate::relay::{NotPlaced, Published, Relay};
use futures_util::FutureExt;
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

pub(crate) const STORM: &str = "storm";
const QUIET: &str = "quiet";

/// Most sockets that a first turn wakes, and another one.
const WOKEN_FIRST: usize = 128;
const WOKEN_AGAIN: usize = 16;
/// How many receivers a turn serves that has no time.
const STRIDE: usize = 64;

pub(crate) struct Scene {
    relay: Relay,
    catalog: Catalog,
    worker: Worker,
}

fn tenant(id: &str, version: i64) -> Arc<Tenant> {
    let instance = Instance {
        id: InstanceId::new(id).unwrap(),
        name: String::new(),
        enabled: true,
        publish_roles: vec![],
        origins: vec![],
        limits: Limits { connections_per_user: 10_000, ..Limits::default() },
        version,
    };
    Arc::new(Tenant { revocations: Revocations::default(), ..Tenant::new(instance) })
}

fn snapshot(version: i64) -> Snapshot {
    let tenants = [STORM, QUIET].map(|id| tenant(id, version));
    Snapshot {
        tenants: tenants.map(|tenant| (tenant.instance.id.clone(), tenant)).into_iter().collect(),
    }
}

impl Scene {
    pub(crate) fn new(settings: RelaySettings) -> Self {
        let catalog = Catalog::new(snapshot(1));
        let relay = Relay::new(catalog.clone(), settings);
        let worker = relay.add_worker();
        Self { relay, catalog, worker }
    }

    pub(crate) fn connect(&self, instance: &str) -> Registration {
        let someone = UserId::new("someone").unwrap();
        let principal = Principal { scope: Scope::Everywhere, ..Principal::new(someone, i64::MAX) };
        let tenant = self.catalog.tenant(&InstanceId::new(instance).unwrap()).unwrap();
        let joining = Joining::of_a_test(principal, tenant);
        let registered = self.relay.connect(&self.worker, joining).now_or_never();
        registered.expect("there are no rules that take time").unwrap()
    }

    pub(crate) fn publish<'a>(
        &'a self,
        instance: &str,
        message: &'a Message,
    ) -> Pin<Box<dyn Future<Output = Outcome> + 'a>> {
        let instance = InstanceId::new(instance).unwrap();
        Box::pin(async move { self.relay.publish(&instance, message.clone(), None).await })
    }
}

pub(crate) type Outcome = Result<Published, NotPlaced>;

fn is_refused(outcome: Poll<Outcome>) -> bool {
    matches!(outcome, Poll::Ready(Err(NotPlaced::Overloaded)))
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Bell {
    pub(crate) fn rings(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Reads everything that waits, and waits for more.
fn wait(outbox: &Outbox, bell: &Arc<Bell>) {
    let waker = Waker::from(bell.clone());
    while outbox.poll_batch(&mut Context::from_waker(&waker), &mut Vec::new()).is_ready() {}
}

pub(crate) fn begin(publishing: &mut Pin<Box<dyn Future<Output = Outcome> + '_>>) -> Poll<Outcome> {
    publishing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_quiet_instance_is_served_after_short_turns_of_its_neighbour() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let storm: Vec<Registration> = (0..500).map(|_| scene.connect(STORM)).collect();
        let quiet = scene.connect(QUIET);
        let (storm_bell, quiet_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        storm.iter().for_each(|registration| wait(&registration.link.outbox, &storm_bell));
        wait(&quiet.link.outbox, &quiet_bell);
        let message = Message::of_a_test("m");
        let mut publishing: Vec<_> = (0..8).map(|_| scene.publish(STORM, &message)).collect();
        publishing.iter_mut().for_each(|publishing| assert!(begin(publishing).is_pending()));
        let mut last = scene.publish(QUIET, &message);
        assert!(begin(&mut last).is_pending());
        while quiet_bell.rings() == 0 {
            yield_now().await;
        }
        let first = storm_bell.rings();
        assert!(first <= WOKEN_FIRST + WOKEN_AGAIN, "{first} neighbours came first");
        while storm_bell.rings() < storm.len() {
            yield_now().await;
        }
        for publishing in publishing {
            let published = publishing.await.unwrap();
            assert_eq!((published.counts.queued, published.complete), (500, true));
        }
        assert_eq!(last.await.unwrap().counts.queued, 1);
        assert_eq!(
            (storm_bell.rings(), quiet_bell.rings()),
            (500, 1),
            "each was woken once for all messages"
        );
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_message_in_pieces_is_for_those_whom_it_was_for_when_it_came_to_them() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let mut storm: Vec<Registration> = (0..200).map(|_| scene.connect(STORM)).collect();
        let bell = Arc::new(Bell::default());
        storm.iter().for_each(|registration| wait(&registration.link.outbox, &bell));
        let timeline = scene.relay.timeline(&InstanceId::new(STORM).unwrap());
        let message = Message::of_a_test("m");
        let sealed = || Sealed::new(message.clone(), None);
        let mut order = timeline.order();
        let cursor = Cursor { epoch: timeline.epoch(), position: order.next() };
        let _applied = order.apply(cursor.position, sealed(), Spaces::new(), Instant::now());
        drop(order);
        let (head, frame) = sealed().place(cursor, None, 1);
        let share = Arc::new(Share::new(timeline.instance().clone(), timeline.epoch()));
        let done = Cell::new(0);
        // A turn that began long ago has time for one piece.
        let turn = |snapshot: &Snapshot| {
            let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            let release = |_: &Dispatch| {
                assert!(!head.progress.is_complete(), "its space is given back first");
                done.set(done.get() + 1);
            };
            scene.worker.shard().borrow_mut().take_turn(snapshot, long_ago, &release);
            done.get()
        };
        let received = |registration: &Registration| registration.link.outbox.waiting_bytes() > 0;
        let count = |storm: &[Registration]| {
            storm.iter().filter(|registration| received(registration)).count()
        };
        scene.worker.shard().borrow_mut().take_in([Dispatch { frame, share }].into_iter());
        assert_eq!((turn(&snapshot(1)), count(&storm)), (0, STRIDE));

        // The next to have it goes; its place is taken by one of another instance, and one more of
        // the same comes.
        let gone = storm.iter().rposition(|registration| !received(registration)).unwrap();
        drop(storm.swap_remove(gone));
        let (quiet, late) = (scene.connect(QUIET), scene.connect(STORM));
        wait(&quiet.link.outbox, &bell);
        wait(&late.link.outbox, &bell);
        assert_eq!((turn(&snapshot(1)), count(&storm)), (0, 2 * STRIDE - 1));
        // One who has had it and one who has not get new tokens: it is looked again whom the
        // message is for.
        let [early, other] =
            [true, false].map(|has| storm.iter().position(|it| received(it) == has).unwrap());
        for renewed in [early, other] {
            let mut principal = (*storm[renewed].principal().unwrap()).clone();
            principal.expires_at -= 1;
            storm[renewed].renew(Arc::new(principal));
        }
        wait(&storm[early].link.outbox, &bell);
        wait(&storm[other].link.outbox, &bell);
        let mut turns = 1;
        while turn(&snapshot(1)) == 0 {
            turns += 1;
        }
        assert_eq!(turns, 200_usize.div_ceil(STRIDE), "everyone was looked at again");
        assert_eq!((head.progress.is_complete(), head.progress.counts().queued), (true, 199));
        assert!(
            !received(&quiet)
                && !received(&late)
                && !received(&storm[early])
                && received(&storm[other])
        );
        assert_eq!(count(&storm), 198);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn an_instance_takes_half_of_a_queue_at_most_and_others_find_space() {
    let scene = async {
        let queue = QueueBounds { messages: 8, bytes: 1 << 20 };
        let scene = Scene::new(RelaySettings { queue, ..SETTINGS });
        let _connections = [scene.connect(STORM), scene.connect(QUIET)];
        let message = Message::of_a_test("m");
        let mut publishing: Vec<_> = (0..4).map(|_| scene.publish(STORM, &message)).collect();
        publishing.iter_mut().for_each(|publishing| assert!(begin(publishing).is_pending()));
        assert!(is_refused(begin(&mut scene.publish(STORM, &message))));
        let mut quiet: Vec<_> = (0..2).map(|_| scene.publish(QUIET, &message)).collect();
        quiet.iter_mut().for_each(|publishing| assert!(begin(publishing).is_pending()));
        assert!(is_refused(begin(&mut scene.publish(QUIET, &message))));
        for publishing in publishing.into_iter().chain(quiet) {
            assert!(publishing.await.unwrap().complete);
        }
        // What was taken is given back.
        let mut again: Vec<_> = (0..4).map(|_| scene.publish(STORM, &message)).collect();
        again.iter_mut().for_each(|publishing| assert!(begin(publishing).is_pending()));
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn who_is_gone_when_a_message_is_delivered_is_not_counted_and_the_message_is_answered() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let registration = scene.connect(STORM);
        let message = Message::of_a_test("m");
        let mut publishing = scene.publish(STORM, &message);
        assert!(begin(&mut publishing).is_pending());
        drop(registration);
        let published = publishing.await.unwrap();
        assert_eq!((published.counts.matched, published.complete), (0, true));
        let registration = scene.connect(STORM);
        assert_eq!(scene.publish(STORM, &message).await.unwrap().counts.matched, 1);
        drop(registration);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_filter_that_takes_long_keeps_only_its_own_instance_waiting() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let storm: Vec<Registration> = (0..300).map(|_| scene.connect(STORM)).collect();
        let quiet = scene.connect(QUIET);
        let bell = Arc::new(Bell::default());
        wait(&quiet.link.outbox, &bell);
        // Some thousand steps for each connection.
        let ranges =
            "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30]";
        let text =
            format!("{ranges}.all(a, user.startsWith('some') && user.endsWith('one') && a > 0)");
        let filter = Some(Expression::parse(&text, ExpressionScope::Filter).unwrap());
        let reach = Arc::new(Reach { filter, ..Reach::all_of(Audience::All) });
        let (filtered, plain) =
            (Message { reach, ..Message::of_a_test("m") }, Message::of_a_test("n"));
        let mut slow = scene.publish(STORM, &filtered);
        assert!(begin(&mut slow).is_pending());
        let mut last = scene.publish(QUIET, &plain);
        assert!(begin(&mut last).is_pending());
        while bell.rings() == 0 {
            yield_now().await;
        }
        assert!(scene.relay.evaluations() < 300, "everyone was asked first");
        assert_eq!(slow.await.unwrap().counts.queued, 300);
        assert_eq!(scene.relay.evaluations(), 300, "each once");
        drop(storm);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_change_that_came_before_a_message_holds_for_it() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let connections: Vec<Registration> = (0..100).map(|_| scene.connect(STORM)).collect();
        yield_now().await;
        let mut changed = snapshot(2);
        let gone = InstanceId::new(STORM).unwrap();
        let mut disabled = Tenant::clone(&changed.tenants[&gone]);
        disabled.instance.enabled = false;
        changed.tenants.insert(gone, Arc::new(disabled));
        scene.catalog.replace(changed);
        let message = Message::of_a_test("m");
        let published = pin!(scene.publish(STORM, &message)).await.unwrap();
        assert_eq!(published.counts.matched, 0, "all were told to go before");
        assert!(connections.iter().all(|registration| registration.link.outbox.is_ending()));
    };
    LocalSet::new().run_until(scene).await;
}

/// A question to the connections of an instance, and what is answered.
fn question(instance: &str, query: Query) -> (Asked, oneshot::Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    (Asked::new(InstanceId::new(instance).unwrap(), query, reply), answer)
}

#[tokio::test]
async fn many_are_disconnected_a_slice_a_turn_and_a_neighbour_is_served_between() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let storm: Vec<Registration> = (0..200).map(|_| scene.connect(STORM)).collect();
        let quiet = scene.connect(QUIET);
        let bell = Arc::new(Bell::default());
        wait(&quiet.link.outbox, &bell);
        let selection = Selection::default();
        let everyone = Query::Disconnect { selection, close: Close::disconnected("enough") };
        let (asked, mut answer) = question(STORM, everyone);
        scene.worker.shard().borrow_mut().ask(asked);
        let ending = || storm.iter().filter(|it| it.link.outbox.is_ending()).count();
        // A turn that began long ago has time for one slice.
        let turn = || {
            let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            scene.worker.shard().borrow_mut().take_turn(&snapshot(1), long_ago, &|_| {});
        };
        turn();
        assert_eq!((ending(), answer.try_recv().is_err()), (STRIDE, true));
        let (other, mut known) = question(QUIET, Query::Find { id: quiet.link.id.clone() });
        scene.worker.shard().borrow_mut().ask(other);
        // Of two turns one is the neighbour's.
        (0..2).for_each(|_| turn());
        assert_eq!(ending(), 2 * STRIDE);
        assert!(matches!(known.try_recv(), Ok(Answer::Known(known)) if known.len() == 1));
        (0..2).for_each(|_| turn());
        assert_eq!(ending(), 200);
        assert!(matches!(answer.try_recv(), Ok(Answer::Disconnected(200))));
        assert!(!quiet.link.outbox.is_ending());
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn sixteen_questions_of_an_instance_wait_and_one_more_is_refused_before_anyone_is_asked() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let storm = scene.connect(STORM);
        let _quiet = scene.connect(QUIET);
        let [storm_id, quiet_id] = [STORM, QUIET].map(|id| InstanceId::new(id).unwrap());
        let find = Query::Find { id: "nobody".into() };
        let close = Close::disconnected("enough");
        let everyone = Query::Disconnect { selection: Selection::default(), close };
        let mut waiting: Vec<_> =
            (0..16).map(|_| Box::pin(scene.relay.survey(&storm_id, &find))).collect();
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.iter_mut().all(|it| it.as_mut().poll(&mut context).is_pending()));
        let refused = scene.relay.survey(&storm_id, &everyone).await;
        assert!(matches!(refused, Err(Unanswered::TooMany)));
        assert!(matches!(scene.relay.survey(&quiet_id, &find).await, Ok((_, Ok(())))));
        for waiting in waiting {
            assert!(
                matches!(waiting.await, Ok((Answer::Known(known), Ok(()))) if known.is_empty())
            );
        }
        assert!(!storm.link.outbox.is_ending(), "nobody was asked to close");
        let closed = scene.relay.survey(&storm_id, &everyone).await;
        assert!(matches!(closed, Ok((Answer::Disconnected(1), Ok(())))));
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_question_is_about_those_whom_the_change_before_it_lets_in() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        let _storm: Vec<Registration> = (0..200).map(|_| scene.connect(STORM)).collect();
        let channel = Channel::of_a_test("news");
        let name = channel.name.clone();
        let mut changed = snapshot(2);
        let id = InstanceId::new(STORM).unwrap();
        let mut tenant = Tenant::clone(&changed.tenants[&id]);
        tenant.channels.insert(name.clone(), Arc::new(channel));
        changed.tenants.insert(id, Arc::new(tenant));
        scene.worker.shard().borrow_mut().follow(&changed);
        let audience = Some(Audience::Channel(name));
        let selection = Selection { audience, ..Selection::default() };
        let list = Query::List { selection, after: None, most: 10 };
        let (asked, mut answer) = question(STORM, list);
        scene.worker.shard().borrow_mut().ask(asked);
        // A turn that began long ago asks one connection by the new rules, and then is over.
        let mut turns = 0;
        let listing = loop {
            let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            scene.worker.shard().borrow_mut().take_turn(&changed, long_ago, &|_| {});
            turns += 1;
            if let Ok(Answer::List(listing)) = answer.try_recv() {
                break listing;
            }
        };
        assert_eq!((listing.total, listing.items.len()), (200, 10));
        assert!(listing.items.is_sorted_by(|a, b| a.id < b.id) && turns > 200);
    };
    LocalSet::new().run_until(scene).await;
}

#[test]
fn what_came_since_a_socket_was_called_is_not_replaced_before_it_looks() {
    let (outbox, bell, start) = (Outbox::default(), Arc::new(Bell::default()), Instant::now());
    let bounds = SETTINGS.connection.outbox;
    let news = Audience::Channel(ChannelName::new("news").unwrap());
    let message = Message {
        reach: Arc::new(Reach::all_of(news)),
        slow: Slow::Latest,
        ..Message::of_a_test("m")
    };
    let push = |position, milliseconds| {
        let now = start + Duration::from_millis(milliseconds);
        let frame = Sealed::frame_of(&message, Cursor { epoch: 1, position });
        outbox.push_message(&frame, bounds, now)
    };
    wait(&outbox, &bell);
    use WakeSocket::{Due, NotDue};
    let queued = |replaced| Pushed::Queued { replaced };
    assert_eq!(
        [push(1, 0), push(2, 1), push(3, 2)],
        [(queued(0), Due), (queued(0), NotDue), (queued(0), NotDue)]
    );
    assert_eq!(bell.rings(), 0, "its turn has not come");
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(outbox.poll_batch(&mut context, &mut Vec::new()), Poll::Ready(Batch::Joined));
    // It does not wait for more now: what comes has its turn, and is replaced.
    assert_eq!([push(4, 3), push(5, 4)], [(queued(0), NotDue), (queued(1), NotDue)]);
    outbox.close(Close::restarting());
}

#[tokio::test]
async fn an_instance_whose_last_connection_goes_and_comes_again_waits_for_one_turn() {
    let scene = async {
        let scene = Scene::new(SETTINGS);
        for _ in 0..5 {
            assert!(!scene.connect(STORM).take_turn(), "it waits");
        }
        let _stays = scene.connect(STORM);
        let mut turns = 0;
        while scene.worker.shard().borrow().has_turns() {
            let now = Instant::now();
            scene.worker.shard().borrow_mut().take_turn(&snapshot(1), now, &|_| {});
            turns += 1;
        }
        assert_eq!(turns, 1);
    };
    LocalSet::new().run_until(scene).await;
}
