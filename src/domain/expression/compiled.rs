//! What expressions are evaluated by, counted: it gives way where an instance or the process has
//! its share, and is made again from the text when it is needed.

use super::check::{Scope, check};
use super::cost::Cost;
use super::error::ExpressionError;
use super::tree::Node;
use super::{price, syntax};
use crate::domain::instance::InstanceId;
use ahash::RandomState;
use arc_swap::{ArcSwapOption, Guard};
use hashbrown::HashTable;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

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
        let instance = Cost { steps: 25_000_000, bytes: 32 << 20 };
        Self { instance, total_bytes: 256 << 20 }
    }
}

/// One instance's expressions; cheap to clone. Those of the same text share one compilation.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

/// A text that was checked, or is when that is needed. What it is evaluated by may give way, and is
/// then made again.
pub(super) struct Checked {
    text: Box<str>,
    scope: Scope,
    /// What reading it showed; empty of a stored text that was not read yet.
    measured: OnceLock<Result<Measure, Box<ExpressionError>>>,
    /// What it is evaluated by; none while it has given way.
    form: ArcSwapOption<Node>,
    /// Whether it was evaluated since its pool last looked.
    used: AtomicBool,
    /// Where its form is counted, and its hash there; none where it is kept as long as this.
    pool: Option<(Pool, u64)>,
}

/// What a text that was read costs.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// The most steps of an evaluation.
    pub price: u64,
    /// The most bytes that its form takes.
    pub form_bytes: usize,
}

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
    /// A text, read once that is needed; the same for all who hold it.
    pub(super) fn checked(&self, text: &str, scope: Scope) -> Arc<Checked> {
        let hash = self.0.process.hashes.hash_one((text, scope));
        if let Some(known) = self.find(hash, text, scope) {
            known.note_use();
            return known;
        }
        self.insert(text, scope, hash)
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
    fn keep(&self, checked: &Arc<Checked>, bytes: usize, root: Arc<Node>) {
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
    fn forget(&self, checked: &Checked, hash: u64) {
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
            let Some(largest) = self.largest() else { return };
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

    /// The pool that holds the most.
    fn largest(&self) -> Option<Arc<Inner>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().filter_map(Weak::upgrade).max_by_key(|pool| pool.lock().bytes)
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

impl Checked {
    /// A text that was read, and is kept compiled as long as it is held. Errors: `ExpressionError`.
    pub fn alone(text: &str, scope: Scope) -> Result<Arc<Self>, ExpressionError> {
        let (root, measure) = Self::read(text, scope)?;
        let checked = Self::new(text, scope, None);
        let _was_empty = checked.measured.set(Ok(measure));
        checked.form.store(Some(Arc::new(root)));
        Ok(Arc::new(checked))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it stands.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What it is evaluated by, where it has not given way.
    pub fn form(&self) -> Guard<Option<Arc<Node>>> {
        self.note_use();
        self.form.load()
    }

    /// Reads and checks a text. Errors: `ExpressionError`.
    fn read(text: &str, scope: Scope) -> Result<(Node, Measure), ExpressionError> {
        let root = Self::root(text, scope).map_err(ExpressionError::without_long_words)?;
        let price = price::price(&root).within_bounds();
        let price = price.map_err(|reason| ExpressionError { position: root.at, reason })?;
        let form_bytes = root.bytes();
        Ok((root, Measure { price, form_bytes }))
    }

    fn root(text: &str, scope: Scope) -> Result<Node, ExpressionError> {
        let (parsed, positions) = syntax::read(text)?;
        check(text, scope, &parsed, &positions)
    }

    /// Not read yet.
    fn new(text: &str, scope: Scope, pool: Option<(Pool, u64)>) -> Self {
        Self {
            text: text.into(),
            scope,
            measured: OnceLock::new(),
            form: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            pool,
        }
    }

    /// What reading it showed. Errors: why it is not understood.
    pub fn measure(self: &Arc<Self>) -> Result<Measure, &ExpressionError> {
        if self.measured.get().is_none() {
            drop(self.make());
        }
        match self.measured.get() {
            Some(Ok(measure)) => Ok(*measure),
            Some(Err(fault)) => Err(fault),
            None => Ok(Measure { price: 0, form_bytes: 0 }),
        }
    }

    /// What it is evaluated by, made from its text. Errors: why it is not understood.
    pub fn make(self: &Arc<Self>) -> Result<Arc<Node>, ExpressionError> {
        if let Some(Err(fault)) = self.measured.get() {
            return Err((**fault).clone());
        }
        match Self::read(&self.text, self.scope) {
            Ok((root, measure)) => {
                let root = Arc::new(root);
                self.measured.get_or_init(|| Ok(measure));
                if let Some((pool, _)) = &self.pool {
                    pool.keep(self, measure.form_bytes, root.clone());
                }
                Ok(root)
            }
            Err(fault) => {
                self.measured.get_or_init(|| Err(Box::new(fault.clone())));
                Err(fault)
            }
        }
    }

    /// What its form takes, where it has one.
    fn form_bytes(&self) -> usize {
        match (self.measured.get(), &*self.form.load()) {
            (Some(Ok(measure)), Some(_)) => measure.form_bytes,
            _ => 0,
        }
    }

    /// It is used: others give way before it.
    fn note_use(&self) {
        // Writing takes the place from the other workers.
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some((pool, hash)) = self.pool.take() {
            pool.forget(self, hash);
        }
    }
}

#[cfg(test)]
#[path = "compiled_test.rs"]
mod tests;
