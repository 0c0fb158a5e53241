//! What unfinished request bodies hold of the memory: those of one address, of one instance, and of
//! all.

use super::error::{Code, Outcome, Problem};
use crate::domain::instance::InstanceId;
use crate::transport::counted_as;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// When to try again: bodies come and go within seconds.
const RETRY: Duration = Duration::from_secs(1);

/// Most bytes that unfinished bodies may hold.
#[derive(Clone, Copy, Debug)]
pub struct UnfinishedBounds {
    /// Of all. An address and an instance take no more of it than they leave free for others.
    pub process: usize,
    /// Of one instance.
    pub instance: usize,
    /// Of one address.
    pub address: usize,
}

/// Counts them. A body that came whole with its head never waits and is not counted.
#[derive(Clone, Debug)]
pub struct Unfinished(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: UnfinishedBounds,
    held: Mutex<Held>,
}

/// Who holds how much; whoever holds nothing is in no map.
#[derive(Debug, Default)]
struct Held {
    process: usize,
    by_instance: HashMap<InstanceId, usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// What one unfinished body holds; dropping it gives that back.
#[derive(Debug)]
pub struct Holding {
    unfinished: Unfinished,
    address: IpAddr,
    /// None for a body that concerns no instance.
    instance: Option<InstanceId>,
    bytes: usize,
}

impl UnfinishedBounds {
    /// The same, but never below what one body of `largest` bytes needs; for the process, twice that.
    pub fn with_space_for(self, largest: usize) -> Self {
        Self {
            process: self.process.max(2 * largest),
            instance: self.instance.max(largest),
            address: self.address.max(largest),
        }
    }
}

impl Unfinished {
    /// Nothing is held yet.
    pub fn new(bounds: UnfinishedBounds) -> Self {
        Self(Arc::new(Inner { bounds, held: Mutex::default() }))
    }

    /// For a body that begins to come.
    pub fn begin(&self, address: IpAddr, instance: Option<InstanceId>) -> Holding {
        Holding { unfinished: self.clone(), address: counted_as(address), instance, bytes: 0 }
    }

    /// Bytes of all unfinished bodies.
    pub fn bytes(&self) -> usize {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).process
    }
}

