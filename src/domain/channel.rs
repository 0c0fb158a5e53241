//! A named audience that an administrator configured, with rules.

use super::expression::{Cost, Excess, Expression, Facts};
use super::rule::Rules;
use super::text::text_value;
use std::collections::BTreeMap;
use std::sync::Arc;

text_value! {
    /// A channel's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, and not `ALL` in any case.
    ChannelName, ChannelNameError,
    "a channel name is 1 to 64 of the characters A-Z a-z 0-9 . _ -, begins with a letter or digit, and is not ALL",
    |text: &str| {
        (1..=64).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !text.eq_ignore_ascii_case("ALL")
    }
}

/// Most channels of an instance (contract, "Channels and rules").
pub const MAX_CHANNELS: usize = 1_000;

/// A channel as an administrator configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Never changes.
    pub name: ChannelName,
    /// For people; empty or up to 1,000 bytes.
    pub description: String,
    /// While false, nobody hears it and publishing to it is a conflict.
    pub enabled: bool,
    /// Who hears it.
    pub rules: Rules,
    /// Who, of those who may publish at all, may publish to it.
    pub publish_rules: Rules,
    /// Largest `message` in bytes; only lowers the instance's limit.
    pub payload_limit: Option<u32>,
    /// What a receiver gets that does not read fast enough.
    pub slow: Slow,
    /// Grows by one with every change; what `ETag` shows.
    pub version: i64,
}

/// An instance's channels by name.
pub type Channels = BTreeMap<ChannelName, Arc<Channel>>;

impl Channel {
    /// Whether someone may hear it.
    pub fn lets_in(&self, facts: &Facts<'_>) -> bool {
        self.enabled && self.rules.decide(facts).allowed
    }

    /// The expressions of its rules, each with its list and its place there.
    pub fn expressions(&self) -> impl Iterator<Item = (&'static str, usize, &Expression)> {
        let lists = [("rules", &self.rules), ("publishRules", &self.publish_rules)];
        lists.into_iter().flat_map(|(list, rules)| {
            rules.expressions().map(move |(rule, expression)| (list, rule, expression))
        })
    }

    /// What they cost together.
    pub fn cost(&self) -> Cost {
        self.expressions().map(|(.., expression)| expression.cost()).sum()
    }

    /// One that everyone hears and may publish to.
    #[cfg(test)]
    pub fn of_a_test(name: &str) -> Self {
        Self {
            name: ChannelName::new(name).unwrap(),
            description: String::new(),
            enabled: true,
            rules: Rules::everyone(),
            publish_rules: Rules::everyone(),
            payload_limit: None,
            slow: Slow::Disconnect,
            version: 1,
        }
    }
}

/// Why a channel that is stored counts as disabled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// With the channels before it, its expressions are beyond what those of an instance may cost.
    #[error(
        "the channel counts as disabled: with those before it by name, expressions have at least {} {}, and at most \
         {} are allowed",
        .0.actual(), .0.unit(), .0.limit()
    )]
    Beyond(Excess),
    /// Channels before it are so far beyond the bound that its expressions were not read.
    #[error(
        "the channel counts as disabled: the expressions of channels before it by name are far beyond what is allowed"
    )]
    Unread,
    /// An expression of it is not understood any more.
    #[error(
        "the channel counts as disabled: /{list}/{rule}/when is refused by this version: {reason}"
    )]
    Fault {
        /// `rules` or `publishRules`.
        list: &'static str,
        /// By its place in the list, from 0.
        rule: usize,
        /// What is wrong.
        reason: String,
    },
}

/// How many times the bound of an instance's expressions is read of what is stored.
const READ: usize = 4;

/// Disables the channels, by name, that do not fit what the expressions of an instance may cost
/// together; why of each. What is stored far beyond the bound is not read to its end.
pub fn fit(channels: &mut Channels, bound: Cost) -> BTreeMap<ChannelName, Misfit> {
    let most = Cost {
        steps: bound.steps.saturating_mul(READ as u64),
        bytes: bound.bytes.saturating_mul(READ),
    };
    let (mut taken, mut read) = (Cost::default(), Cost::default());
    let mut misfits = BTreeMap::new();
    for (name, channel) in channels {
        match fits(channel, taken, bound, (&mut read, most)) {
            Ok(total) => taken = total,
            Err(misfit) => {
                Arc::make_mut(channel).enabled = false;
                misfits.insert(name.clone(), misfit);
            }
        }
    }
    misfits
}

/// What is taken with a channel that fits. Errors: `Misfit`.
fn fits(
    channel: &Channel,
    taken: Cost,
    bound: Cost,
    (read, most): (&mut Cost, Cost),
) -> Result<Cost, Misfit> {
    let mut total = taken;
    for (list, rule, expression) in channel.expressions() {
        if read.within(most).is_err() {
            return Err(Misfit::Unread);
        }
        if let Some(fault) = expression.fault() {
            return Err(Misfit::Fault { list, rule, reason: fault.reason.clone() });
        }
        total = total + expression.cost();
        *read = *read + expression.cost();
        total.within(bound).map_err(Misfit::Beyond)?;
    }
    Ok(total)
}

/// What the expressions of channels cost together; no more is read of them once they are beyond a
/// bound.
pub fn cost_of<'a>(channels: impl Iterator<Item = &'a Channel>, bound: Cost) -> Cost {
    let mut total = Cost::default();
    for (.., expression) in channels.flat_map(Channel::expressions) {
        total = total + expression.cost();
        if total.within(bound).is_err() {
            break;
        }
    }
    total
}

