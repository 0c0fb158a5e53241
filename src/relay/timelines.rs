//! The timelines of all instances, and the bounds of what they take together.

use super::ids::{ExportedId, Ids};
use super::settings::RelaySettings;
use super::timeline::{Exported, Memory, Timeline, Traces, Window};
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use uuid::Uuid;

/// By instance; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Timelines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RelaySettings,
    /// Only of instances of the catalog.
    by_instance: RwLock<ByInstance>,
    /// Bytes of all windows.
    window_bytes: Arc<AtomicUsize>,
    /// Bytes of all traces.
    trace_bytes: Arc<AtomicUsize>,
    /// Ids that all instances remember.
    ids: Arc<AtomicUsize>,
}

type ByInstance = HashMap<InstanceId, Arc<Timeline>, RandomState>;

impl Timelines {
    /// None yet.
    pub fn new(settings: RelaySettings) -> Self {
        Self(Arc::new(Inner {
            settings,
            by_instance: RwLock::default(),
            window_bytes: Arc::default(),
            trace_bytes: Arc::default(),
            ids: Arc::default(),
        }))
    }

    /// The timeline of an instance; a fresh one where there is none, in the epoch that is given, or
    /// in one drawn at random.
    pub fn of(&self, instance: &InstanceId, epoch: impl FnOnce() -> Option<u64>) -> Arc<Timeline> {
        if let Some(timeline) = self.find(instance) {
            return timeline;
        }
        let mut all = self.0.by_instance.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let epoch = epoch().unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
            let cursor = Cursor { epoch, position: 0 };
            Arc::new(Timeline::new(instance.clone(), cursor, self.memory()))
        };
        all.entry(instance.clone()).or_insert_with(fresh).clone()
    }

    /// The timeline of an instance that has one.
    pub fn find(&self, instance: &InstanceId) -> Option<Arc<Timeline>> {
        self.read().get(instance).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Timeline>> {
        self.read().values().cloned().collect()
    }

    /// Forgets those whose instance is no more.
    pub fn retain(&self, is_there: impl Fn(&InstanceId) -> bool) {
        let mut all = self.0.by_instance.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|instance, _| is_there(instance));
    }

    /// Bytes of all windows.
    pub fn window_bytes(&self) -> usize {
        self.0.window_bytes.load(Relaxed)
    }

    /// Bytes of all traces and ended connections.
    pub fn trace_bytes(&self) -> usize {
        self.0.trace_bytes.load(Relaxed)
    }

    /// Where windows or traces take more than the process may, those that were used least recently
    /// give way first.
    pub fn bound_memory(&self) {
        let Inner { settings, window_bytes, trace_bytes, .. } = &*self.0;
        let most = settings.history.total_bytes;
        self.bound(window_bytes, most, Timeline::window_bytes, Timeline::evict_window);
        let most = settings.traces.total_bytes;
        self.bound(trace_bytes, most, Timeline::trace_bytes, Timeline::evict_traces);
    }

    /// Lets go of what is older than the window, everywhere.
    pub fn trim(&self, now: Instant) {
        self.all().iter().for_each(|timeline| timeline.trim(now));
    }

    /// Takes up a timeline of an earlier process, before anyone is connected.
    pub fn resume(
        &self,
        instance: InstanceId,
        cursor: Cursor,
        kept: Exported,
        ids: Vec<ExportedId>,
    ) {
        let mut memory = self.memory();
        memory.window.import(cursor.position, kept, Instant::now());
        for ExportedId { head, digest, until } in ids {
            memory.ids.place(&head, digest, until);
        }
        let timeline = Arc::new(Timeline::new(instance.clone(), cursor, memory));
        let mut all = self.0.by_instance.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(instance, timeline);
    }

    /// What a fresh timeline remembers: nothing.
    fn memory(&self) -> Memory {
        let Inner { settings, window_bytes, trace_bytes, ids, .. } = &*self.0;
        Memory {
            window: Window::new(settings.history, 0, window_bytes.clone()),
            ids: Ids::new(settings.ids, ids.clone()),
            traces: Traces::new(settings.traces, trace_bytes.clone()),
        }
    }

    fn bound(
        &self,
        held: &AtomicUsize,
        most: usize,
        bytes: impl Fn(&Timeline) -> usize,
        evict: impl Fn(&Timeline),
    ) {
        if held.load(Relaxed) <= most {
            return;
        }
        let mut timelines = self.all();
        timelines.retain(|timeline| bytes(timeline) > 0);
        timelines.sort_by_cached_key(|timeline| timeline.last_used());
        for timeline in timelines {
            evict(&timeline);
            if held.load(Relaxed) <= most {
                return;
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, ByInstance> {
        self.0.by_instance.read().unwrap_or_else(PoisonError::into_inner)
    }
}
