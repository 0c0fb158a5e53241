//! What expressions are evaluated by, counted: it gives way where an instance or the process has
//! its share, and is made again from the text when it is needed.

use super::tree::Node;
use super::{Checked, Cost, Expression, ExpressionError, Scope};
use crate::domain::instance::InstanceId;
use ahash::RandomState;
use hashbrown::HashTable;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

/// Where all instances' expressions are compiled; cheap to clone.
#[derive(Clone)]
pub struct Compiled(Arc<Process>);

/// What expressions may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledBounds {
    /// All rules of one instance together; its filters and rules hold no more bytes compiled.
    pub instance: Cost,
    /// Bytes of all that is compiled in the process. Beyond them the instance that holds the most
    /// gives way.
    pub total_bytes: usize,
}

impl Default for CompiledBounds {
    /// What a service has with nothing set.
    fn default() -> Self {
        let instance = Cost { steps: 32_000_000, bytes: 32 << 20 };
        Self { instance, total_bytes: 256 << 20 }
    }
}

/// One instance's expressions; cheap to clone. Those of the same text share one compilation.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Process {
    bounds: CompiledBounds,
    /// Of all pools.
    bytes: AtomicUsize,
    hashes: RandomState,
    /// A pool lives as long as an expression of it.
    pools: RwLock<HashMap<InstanceId, Weak<Inner>>>,
}

struct Inner {
    process: Arc<Process>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every expression that somebody holds, with the hash of its text and scope.
    known: HashTable<(u64, Weak<Checked>)>,
    /// Those that are compiled, and some that nobody holds any more; who gives way first is first.
    order: VecDeque<Weak<Checked>>,
    /// Of those that are compiled.
    bytes: usize,
}

/// What is let go of once the pool is unlocked: the last of an expression's holders locks it.
#[derive(Default)]
struct Gone {
    _compiled: Vec<Arc<Node>>,
    _looked_at: Vec<Arc<Checked>>,
}

impl Compiled {
    /// None yet.
    pub fn new(bounds: CompiledBounds) -> Self {
        let process = Process {
            bounds,
            bytes: AtomicUsize::new(0),
            hashes: RandomState::new(),
            pools: RwLock::default(),
        };
        Self(Arc::new(process))
    }

    /// What expressions may cost.
    pub fn bounds(&self) -> CompiledBounds {
        self.0.bounds
    }

