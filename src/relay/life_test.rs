//! A message's life, step by step, in the words of `ARCHITECTURE.md`.

use super::log::{Appended, Log};
use super::member::Link;
use super::outbox::Next;
use super::progress::{Counts, Step};
use super::queue::{self, Dispatch};
use super::sealed::Sealed;
use super::timeline::Hearing;
use super::{
    Answer, Claim, DeliveryTrace, Joining, Published, Query, Relay, RelaySettings, delivery_trace,
};
use crate::catalog::{Catalog, Snapshot, Tenant};
use crate::domain::audience::Audience;
use crate::domain::channel::{Channel, ChannelName};
use crate::domain::cursor::Cursor;
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::message::{Message, Reach};
use crate::domain::principal::{Principal, UserId};
use serde_json::{Value, json};
use std::cell::Cell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

const DIGEST: [u8; 32] = [7; 32];

fn instance() -> InstanceId {
    InstanceId::new("demo").unwrap()
}

/// The instance, and its channel `news` for everyone.
fn tenant() -> Tenant {
    let news = Channel::of_a_test("news");
    let channels = [(news.name.clone(), Arc::new(news))].into_iter().collect();
    Tenant { channels, ..Tenant::new(Instance::new(instance())) }
}

fn snapshot(tenant: Tenant) -> Snapshot {
    Snapshot { tenants: [(instance(), Arc::new(tenant))].into_iter().collect() }
}

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

fn joining(catalog: &Catalog, since: Option<Cursor>) -> Joining {
    let alice = Principal::new(alice(), i64::MAX);
    let joining = Joining::of_a_test(alice, catalog.tenant(&instance()).unwrap());
    Joining { since: since.map(Some), ..joining }
}

/// What a socket would write next.
fn next(link: &Link) -> Value {
    let mut context = Context::from_waker(Waker::noop());
    match link.outbox.poll_next(&mut context, Instant::now) {
        Poll::Ready(Next::Frame(frame)) => serde_json::from_slice(frame.json()).unwrap(),
        other => panic!("{other:?} is no frame"),
    }
}

