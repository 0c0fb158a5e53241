//! What the relay remembers of messages, within the bounds of the whole process.

use super::entry::{Entry, Times};
use super::frame::Frame;
use super::history::{History, HistoryBounds};
use super::realm::{Memory, Order, Realm};
use super::repeats::Repeats;
use super::traces::{Trace, Traces, Until};
use super::{Relay, RelaySettings};
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Tells a total of the whole process what has changed in a part of it: mostly nothing, when as
/// much is let go of as is taken in, and then the total is not taken from the other processors.
pub(super) fn settle(total: &AtomicUsize, before: usize, after: usize) {
    match after.cmp(&before) {
        Ordering::Greater => total.fetch_add(after - before, Relaxed),
        Ordering::Less => total.fetch_sub(before - after, Relaxed),
        Ordering::Equal => 0,
    };
}

/// What gave way to a newer message. Letting go of it takes as long as giving a message its place:
/// it is to outlive the order's lock.
#[derive(Default)]
pub(super) struct Forgotten {
    _trace: Option<Trace>,
    _entry: Option<Arc<Entry>>,
}

impl Relay {
    /// A message that can still be traced, by its id.
    pub fn trace_of(&self, instance: &InstanceId, id: &str) -> Option<Trace> {
        self.realms().get(instance).and_then(|realm| realm.traces.find(id, Instant::now()))
    }

    /// Gives a message the next place, and remembers it: for traces, and for those who resume
    /// unless it is live only.
    pub(super) fn remember(
        &self,
        order: &mut Order<'_>,
        message: &Message,
        frame: &Frame,
    ) -> Forgotten {
        let (cursor, now) = (order.next(), Instant::now());
        let HistoryBounds { window, messages, .. } = self.0.settings.history;
        let entry = self.entry(message, cursor, frame, now);
        let replayed = entry.as_ref().filter(|_| messages > 0).map(|entry| entry.expires);
        let progress = frame.progress().cloned().unwrap_or_default();
        let trace = Trace::new(message, cursor, progress, Until { kept: now + window, replayed });
        Forgotten {
            _trace: order.realm().traces.insert(trace, now),
            _entry: order.advance(entry, now),
        }
    }

    fn entry(
        &self,
        message: &Message,
        cursor: Cursor,
        frame: &Frame,
        now: Instant,
    ) -> Option<Entry> {
        let window = self.0.settings.history.window;
        let ttl = message.ttl.unwrap_or(window);
        if ttl.is_zero() {
            return None;
        }
        let times = Times { kept_until: now + window, expires: now + ttl.min(window) };
        Some(Entry::new(cursor.position, frame.clone(), message.reach.clone(), times))
    }

    /// Where windows or traces take more than the process may, those that were used least recently
    /// give way first.
    pub(super) fn bound_memory(&self) {
        let RelaySettings { history, traces, .. } = &self.0.settings;
        self.bound(&self.0.history_bytes, history.total_bytes, Realm::history_bytes, Realm::evict);
        self.bound(
            &self.0.trace_bytes,
            traces.total_bytes,
            |realm| realm.traces.bytes(),
            |realm| realm.traces.evict(),
        );
    }

    fn bound(
        &self,
        held: &AtomicUsize,
        most: usize,
        bytes: impl Fn(&Realm) -> usize,
        evict: impl Fn(&Realm),
    ) {
        if held.load(Relaxed) <= most {
            return;
        }
        let mut realms = self.all_realms();
        realms.retain(|realm| bytes(realm) > 0);
        realms.sort_by_cached_key(|realm| realm.last_used());
        for realm in realms {
            evict(&realm);
            if held.load(Relaxed) <= most {
                return;
            }
        }
    }

    /// Lets go of what is older than the window, everywhere.
    pub(super) fn trim_history(&self) {
        let now = Instant::now();
        self.all_realms().iter().for_each(|realm| realm.trim(now));
    }

    pub(super) fn memory(&self) -> Memory {
        let settings = &self.0.settings;
        Memory {
            history: History::new(settings.history, 0, self.0.history_bytes.clone()),
            repeats: Repeats::new(settings.history.window, settings.ids, self.0.ids.clone()),
            traces: Traces::new(settings.traces, self.0.trace_bytes.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Snapshot};
    use crate::relay::model_test::SETTINGS;
    use crate::relay::traces::TraceBounds;

    #[tokio::test]
    async fn where_traces_take_too_much_those_of_the_least_recently_used_instance_give_way() {
        let traces = TraceBounds { total_bytes: 6_000, ..SETTINGS.traces };
        let relay =
            Relay::new(Catalog::new(Snapshot::default()), RelaySettings { traces, ..SETTINGS });
        let [quiet, busy] = ["quiet", "busy"].map(|id| InstanceId::new(id).unwrap());
        let known = |instance, ids: std::ops::Range<u32>| {
            ids.filter(|id| relay.trace_of(instance, &id.to_string()).is_some()).count()
        };
        for id in 0..4 {
            relay.publish(&quiet, &Message::of_a_test(&id.to_string())).await.unwrap();
        }
        let mut before = 0;
        for id in 0..20 {
            relay.publish(&busy, &Message::of_a_test(&id.to_string())).await.unwrap();
            assert!(relay.trace_bytes() <= 6_000);
            assert!(relay.trace_of(&busy, &id.to_string()).is_some(), "the newest is always kept");
            let now = known(&busy, 0..20);
            assert!(now > before || known(&quiet, 0..4) == 0, "the quiet one gives way first");
            before = now;
        }
        assert_eq!(known(&quiet, 0..4), 0);
        assert!(before >= 5, "{before} are known");
    }
}
