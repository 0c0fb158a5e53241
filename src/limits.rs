//! Rate limits by user and by instance: who may publish and connect now, and what is left.

use crate::domain::instance::{Instance, InstanceId, Limits};
use crate::domain::principal::UserId;
use ahash::RandomState;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

type Single = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;
type ByUser =
    RateLimiter<UserId, DashMapStateStore<UserId>, DefaultClock, StateInformationMiddleware>;

/// Whose rate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The user's within the instance.
    User,
    /// The instance's as a whole.
    Instance,
}

/// One rate: so many at once, refilled at so many a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whose it is.
    pub holder: Holder,
    /// Refilled a second.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// What is left of the tighter of the two rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// The instance's rate and the user's.
    pub rates: [Rate; 2],
    /// Whose is tighter.
    pub tighter: Rate,
    /// How many are left of it.
    pub left: u32,
}

/// A rate is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The rate.
    pub rate: Rate,
    /// Until there is one again.
    pub wait: Duration,
}

/// The handle that everyone shares.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Arc<RwLock<HashMap<InstanceId, Arc<Buckets>, RandomState>>>);

/// What one request may spend. The counters are everyone's, and taking them from another processor
/// costs more than counting: what the request needs is taken at once where it can be.
#[derive(Debug)]
pub struct Allowance<'a> {
    buckets: Arc<Buckets>,
    user: &'a UserId,
    of_user: Prepaid,
    of_instance: Prepaid,
}

/// What is spent of a rate before it is needed.
#[derive(Debug, Default)]
struct Prepaid {
    /// So many messages.
    messages: u32,
    /// What was left of the rate then.
    left: u32,
}

/// The state of one instance's rates.
#[derive(Debug)]
struct Buckets {
    /// What they were made for; other limits make new ones.
    limits: Limits,
    messages: Single,
    user_messages: ByUser,
    connects: Single,
}

impl Rate {
    /// Seconds in which the whole burst is refilled, at least 1.
    pub fn window_seconds(&self) -> u32 {
        self.burst.div_ceil(self.per_second.max(1)).max(1)
    }

    fn quota(self) -> Quota {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Quota::per_second(at_least_one(self.per_second)).allow_burst(at_least_one(self.burst))
    }
}

impl Remaining {
    /// Seconds until the tighter rate is whole again, at least 1.
    pub fn reset_seconds(&self) -> u32 {
        let missing = self.tighter.burst.saturating_sub(self.left);
        missing.div_ceil(self.tighter.per_second.max(1)).max(1)
    }

    /// What is left when `rate` is used up.
    pub fn nothing(limits: &Limits, rate: Rate) -> Self {
        Self { rates: [instance_rate(limits), user_rate(limits)], tighter: rate, left: 0 }
    }
}

impl RateLimits {
    /// What a request for so many messages may spend of the user's and the instance's rate.
    pub fn allowance<'a>(
        &self,
        instance: &Instance,
        user: &'a UserId,
        messages: u32,
    ) -> Allowance<'a> {
        let mut allowance = Allowance {
            buckets: self.buckets(instance),
            user,
            of_user: Prepaid::default(),
            of_instance: Prepaid::default(),
        };
        if let Some(all) = NonZeroU32::new(messages).filter(|all| all.get() > 1) {
            allowance.prepay(all);
        }
        allowance
    }

    /// Spends one of the instance's connects. Errors: `Exceeded`.
    pub fn check_connect(&self, instance: &Instance) -> Result<(), Exceeded> {
        let spent = self.buckets(instance).connects.check().map(drop);
        spent.map_err(|until| Exceeded { rate: connect_rate(&instance.limits), wait: wait(&until) })
    }

    /// Forgets users whose rates are whole again, and instances that are not to be kept; to be
    /// called from a timer.
    pub fn prune(&self, keep: impl Fn(&InstanceId) -> bool) {
        let mut instances = self.0.write().unwrap_or_else(PoisonError::into_inner);
        instances.retain(|instance, _| keep(instance));
        for buckets in instances.values() {
            buckets.user_messages.retain_recent();
            buckets.user_messages.shrink_to_fit();
        }
    }

    fn buckets(&self, instance: &Instance) -> Arc<Buckets> {
        let known =
            self.0.read().unwrap_or_else(PoisonError::into_inner).get(&instance.id).cloned();
        if let Some(buckets) = known.filter(|buckets| buckets.limits == instance.limits) {
            return buckets;
        }
        let fresh = Arc::new(Buckets::new(instance.limits));
        let mut instances = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let entry = instances.entry(instance.id.clone()).or_insert_with(|| fresh.clone());
        if entry.limits != instance.limits {
            *entry = fresh;
        }
        entry.clone()
    }
}