impl Holding {
    /// Holds `bytes` in all from now on. Errors: 429 `RATE_LIMITED` for the address, 503
    /// `OVERLOADED` for the instance and the process; then it holds what it did before.
    pub fn grow_to(&mut self, bytes: usize) -> Outcome<()> {
        let bounds = self.unfinished.0.bounds;
        let more = bytes.saturating_sub(self.bytes);
        let mut held = self.unfinished.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held.by_address.get(&self.address).copied().unwrap_or(0);
        let instance = self.instance.as_ref();
        let of_instance =
            instance.and_then(|instance| held.by_instance.get(instance)).copied().unwrap_or(0);
        let refused = |code, holder: &str, bound: usize, actual: usize| {
            let detail = format!("unfinished request bodies of {holder} hold all that they may");
            let problem = Problem::new(code, detail).with_limit(bound as u64, actual as u64);
            Err(problem.with_retry_after(RETRY))
        };
        if of_address + more > bounds.address {
            let actual = of_address + more;
            return refused(Code::RateLimited, "this address", bounds.address, actual);
        }
        if of_instance + more > bounds.instance {
            let actual = of_instance + more;
            return refused(Code::Overloaded, "this instance", bounds.instance, actual);
        }
        if of_address.max(of_instance) + held.process + more > bounds.process {
            let actual = held.process + more;
            return refused(Code::Overloaded, "this server", bounds.process, actual);
        }
        held.process += more;
        *held.by_address.entry(self.address).or_default() += more;
        if let Some(instance) = instance {
            *held.by_instance.entry(instance.clone()).or_default() += more;
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.unfinished.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.process -= self.bytes;
        give_back(&mut held.by_address, &self.address, self.bytes);
        if let Some(instance) = &self.instance {
            give_back(&mut held.by_instance, instance, self.bytes);
        }
    }
}

fn give_back<K: Eq + Hash>(held: &mut HashMap<K, usize>, holder: &K, bytes: usize) {
    if let Some(count) = held.get_mut(holder) {
        *count -= bytes;
        if *count == 0 {
            held.remove(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: UnfinishedBounds =
        UnfinishedBounds { process: 1_000, instance: 400, address: 200 };

    fn begin(unfinished: &Unfinished, address: &str, instance: &str) -> Holding {
        let instance = InstanceId::new(instance).unwrap();
        unfinished.begin(address.parse().unwrap(), Some(instance))
    }

    fn refusal(holding: &mut Holding, bytes: usize) -> (Code, Option<u64>, Option<u64>) {
        let problem = holding.grow_to(bytes).unwrap_err();
        (problem.code, problem.limit, problem.retry_after_seconds)
    }

    #[test]
    fn an_address_has_its_bound_and_an_ipv6_household_counts_as_one() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut first = begin(&unfinished, "2001:db8::1", "a");
        assert!(first.grow_to(199).is_ok() && first.grow_to(200).is_ok());
        assert_eq!(refusal(&mut first, 201), (Code::RateLimited, Some(200), Some(1)));
        let mut second = begin(&unfinished, "2001:db8::2", "b");
        assert_eq!(refusal(&mut second, 1), (Code::RateLimited, Some(200), Some(1)));
        assert!(begin(&unfinished, "2001:db8:0:1::1", "a").grow_to(200).is_ok());
        drop(first);
        assert!(second.grow_to(200).is_ok());
    }

    #[test]
    fn an_instance_has_its_bound_whatever_the_addresses() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut first = begin(&unfinished, "192.0.2.1", "a");
        let mut second = begin(&unfinished, "192.0.2.2", "a");
        assert!(first.grow_to(200).is_ok() && second.grow_to(199).is_ok());
        assert!(second.grow_to(200).is_ok());
        let mut third = begin(&unfinished, "192.0.2.3", "a");
        assert_eq!(refusal(&mut third, 1), (Code::Overloaded, Some(400), Some(1)));
        assert!(begin(&unfinished, "192.0.2.3", "b").grow_to(200).is_ok());
    }

    #[test]
    fn the_process_has_its_bound_and_whoever_comes_new_finds_space() {
        let unfinished = Unfinished::new(BOUNDS);
        let instances = ["a", "b", "c", "d", "e", "f"];
        let fill = |(number, instance): (usize, &&str)| {
            let mut holding = begin(&unfinished, &format!("192.0.2.{number}"), instance);
            let took = (1..=200).take_while(|bytes| holding.grow_to(*bytes).is_ok()).count();
            (took, holding)
        };
        let filled: Vec<(usize, Holding)> = instances.iter().enumerate().map(fill).collect();
        assert!(filled.iter().all(|(took, _)| *took > 0));
        let mut more = begin(&unfinished, "192.0.2.0", "a");
        assert_eq!(refusal(&mut more, 1).0, Code::RateLimited);
        let mut more = begin(&unfinished, "192.0.2.9", "a");
        assert_eq!(refusal(&mut more, 1), (Code::Overloaded, Some(1_000), Some(1)));
        assert!(unfinished.bytes() < 1_000);
        drop((filled, more));
        assert_eq!(unfinished.bytes(), 0);
        let held = unfinished.0.held.lock().unwrap();
        assert!(held.by_address.is_empty() && held.by_instance.is_empty());
    }

    #[test]
    fn what_concerns_no_instance_counts_for_its_address_and_the_process() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut holding = unfinished.begin("192.0.2.1".parse().unwrap(), None);
        assert!(holding.grow_to(200).is_ok() && holding.grow_to(201).is_err());
        assert_eq!(unfinished.bytes(), 200);
    }

    #[test]
    fn the_largest_body_always_finds_space() {
        let unfinished = Unfinished::new(BOUNDS.with_space_for(5_000));
        assert!(begin(&unfinished, "192.0.2.1", "a").grow_to(5_000).is_ok());
        assert!(begin(&unfinished, "192.0.2.1", "a").grow_to(5_001).is_err());
    }
}