#[expect(clippy::too_many_lines, reason = "one life, in which each step follows from the last")]
async fn life() {
    let mut settings = RelaySettings::default();
    // A turn ends when all is done, however busy the machine is.
    settings.connection.slice = Duration::from_secs(60);
    let catalog = Catalog::new(snapshot(Tenant::new(Instance::new(instance()))));
    let relay = Relay::new(catalog.clone(), settings);
    let worker = relay.add_worker();
    let timeline = relay.timeline(&instance());
    // The way to the worker, in the test's own hands: nothing happens between two steps.
    let (sender, mut receiver) = queue::bounded(settings.queue);
    let connection = relay.connect(&worker, joining(&catalog, None)).await.unwrap();
    assert_eq!(next(&connection.link)["type"], "CONNECTED");

    // Its id is CLAIMED: nobody else publishes with it meanwhile.
    let Ok(Claim::First(claimed)) = relay.claim(&instance(), "life", DIGEST).await else {
        panic!("the id is free");
    };

    // It is SEALED: encoded once, all but for its place.
    let news = Audience::Channel(ChannelName::new("news").unwrap());
    let reach = Arc::new(Reach::all_of(news.clone()));
    let message = Message { reach, address: "channel:news".into(), ..Message::of_a_test("life") };
    let sealed = Sealed::new(message, Some(claimed.digest()));
    assert_eq!(sealed.head().cursor.position, 0);

    // It is APPENDED to the log, which gives it its place: the one head has it from now on.
    let Ok(Appended::New(head)) =
        Log::Memory(Default::default()).append_one(&timeline, &[sender], sealed).await
    else {
        panic!("there is space in the queue");
    };
    assert_eq!((head.cursor, head.cursor.position), (timeline.cursor(), 1));

    // It is APPLIED: the window keeps it, its id is known, and it is dispatched to the worker.
    let who = Hearing { own: &[news], shared: &[], user: &alice() };
    assert_eq!(timeline.between(0, 1, who).len(), 1);
    assert!(timeline.find_id("life").is_some_and(|(known, _)| Arc::ptr_eq(&known, &head)));
    drop(claimed);
    let again = relay.claim(&instance(), "life", DIGEST).await;
    assert!(matches!(again, Ok(Claim::Repeat(known)) if Arc::ptr_eq(&known, &head)));
    let mut dispatches = Vec::new();
    receiver.receive(&mut dispatches, 1).await;
    assert!(dispatches[0].frame.head().is_some_and(|known| Arc::ptr_eq(known, &head)));

    // The room TAKES IT IN, and wants a turn.
    let shard = worker.shard();
    assert_eq!(shard.borrow_mut().take_in(dispatches.drain(..)).len(), 0);
    assert!(shard.borrow().has_turns() && !connection.link.outbox.holds(1));

    // The channel was made just before: at the room's turn everyone is AUTHORIZED by it first.
    catalog.replace(snapshot(tenant()));
    shard.borrow_mut().follow(&catalog.load());
    let released = Cell::new(0);
    let release = |dispatch: &Dispatch| {
        receiver.release(dispatch);
        released.set(released.get() + 1);
    };
    shard.borrow_mut().take_turn(&catalog.load(), Instant::now(), &release);
    assert_eq!(next(&connection.link)["channels"], json!(["ALL", "user:alice", "channel:news"]));

    // Then it is QUEUED in the outbox, a reference; its space in the worker's queue is given back.
    assert!(connection.link.outbox.holds(1));
    assert_eq!((head.progress.sums().waiting(), released.get()), (1, 1));

    // It is WRITTEN, as the bytes that were sealed.
    let written = next(&connection.link);
    assert_eq!((&written["id"], &written["data"]), (&json!("life"), &json!(1)));
    assert_eq!(written["cursor"], head.cursor.to_text());
    assert_eq!((head.progress.sums().waiting(), head.progress.sums().of(Step::Written)), (0, 1));

    // It is COUNTED: the worker has reported, which is what its publisher waits for.
    let counts = Counts { matched: 1, queued: 1, dropped: 0, replaced: 0 };
    let Published { counts: reported, complete, .. } = relay.repeat(head.clone()).await;
    assert_eq!((reported, complete), (counts, true));

    // It can be TRACED: by its id, and at each connection of a user.
    assert!(relay.trace_of(&instance(), "life").is_some());
    let trace = Query::Trace { user: alice(), position: 1 };
    let (Answer::Known(known), Ok(())) = relay.survey(&instance(), &trace).await.unwrap() else {
        panic!("every worker has answered");
    };
    let told = known.iter().map(|known| delivery_trace(known, &head, &tenant()));
    assert!(told.eq([DeliveryTrace::Written(known[0].record.written(1).unwrap())]));
    drop((known, connection));

    // It is REPLAYED to one who resumes from before it.
    let before = Cursor { position: 0, ..head.cursor };
    let connection = relay.connect(&worker, joining(&catalog, Some(before))).await.unwrap();
    assert_eq!(next(&connection.link)["recovered"], true);
    assert_eq!(next(&connection.link), written);
    assert_eq!(head.progress.sums().of(Step::Replayed), 1);

    // It is ACKNOWLEDGED by a cursor at or behind it.
    connection.acknowledge(head.cursor);
    assert_eq!(head.progress.sums().of(Step::Acknowledged), 1);

    // It is TRIMMED with the window's time: nobody but this test has it any more.
    timeline.trim(Instant::now() + settings.history.window);
    assert_eq!(timeline.between(0, 1, who).len(), 0);
    assert!(timeline.find_id("life").is_none() && timeline.trace("life").is_none());
    assert_eq!((relay.history_bytes(), Arc::strong_count(&head)), (0, 1));
    let connection = relay.connect(&worker, joining(&catalog, Some(before))).await.unwrap();
    assert_eq!(next(&connection.link)["reason"], "TOO_OLD");
}

#[tokio::test]
async fn a_message_is_sealed_placed_applied_delivered_traced_replayed_and_trimmed() {
    LocalSet::new().run_until(life()).await;
}