impl Allowance<'_> {
    /// Spends one message of the user's rate, then of the instance's. Errors: `Exceeded`.
    pub fn spend(&mut self) -> Result<Remaining, Exceeded> {
        let Self { buckets, user, of_user, of_instance } = self;
        let [whole, own] = [instance_rate(&buckets.limits), user_rate(&buckets.limits)];
        let exceeded = |rate| move |until| Exceeded { rate, wait: wait(&until) };
        let of_user = match of_user.take() {
            Some(left) => left,
            None => buckets
                .user_messages
                .check_key(user)
                .map_err(exceeded(own))?
                .remaining_burst_capacity(),
        };
        let of_instance = match of_instance.take() {
            Some(left) => left,
            None => buckets.messages.check().map_err(exceeded(whole))?.remaining_burst_capacity(),
        };
        let (tighter, left) =
            if of_user <= of_instance { (own, of_user) } else { (whole, of_instance) };
        Ok(Remaining { rates: [whole, own], tighter, left })
    }

    /// Spends all at once where there is as much, in the same order: as far as there is not,
    /// nothing is spent.
    fn prepay(&mut self, all: NonZeroU32) {
        let Ok(Ok(spent)) = self.buckets.user_messages.check_key_n(self.user, all) else { return };
        self.of_user = Prepaid { messages: all.get(), left: spent.remaining_burst_capacity() };
        let Ok(Ok(spent)) = self.buckets.messages.check_n(all) else { return };
        self.of_instance = Prepaid { messages: all.get(), left: spent.remaining_burst_capacity() };
    }
}

impl Prepaid {
    /// Takes one message; what is left of the rate.
    fn take(&mut self) -> Option<u32> {
        self.messages = self.messages.checked_sub(1)?;
        Some(self.left)
    }
}

impl Buckets {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            messages: RateLimiter::direct(instance_rate(&limits).quota()).with_middleware(),
            user_messages: RateLimiter::dashmap(user_rate(&limits).quota()).with_middleware(),
            connects: RateLimiter::direct(connect_rate(&limits).quota()).with_middleware(),
        }
    }
}

fn instance_rate(limits: &Limits) -> Rate {
    Rate {
        holder: Holder::Instance,
        per_second: limits.messages_per_second,
        burst: limits.message_burst,
    }
}

fn user_rate(limits: &Limits) -> Rate {
    Rate {
        holder: Holder::User,
        per_second: limits.user_messages_per_second,
        burst: limits.user_message_burst,
    }
}

fn connect_rate(limits: &Limits) -> Rate {
    Rate {
        holder: Holder::Instance,
        per_second: limits.connects_per_second,
        burst: limits.connects_per_second,
    }
}