    /// Bytes of all that is compiled now.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    /// The expressions of an instance.
    pub fn pool(&self, instance: &InstanceId) -> Pool {
        let pools = self.0.pools.read().unwrap_or_else(PoisonError::into_inner);
        let known = pools.get(instance).and_then(Weak::upgrade);
        drop(pools);
        if let Some(known) = known {
            return Pool(known);
        }
        let mut pools = self.0.pools.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pools.get(instance).and_then(Weak::upgrade) {
            return Pool(known);
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let inner = Arc::new(Inner { process: self.0.clone(), state: Mutex::default() });
        pools.insert(instance.clone(), Arc::downgrade(&inner));
        Pool(inner)
    }
}

impl Pool {
    /// The same as [`Expression::parse`]; a text that somebody holds is not read again.
    pub fn parse(&self, text: &str, scope: Scope) -> Result<Expression, ExpressionError> {
        let stored = self.parse_stored(text, scope);
        match stored.fault() {
            None => Ok(stored),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// The same of a text that was stored; it is read once somebody needs that. Where it is not
    /// understood any more, it has no answer for anyone and tells why.
    pub fn parse_stored(&self, text: &str, scope: Scope) -> Expression {
        let hash = self.0.process.hashes.hash_one((text, scope));
        if let Some(known) = self.find(hash, text, scope) {
            known.note_use();
            return Expression(known);
        }
        Expression(self.insert(text, scope, hash))
    }

    fn find(&self, hash: u64, text: &str, scope: Scope) -> Option<Arc<Checked>> {
        let mut looked_at = Vec::new();
        let state = self.0.lock();
        let is_it = |(_, known): &(u64, Weak<Checked>)| {
            let Some(known) = known.upgrade() else { return false };
            let is_it = *known.text == *text && known.scope == scope;
            looked_at.push(known);
            is_it
        };
        let is_found = state.known.find(hash, is_it).is_some();
        drop(state);
        looked_at.pop().filter(|_| is_found)
    }

    /// Makes an expression known. Another thread that does so at the same moment has one of its own.
    fn insert(&self, text: &str, scope: Scope, hash: u64) -> Arc<Checked> {
        let checked = Arc::new(Checked::new(text, scope, Some((self.clone(), hash))));
        let known = (hash, Arc::downgrade(&checked));
        self.0.lock().known.insert_unique(hash, known, |(hash, _)| *hash);
        checked
    }

    /// Keeps what an expression is evaluated by, of so many bytes; what was used least gives way.
    pub(super) fn keep(&self, checked: &Arc<Checked>, bytes: usize, root: Arc<Node>) {
        let process = &self.0.process;
        let mut state = self.0.lock();
        if checked.form.load().is_none() {
            checked.form.store(Some(root));
            state.add(bytes, process);
            state.order.push_back(Arc::downgrade(checked));
        }
        let gone = state.give_way(process.bounds.instance.bytes, process);
        drop(state);
        drop(gone);
        process.give_way();
    }

    /// Nobody holds an expression any more.
    pub(super) fn forget(&self, checked: &Checked, hash: u64) {
        let mut state = self.0.lock();
        let is_it = |(_, known): &(u64, Weak<Checked>)| std::ptr::eq(known.as_ptr(), checked);
        if let Ok(known) = state.known.find_entry(hash, is_it) {
            known.remove();
        }
        state.subtract(checked.form_bytes(), &self.0.process);
        if state.order.len() > 64 + 2 * state.known.len() {
            state.order.retain(|known| known.strong_count() > 0);
            state.order.shrink_to_fit();
            state.known.shrink_to_fit(|(hash, _)| *hash);
        }
    }
}

impl Process {
    /// Whoever holds the most gives way until all are within the process's bound, and a little
    /// more, so that not everyone who comes next looks at all instances.
    fn give_way(&self) {
        let most = self.bounds.total_bytes;
        while self.bytes.load(Relaxed) > most {
            let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
            let pools: Vec<_> = pools.values().filter_map(Weak::upgrade).collect();
            let held = |pool: &Arc<Inner>| pool.lock().bytes;
            let Some(largest) = pools.iter().max_by_key(|pool| held(pool)) else { return };
            let excess = self.bytes.load(Relaxed).saturating_sub(most) + most / 16;
            let mut state = largest.lock();
            let before = state.bytes;
            let gone = state.give_way(before.saturating_sub(excess), self);
            let is_done = state.bytes == before;
            drop(state);
            drop(gone);
            if is_done {
                return;
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, bytes: usize, process: &Process) {
        self.bytes += bytes;
        process.bytes.fetch_add(bytes, Relaxed);
    }

    fn subtract(&mut self, bytes: usize, process: &Process) {
        self.bytes -= bytes;
        process.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Lets go of what was used least until so many bytes are left. What was used since it was last
    /// looked at is passed over once.
    fn give_way(&mut self, most: usize, process: &Process) -> Gone {
        let mut gone = Gone::default();
        let (mut second_chances, mut left) = (self.order.len(), 2 * self.order.len());
        while self.bytes > most && left > 0 {
            left -= 1;
            let Some(first) = self.order.pop_front() else { break };
            let Some(checked) = first.upgrade() else { continue };
            let is_spared = second_chances > 0 && checked.used.swap(false, Relaxed);
            second_chances = second_chances.saturating_sub(1);
            if is_spared {
                self.order.push_back(first);
            } else {
                self.subtract(checked.form_bytes(), process);
                gone._compiled.extend(checked.form.swap(None));
            }
            gone._looked_at.push(checked);
        }
        gone
    }
}

#[cfg(test)]
#[path = "compiled_test.rs"]
mod tests;
