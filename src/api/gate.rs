//! What one address may take: connections open at once, and new ones a second.

use super::error::{Code, Outcome, Problem};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts sockets by address, refused ones too. An IPv6 address counts as its /64, which one
/// household has.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Open sockets of one address.
    most: u32,
    /// By address; an address without a socket is not in the map.
    open: Mutex<HashMap<IpAddr, u32>>,
    rate: NonZeroU32,
    connects: DefaultKeyedRateLimiter<IpAddr>,
}

/// One open socket of an address; dropping it lets the next one in.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    address: IpAddr,
}

impl Gate {
    /// At most `most` sockets open at once, and `rate` new ones a second with a burst of the same.
    pub fn new(most: u32, rate: NonZeroU32) -> Self {
        let connects = DefaultKeyedRateLimiter::keyed(Quota::per_second(rate));
        Self(Arc::new(Inner { most, open: Mutex::default(), rate, connects }))
    }

    /// Lets one more socket in. Errors: 429 `RATE_LIMITED` or `TOO_MANY_CONNECTIONS`.
    pub fn pass(&self, address: IpAddr) -> Outcome<Pass> {
        let address = counted_as(address);
        if let Err(until) = self.0.connects.check_key(&address) {
            let rate = u64::from(self.0.rate.get());
            return Err(Problem::new(
                Code::RateLimited,
                format!("an address may connect {rate} times a second"),
            )
            .with_limit(rate, rate + 1)
            .with_retry_after(until.wait_time_from(DefaultClock::default().now())));
        }
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.0.most {
            let most = u64::from(self.0.most);
            return Err(Problem::new(
                Code::TooManyConnections,
                format!("an address may have {most} connections"),
            )
            .with_limit(most, most + 1));
        }
        *count += 1;
        Ok(Pass { gate: self.clone(), address })
    }

    /// Forgets addresses that have not connected lately; to be called from a timer.
    pub fn prune(&self) {
        self.0.connects.retain_recent();
        self.0.connects.shrink_to_fit();
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).shrink_to_fit();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.gate.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// What an address counts as: an IPv6 address as its /64.
pub(super) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_sockets_and_others_have_theirs() {
        let gate = Gate::new(2, NonZeroU32::new(100).unwrap());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = gate.pass(address).unwrap();
        let _second = gate.pass("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(gate.pass(address).unwrap_err().code, Code::TooManyConnections);
        assert!(gate.pass("192.0.2.2".parse().unwrap()).is_ok());
        drop(first);
        assert!(gate.pass(address).is_ok());
    }

    #[test]
    fn an_ipv6_household_counts_as_one() {
        let gate = Gate::new(1, NonZeroU32::new(100).unwrap());
        let _first = gate.pass("2001:db8::1".parse().unwrap()).unwrap();
        assert!(gate.pass("2001:db8::ffff:1".parse().unwrap()).is_err());
        assert!(gate.pass("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_connect_beyond_the_rate_is_told_when_to_come_back() {
        let gate = Gate::new(100, NonZeroU32::new(3).unwrap());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let _passes: Vec<_> = (0..3).map(|_| gate.pass(address).unwrap()).collect();
        let problem = gate.pass(address).unwrap_err();
        assert_eq!((problem.code, problem.retry_after_seconds), (Code::RateLimited, Some(1)));
    }
}