fn wait(until: &governor::NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(messages: u32, user_messages: u32) -> Instance {
        let limits = Limits {
            messages_per_second: 1,
            message_burst: messages,
            user_messages_per_second: 1,
            user_message_burst: user_messages,
            connects_per_second: 2,
            ..Limits::default()
        };
        let id = InstanceId::new("demo").unwrap();
        Instance {
            id,
            name: String::new(),
            enabled: true,
            publish_roles: vec![],
            origins: vec![],
            limits,
            version: 1,
        }
    }

    /// One message by itself.
    fn check(
        limits: &RateLimits,
        instance: &Instance,
        user: &UserId,
    ) -> Result<Remaining, Exceeded> {
        limits.allowance(instance, user, 1).spend()
    }

    #[test]
    fn a_request_for_many_spends_what_as_many_requests_for_one_would() {
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::new(user).unwrap());
        let spend = |limits: &RateLimits, instance: &Instance, messages: u32| {
            let mut allowance = limits.allowance(instance, &alice, messages);
            let outcomes = (0..messages).map(|_| allowance.spend());
            outcomes
                .map(|outcome| outcome.map(|left| left.left).map_err(|error| error.rate.holder))
                .collect::<Vec<_>>()
        };
        // Enough of both: the header tells what is left when all are spent.
        let (limits, enough) = (RateLimits::default(), instance(9, 5));
        assert_eq!(spend(&limits, &enough, 3).last(), Some(&Ok(2)));
        assert_eq!(check(&limits, &enough, &bob).unwrap().left, 4);
        assert_eq!(limits.buckets(&enough).messages.check().unwrap().remaining_burst_capacity(), 4);
        // More than the user has: what there is, and what is refused costs the instance nothing.
        let (limits, user_short) = (RateLimits::default(), instance(9, 3));
        assert_eq!(spend(&limits, &user_short, 4), [Ok(2), Ok(1), Ok(0), Err(Holder::User)]);
        assert_eq!(
            limits.buckets(&user_short).messages.check().unwrap().remaining_burst_capacity(),
            5
        );
        // More than the instance has: what it refuses has cost the user one each, and not two.
        let (limits, instance_short) = (RateLimits::default(), instance(2, 5));
        assert_eq!(spend(&limits, &instance_short, 3), [Ok(1), Ok(0), Err(Holder::Instance)]);
        let left = |limits: &RateLimits| {
            limits.buckets(&instance_short).user_messages.check_key(&alice).unwrap()
        };
        assert_eq!(left(&limits).remaining_burst_capacity(), 1);
    }

    #[test]
    fn the_tighter_rate_is_told_and_holds() {
        let (limits, instance) = (RateLimits::default(), instance(4, 3));
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::new(user).unwrap());
        let first = check(&limits, &instance, &alice).unwrap();
        assert_eq!((first.tighter.holder, first.left, first.reset_seconds()), (Holder::User, 2, 1));
        check(&limits, &instance, &alice).unwrap();
        check(&limits, &instance, &alice).unwrap();
        let exceeded = check(&limits, &instance, &alice).unwrap_err();
        assert_eq!((exceeded.rate.holder, exceeded.wait > Duration::ZERO), (Holder::User, true));
        let last = check(&limits, &instance, &bob).unwrap();
        assert_eq!((last.tighter.holder, last.left), (Holder::Instance, 0));
        assert_eq!(check(&limits, &instance, &bob).unwrap_err().rate.holder, Holder::Instance);
    }

    #[test]
    fn a_changed_limit_holds_at_once_and_strangers_are_forgotten() {
        let limits = RateLimits::default();
        let alice = UserId::new("alice").unwrap();
        check(&limits, &instance(1, 1), &alice).unwrap();
        assert!(check(&limits, &instance(1, 1), &alice).is_err());
        assert!(check(&limits, &instance(9, 9), &alice).is_ok());
        limits.prune(|_| false);
        assert!(limits.0.read().unwrap().is_empty());
    }

    #[test]
    fn connects_have_a_rate_of_their_own() {
        let (limits, instance) = (RateLimits::default(), instance(1, 1));
        assert!(limits.check_connect(&instance).is_ok() && limits.check_connect(&instance).is_ok());
        assert_eq!(limits.check_connect(&instance).unwrap_err().rate.burst, 2);
    }
}
