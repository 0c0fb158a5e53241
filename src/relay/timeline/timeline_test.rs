//! Arriving between messages, and workers that fall behind and are refilled.

use super::*;
use crate::domain::audience::Audience;
use crate::domain::message::{Message, Reach};
use crate::relay::queue::bounded;
use crate::relay::settings::{QueueBounds, TraceBounds};
use std::time::Duration;

impl Timeline {
    /// A timeline in epoch 1 with a wide window.
    pub fn fresh(instance: &str) -> Self {
        let memory = Memory {
            window: Window::new(HistoryBounds::WIDE, 0, Arc::default()),
            ids: Ids::new(1_000, Arc::default()),
            traces: Traces::new(TraceBounds::WIDE, Arc::default()),
        };
        Self::new(InstanceId::new(instance).unwrap(), Cursor { epoch: 1, position: 0 }, memory)
    }
}

fn publish(timeline: &Timeline, position: u64, queues: &[Sender]) -> Arc<Head> {
    publish_message(timeline, position, Message::of_a_test(&position.to_string()), queues)
}

fn publish_message(
    timeline: &Timeline,
    position: u64,
    message: Message,
    queues: &[Sender],
) -> Arc<Head> {
    let sealed = Sealed::new(message, None);
    let mut order = timeline.order();
    let spaces = order.reserve(queues, &sealed);
    order.apply(position, sealed, spaces, Instant::now()).head
}

const WHO: fn(&UserId) -> Hearing<'_> = |user| Hearing { audiences: &[Audience::All], user };

#[test]
fn what_is_published_after_arriving_lies_behind_the_cursor() {
    let (timeline, user) = (Timeline::fresh("demo"), UserId::new("a").unwrap());
    publish(&timeline, 1, &[]);
    assert_eq!(timeline.arrive(3, None, WHO(&user)).cursor.position, 1);
    assert_eq!(timeline.order().next(), 2);
    publish(&timeline, 2, &[]);
    assert_eq!(timeline.cursor().position, 2);
    for (since, outcome) in [(2, Ok(0)), (1, Ok(1)), (3, Err(Loss::Epoch))] {
        let since = Some(Some(Cursor { epoch: 1, position: since }));
        let missed = timeline.arrive(0, since, WHO(&user)).missed;
        assert_eq!(missed.map(|missed| missed.map(|missed| missed.len())), Some(outcome));
    }
    for foreign in [None, Some(Cursor { epoch: 2, position: 1 })] {
        let missed = timeline.arrive(0, Some(foreign), WHO(&user)).missed;
        assert_eq!(missed.and_then(Result::err), Some(Loss::Epoch));
    }
}

#[tokio::test]
async fn a_worker_without_space_falls_behind_and_is_refilled_in_order() {
    let (queue, mut receiver) = bounded(QueueBounds { messages: 4, bytes: 1 << 20 });
    let (timeline, user) = (Timeline::fresh("demo"), UserId::new("a").unwrap());
    timeline.arrive(0, None, WHO(&user));
    let queues = [queue];
    // An instance alone takes half of the queue.
    let heads: Vec<_> = [1, 5, 9, 10, 11].map(|at| publish(&timeline, at, &queues)).into();
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Partly);
    let mut seen = Vec::new();
    while seen.len() < heads.len() {
        let mut batch = Vec::new();
        receiver.receive(&mut batch, 1).await;
        receiver.release(&batch[0]);
        let head = batch[0].frame.head().unwrap();
        head.progress.report(Counts::default());
        seen.push(head.cursor.position);
        timeline.refill(0, &queues[0]);
    }
    assert_eq!(seen, [1, 5, 9, 10, 11]);
    assert!(heads.iter().all(|head| head.progress.is_complete()), "each has reported once");
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Whole);
}

#[tokio::test]
async fn what_a_worker_lacks_and_has_left_the_window_is_lost_to_it() {
    let (queue, mut receiver) = bounded(QueueBounds { messages: 4, bytes: 1 << 20 });
    let (timeline, user) = (Timeline::fresh("demo"), UserId::new("a").unwrap());
    timeline.arrive(0, None, WHO(&user));
    let queues = [queue];
    (1..=4).for_each(|at| drop(publish(&timeline, at, &queues)));
    timeline.trim(Instant::now() + Duration::from_secs(1_000));
    // Whoever comes now lacks nothing of that, and is there for what follows.
    timeline.arrive(0, None, WHO(&user));
    publish(&timeline, 5, &queues);
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Lost { to: 4 });
    let mut batch = Vec::new();
    receiver.receive(&mut batch, 8).await;
    batch.iter().for_each(|dispatch| receiver.release(dispatch));
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Whole, "it goes on from there");
    receiver.receive(&mut batch, 8).await;
    let positions = batch.iter().map(|it| it.frame.head().unwrap().cursor.position);
    assert_eq!(positions.collect::<Vec<_>>(), [1, 2, 5]);
}