/// What happens to a channel's messages where a receiver does not read them fast enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slow {
    /// All of them wait; where there is no room, the connection ends with 4420 and resumes by its
    /// cursor.
    #[default]
    Disconnect,
    /// Only the newest waits; the receiver is told how many it replaced.
    Latest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::Scope;
    use crate::domain::expression::compiled::{Compiled, CompiledBounds};
    use crate::domain::instance::InstanceId;
    use crate::domain::rule::{Effect, Rule, Subject};

    fn channel(name: &str, when: Expression) -> (ChannelName, Arc<Channel>) {
        let rule = Rule { effect: Effect::Allow, subject: Subject::When(when) };
        let rules = Rules::new(vec![rule]).unwrap();
        let channel = Channel { rules, ..Channel::of_a_test(name) };
        (channel.name.clone(), Arc::new(channel))
    }

    #[test]
    fn channels_fit_by_name_and_one_that_does_not_leaves_room_for_the_next() {
        let small = Expression::parse("user == 'a'", Scope::Hear).unwrap();
        let large = Expression::parse("claims.l.exists(x, x == 'a')", Scope::Hear).unwrap();
        let of = |list: [(&str, &Expression); 3]| -> Channels {
            list.into_iter().map(|(name, when)| channel(name, when.clone())).collect()
        };
        let steps = small.price() + large.price();
        let wide = usize::MAX;
        for (list, bound, left_out) in [
            ([("a", &small), ("b", &large), ("c", &small)], (steps + small.price(), wide), &[][..]),
            ([("a", &small), ("b", &large), ("c", &small)], (steps, wide), &["c"]),
            ([("a", &large), ("b", &large), ("c", &small)], (steps, wide), &["b"]),
            ([("a", &large), ("b", &small), ("c", &small)], (large.price() - 1, wide), &["a"]),
            (
                [("a", &small), ("b", &small), ("c", &small)],
                (steps, 2 * small.cost().bytes),
                &["c"],
            ),
            ([("a", &small), ("b", &small), ("c", &small)], (0, 0), &["a", "b", "c"]),
        ] {
            let mut channels = of(list);
            let misfits = fit(&mut channels, Cost { steps: bound.0, bytes: bound.1 });
            assert_eq!(misfits.keys().map(ChannelName::as_str).collect::<Vec<_>>(), left_out);
            for (name, channel) in &channels {
                assert_eq!(channel.enabled, !misfits.contains_key(name), "{name}");
            }
        }
        let mut channels = of([("a", &small), ("b", &large), ("c", &small)]);
        let misfits = fit(&mut channels, Cost { steps: steps - 1, bytes: wide });
        let said =
            format!("expressions have at least {steps} steps, and at most {} are", steps - 1);
        assert!(misfits[&ChannelName::new("b").unwrap()].to_string().contains(&said));
    }

    #[test]
    fn what_is_stored_far_beyond_the_bound_is_not_read_to_its_end() {
        let instance = Cost { steps: 100, bytes: 1_000_000 };
        let compiled = Compiled::new(CompiledBounds { instance, total_bytes: 1_000_000 });
        let pool = compiled.pool(&InstanceId::new("demo").unwrap());
        let large = |number: usize| {
            let text = format!("claims.l.exists(x, x == '{number}')");
            channel(&format!("c{number}"), Expression::stored_in(&pool, &text, Scope::Hear))
        };
        let mut channels: Channels = (0..3).map(large).collect();
        let small = Expression::parse("user == 'a'", Scope::Hear).unwrap();
        channels.extend([channel("a", small.clone()), channel("z", small)]);
        let open = Channel::of_a_test("zz");
        channels.insert(open.name.clone(), Arc::new(open));
        let misfits = fit(&mut channels, instance);
        let why: Vec<_> = misfits.iter().map(|(name, misfit)| (name.as_str(), misfit)).collect();
        assert!(
            matches!(
                why[..],
                [
                    ("c0", Misfit::Beyond(_)),
                    ("c1", Misfit::Unread),
                    ("c2", Misfit::Unread),
                    ("z", Misfit::Unread)
                ]
            ),
            "{why:?}"
        );
        let cost = cost_of(channels.values().map(|channel| &**channel), instance);
        assert!(cost.within(instance).is_err());
    }

    #[test]
    fn a_channel_with_an_expression_that_is_refused_now_is_disabled_and_takes_no_room() {
        let instance = Cost { steps: 1_000, bytes: 10_000 };
        let compiled = Compiled::new(CompiledBounds { instance, total_bytes: 10_000 });
        let pool = compiled.pool(&InstanceId::new("demo").unwrap());
        let faulty = Expression::stored_in(&pool, "nobody == 1", Scope::Hear);
        let sound = Expression::stored_in(&pool, "user == 'a'", Scope::Hear);
        let mut channels = Channels::from([channel("a", faulty), channel("b", sound)]);
        let misfits = fit(&mut channels, instance);
        assert_eq!(misfits.len(), 1);
        let said = misfits[&ChannelName::new("a").unwrap()].to_string();
        assert!(
            said.contains("/rules/0/when is refused by this version: nobody is not known"),
            "{said}"
        );
    }

    #[test]
    fn names_are_ascii_words_of_at_most_64_and_never_all() {
        for good in ["a", "9", "ALLES", "a.b_c-d", &"x".repeat(64)] {
            assert!(ChannelName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "_a",
            "a b",
            "a/b",
            "../b",
            "*",
            "ALL",
            "all",
            "All",
            "é",
            "news\u{200b}",
            "group:x",
            &"x".repeat(65),
        ] {
            assert!(ChannelName::new(bad).is_err(), "{bad}");
        }
    }
}
