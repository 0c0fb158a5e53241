//! What unfinished requests, heads and bodies, hold of the memory: those of one address, of one
//! instance, and of all.

use super::register::counted_as;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes that unfinished requests may hold.
#[derive(Clone, Copy, Debug)]
pub struct UnfinishedBounds {
    /// Of all. An address and an instance take no more of it than they leave free for others.
    pub process: usize,
    /// Of one instance.
    pub instance: usize,
    /// Of one address.
    pub address: usize,
}

/// Counts them. What came whole never waits and is not counted.
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
    by_instance: HashMap<Arc<str>, usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// What one unfinished request holds; dropping it gives that back.
#[derive(Debug)]
pub struct Holding {
    unfinished: Unfinished,
    /// None for the head of a request whose client a proxy will name.
    address: Option<IpAddr>,
    /// None for a head, and for a body that concerns no instance.
    instance: Option<Arc<str>>,
    bytes: usize,
}

/// Whose bound an unfinished request would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unfinished requests of this {holder} hold all that they may")]
pub struct TooMuchUnfinished {
    /// Whose.
    pub holder: Holder,
    /// How many bytes it may hold.
    pub bound: usize,
    /// How many it would hold.
    pub actual: usize,
}

/// Who holds bytes of unfinished requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An address.
    Address,
    /// An instance.
    Instance,
    /// The process.
    Server,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Instance => "instance",
            Self::Server => "server",
        })
    }
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

    /// For what begins to come from this address, for this instance where that is known.
    pub fn begin(&self, address: Option<IpAddr>, instance: Option<Arc<str>>) -> Holding {
        Holding { unfinished: self.clone(), address: address.map(counted_as), instance, bytes: 0 }
    }

    /// Bytes of all unfinished requests.
    pub fn bytes(&self) -> usize {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).process
    }
}

impl Holding {
    /// Holds `bytes` in all from now on. Errors: `TooMuchUnfinished`; then it holds what it did
    /// before.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), TooMuchUnfinished> {
        let bounds = self.unfinished.0.bounds;
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let mut held = self.unfinished.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held_by(&held.by_address, self.address.as_ref());
        let of_instance = held_by(&held.by_instance, self.instance.as_ref());
        let within = |holder, bound, actual, left_free| match actual + left_free > bound {
            true => Err(TooMuchUnfinished { holder, bound, actual }),
            false => Ok(()),
        };
        if self.address.is_some() {
            within(Holder::Address, bounds.address, of_address + more, 0)?;
        }
        if self.instance.is_some() {
            within(Holder::Instance, bounds.instance, of_instance + more, 0)?;
        }
        let left_free = of_address.max(of_instance);
        within(Holder::Server, bounds.process, held.process + more, left_free)?;
        held.process += more;
        if let Some(address) = self.address {
            *held.by_address.entry(address).or_default() += more;
        }
        if let Some(instance) = &self.instance {
            *held.by_instance.entry(instance.clone()).or_default() += more;
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // Most came whole, and hold nothing.
        if self.bytes == 0 {
            return;
        }
        let mut held = self.unfinished.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.process -= self.bytes;
        if let Some(address) = &self.address {
            give_back(&mut held.by_address, address, self.bytes);
        }
        if let Some(instance) = &self.instance {
            give_back(&mut held.by_instance, instance, self.bytes);
        }
    }
}

fn held_by<K: Eq + Hash>(held: &HashMap<K, usize>, holder: Option<&K>) -> usize {
    holder.and_then(|holder| held.get(holder)).copied().unwrap_or(0)
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
        unfinished.begin(Some(address.parse().unwrap()), Some(instance.into()))
    }

    fn refusal(holding: &mut Holding, bytes: usize) -> (Holder, usize) {
        let refusal = holding.grow_to(bytes).unwrap_err();
        (refusal.holder, refusal.bound)
    }

    #[test]
    fn an_address_has_its_bound_and_an_ipv6_household_counts_as_one() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut first = begin(&unfinished, "2001:db8::1", "a");
        assert!(first.grow_to(199).is_ok() && first.grow_to(200).is_ok());
        assert_eq!(refusal(&mut first, 201), (Holder::Address, 200));
        let mut second = begin(&unfinished, "2001:db8::2", "b");
        assert_eq!(refusal(&mut second, 1), (Holder::Address, 200));
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
        assert_eq!(refusal(&mut third, 1), (Holder::Instance, 400));
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
        assert_eq!(refusal(&mut more, 1).0, Holder::Address);
        let mut more = begin(&unfinished, "192.0.2.9", "a");
        assert_eq!(refusal(&mut more, 1), (Holder::Server, 1_000));
        assert!(unfinished.bytes() < 1_000);
        drop((filled, more));
        assert_eq!(unfinished.bytes(), 0);
        let held = unfinished.0.held.lock().unwrap();
        assert!(held.by_address.is_empty() && held.by_instance.is_empty());
    }

    #[test]
    fn what_concerns_no_instance_counts_for_its_address_and_the_process() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut holding = unfinished.begin(Some("192.0.2.1".parse().unwrap()), None);
        assert!(holding.grow_to(200).is_ok() && holding.grow_to(201).is_err());
        assert_eq!(unfinished.bytes(), 200);
    }

    #[test]
    fn what_comes_from_a_proxy_counts_for_the_process_alone() {
        let unfinished = Unfinished::new(BOUNDS);
        let mut holding = unfinished.begin(None, None);
        assert_eq!(refusal(&mut holding, 1_001), (Holder::Server, 1_000));
        assert!(holding.grow_to(1_000).is_ok());
        assert_eq!(refusal(&mut begin(&unfinished, "192.0.2.1", "a"), 1), (Holder::Server, 1_000));
        drop(holding);
        assert!(begin(&unfinished, "192.0.2.1", "a").grow_to(200).is_ok());
    }

    #[test]
    fn the_largest_body_always_finds_space() {
        let unfinished = Unfinished::new(BOUNDS.with_space_for(5_000));
        assert!(begin(&unfinished, "192.0.2.1", "a").grow_to(5_000).is_ok());
        assert!(begin(&unfinished, "192.0.2.1", "a").grow_to(5_001).is_err());
    }
}