#[test]
fn what_is_passed_over_with_a_loss_keeps_no_publisher_waiting() {
    let bounds = HistoryBounds { messages: 1, ..HistoryBounds::WIDE };
    let memory = Memory {
        window: Window::new(bounds, 0, Arc::default()),
        ids: Ids::new(1_000, Arc::default()),
        traces: Traces::new(crate::relay::settings::TraceBounds::WIDE, Arc::default()),
    };
    let instance = InstanceId::new("demo").unwrap();
    let timeline = Timeline::new(instance, Cursor { epoch: 1, position: 0 }, memory);
    let (queue, _receiver) = bounded(QueueBounds { messages: 2, bytes: 1 << 20 });
    let user = UserId::new("a").unwrap();
    let everything = [Audience::All, Audience::User(user.clone())];
    timeline.arrive(0, None, Hearing { audiences: &everything, user: &user });
    let queues = [queue];
    let sent: Vec<_> = (1..=1).map(|at| publish(&timeline, at, &queues)).collect();
    // The worker has no space for these: of two messages to all, the window keeps the newer one.
    let reach = Arc::new(Reach::all_of(Audience::User(user.clone())));
    let to_one = Message { reach, ..Message::of_a_test("2") };
    let [kept, gone, last] =
        [(2, to_one), (3, Message::of_a_test("3")), (4, Message::of_a_test("4"))]
            .map(|(position, message)| publish_message(&timeline, position, message, &queues));
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Lost { to: 3 });
    let are_complete = [&sent[0], &kept, &gone, &last].map(|head| head.progress.is_complete());
    assert_eq!(are_complete, [false, true, false, false]);
}

#[test]
fn what_a_worker_lacks_is_no_news_for_it_once_nobody_is_left_there() {
    let (queue, _receiver) = bounded(QueueBounds { messages: 4, bytes: 1 << 20 });
    let (timeline, user) = (Timeline::fresh("demo"), UserId::new("a").unwrap());
    timeline.arrive(0, None, WHO(&user));
    let queues = [queue];
    let heads: Vec<_> = (1..=4).map(|at| publish(&timeline, at, &queues)).collect();
    timeline.leave(0);
    let are_complete = heads.iter().map(|head| head.progress.is_complete());
    assert_eq!(are_complete.collect::<Vec<_>>(), [false, false, true, true], "1 and 2 are sent");
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Whole);
}

#[tokio::test]
async fn a_live_only_message_waits_for_workers_that_are_behind_and_for_nobody_else() {
    let (queue, mut receiver) = bounded(QueueBounds { messages: 4, bytes: 1 << 20 });
    let (timeline, user) = (Timeline::fresh("demo"), UserId::new("a").unwrap());
    timeline.arrive(0, None, WHO(&user));
    let queues = [queue];
    let live = |position: u64| {
        let message =
            Message { ttl: Some(Duration::ZERO), ..Message::of_a_test(&position.to_string()) };
        let sealed = Sealed::new(message, None);
        let mut order = timeline.order();
        let spaces = order.reserve(&queues, &sealed);
        let _applied = order.apply(position, sealed, spaces, Instant::now());
    };
    (1..=2).for_each(live);
    assert_eq!(timeline.window_bytes(), 0, "all have it");
    (3..=4).for_each(live);
    assert!(timeline.window_bytes() > 0);
    let since = Some(Some(Cursor { epoch: 1, position: 0 }));
    let missed = timeline.arrive(1, since, WHO(&user)).missed.unwrap().unwrap();
    assert_eq!(missed.len(), 0, "nobody is sent it again");
    timeline.leave(1);
    let mut batch = Vec::new();
    receiver.receive(&mut batch, 8).await;
    batch.drain(..).for_each(|dispatch| receiver.release(&dispatch));
    assert_eq!(timeline.refill(0, &queues[0]), Refilled::Whole);
    receiver.receive(&mut batch, 8).await;
    let positions = batch.iter().map(|it| it.frame.head().unwrap().cursor.position);
    assert_eq!(positions.collect::<Vec<_>>(), [3, 4]);
    assert_eq!(timeline.window_bytes(), 0);
}
