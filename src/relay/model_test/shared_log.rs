//! A log that the relays of one test share, in memory: one order for all instances, and an end of
//! it for each relay, which takes at its own pace.

use super::world::SETTINGS;
use crate::catalog::{Catalog, Snapshot};
use crate::domain::cursor::Cursor;
use crate::domain::expression::compiled::{Compiled, CompiledBounds};
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use crate::relay::{Appended, Head, Log, NotNow, NotPlaced, Relay, Sealed, SharedLog, Workers};
use futures_util::future::{BoxFuture, FutureExt};
use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// What all relays share; it forgets nothing.
#[derive(Default)]
pub struct CommonLog(Mutex<Contents>);

#[derive(Default)]
struct Contents {
    /// The first has position 1; there are no gaps but those that another instance's make.
    entries: Vec<Arc<Entry>>,
    /// Where the message with an id stands.
    ids: HashMap<(InstanceId, String), u64>,
}

/// One message, as it would travel.
struct Entry {
    instance: InstanceId,
    wire: Vec<u8>,
}

/// One relay's end of the log.
pub struct Follower {
    log: Arc<CommonLog>,
    /// Who follows; set once it is there. It holds this.
    workers: OnceLock<Weak<Workers>>,
    /// Position of the newest message that was applied.
    taken: AtomicU64,
    /// Whether it applies nothing for now.
    is_stopped: AtomicBool,
}

impl CommonLog {
    /// The place of a message, and whether it has it since now.
    fn place(&self, instance: &InstanceId, sealed: &Sealed) -> (u64, bool) {
        let mut contents = self.0.lock().unwrap();
        let next = contents.entries.len() as u64 + 1;
        let id = (instance.clone(), sealed.head().id.to_string());
        let position = *contents.ids.entry(id).or_insert(next);
        if position == next {
            let entry = Entry { instance: instance.clone(), wire: sealed.write() };
            contents.entries.push(Arc::new(entry));
        }
        (position, position == next)
    }

    /// The message behind a position.
    fn behind(&self, position: u64) -> Option<Arc<Entry>> {
        self.0.lock().unwrap().entries.get(position as usize).cloned()
    }

    /// Position of the newest message.
    fn newest(&self) -> u64 {
        self.0.lock().unwrap().entries.len() as u64
    }
}

impl Follower {
    /// An end of `log` that has taken nothing.
    pub fn new(log: &Arc<CommonLog>) -> Self {
        Self {
            log: log.clone(),
            workers: OnceLock::new(),
            taken: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// From now on, `relay` is who follows.
    pub fn serve(&self, relay: &Relay) {
        assert!(self.workers.set(Arc::downgrade(&relay.0)).is_ok(), "one relay has one end");
    }

    /// Applies at most so many messages, unless it is stopped.
    pub fn take(&self, most: u64) {
        if !self.is_stopped() {
            self.take_to(self.taken().saturating_add(most));
        }
    }

    /// Position of the newest message that was applied.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Whether the log has more.
    pub fn is_late(&self) -> bool {
        self.taken() < self.log.newest()
    }

    /// Applies nothing any more, or goes on.
    pub fn stop(&self, is_stopped: bool) {
        self.is_stopped.store(is_stopped, Relaxed);
    }

    /// Whether it applies nothing for now.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Relaxed)
    }

    /// Applies what the log has up to a position; the last message.
    fn take_to(&self, position: u64) -> Option<Arc<Head>> {
        let relay = Relay(self.workers.get().and_then(Weak::upgrade)?);
        let mut last = None;
        while self.taken() < position
            && let Some(entry) = self.log.behind(self.taken())
        {
            let place = self.taken() + 1;
            let pool = Compiled::new(CompiledBounds::default()).pool(&entry.instance);
            let sealed = Sealed::read(&entry.wire, &pool).unwrap();
            last = relay.apply(&entry.instance, place, sealed);
            assert!(last.is_some(), "it was not applied before");
            self.taken.store(place, Relaxed);
        }
        last
    }

    fn append_one(&self, instance: &InstanceId, sealed: &Sealed) -> Result<Appended, NotPlaced> {
        if self.is_stopped() {
            return Err(NotPlaced::NotSent);
        }
        let (position, is_new) = self.log.place(instance, sealed);
        let last = self.take_to(position);
        match is_new {
            true => last.map(Appended::New).ok_or(NotPlaced::Unknown),
            false => Ok(Appended::Repeat { position }),
        }
    }
}

impl SharedLog for Follower {
    fn append(
        &self,
        instance: &InstanceId,
        run: Vec<Sealed>,
    ) -> BoxFuture<'_, Vec<Result<Appended, NotPlaced>>> {
        let appended = run.iter().map(|sealed| self.append_one(instance, sealed));
        ready(appended.collect()).boxed()
    }

    fn wait_for(&self, instance: &InstanceId, cursor: Cursor) -> BoxFuture<'_, Result<(), NotNow>> {
        let is_there =
            cursor.epoch == self.epoch_of(instance) && cursor.position <= self.log.newest();
        let waited = match is_there && self.taken() < cursor.position {
            true if self.is_stopped() => Err(NotNow),
            true => {
                self.take_to(cursor.position);
                Ok(())
            }
            false => Ok(()),
        };
        ready(waited).boxed()
    }

    fn epoch_of(&self, instance: &InstanceId) -> u64 {
        instance.as_str().bytes().map(u64::from).sum()
    }
}

#[tokio::test]
async fn a_cursor_is_waited_for_only_where_the_log_has_what_it_names() {
    let (log, instance) = (Arc::default(), InstanceId::new("demo").unwrap());
    let ends = [(); 2].map(|()| Arc::new(Follower::new(&log)));
    let relays = ends.each_ref().map(|end| {
        let end = Log::Shared(end.clone());
        Relay::with_log(Catalog::new(Snapshot::default()), SETTINGS, end)
    });
    ends.iter().zip(&relays).for_each(|(end, relay)| end.serve(relay));
    let message = Message::of_a_test("1");
    let newest = relays[0].publish(&instance, message, None).await.unwrap().head.cursor;
    ends[1].stop(true);
    let wait = async |cursor| relays[1].wait_for(&instance, cursor).await;
    assert_eq!(wait(newest).await, Err(NotNow));
    for unknown in [Cursor { position: 2, ..newest }, Cursor { epoch: 1, ..newest }] {
        assert_eq!(wait(unknown).await, Ok(()), "it is another log's: nothing can come");
    }
    assert_eq!(relays[1].cursor(&instance), Cursor { position: 0, ..newest });
    ends[1].stop(false);
    assert_eq!((wait(newest).await, relays[1].cursor(&instance)), (Ok(()), newest));
}
