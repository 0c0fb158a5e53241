//! Says of each rule of a list whether it means someone, and why.

use super::{Decision, Rule, Rules, Subject};
use crate::domain::expression::{Explanation, Facts, Outcome};

/// What one rule says of someone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleResult {
    /// The rule.
    pub rule: Rule,
    /// Whether it means them; an error does not allow and does deny.
    pub outcome: Outcome,
    /// Why, in at most 512 bytes.
    pub reason: String,
}

impl Rules {
    /// What `decide` says, and what every rule says, in order.
    pub fn explain(&self, facts: &Facts<'_>) -> (Decision, Vec<RuleResult>) {
        let result = |rule: &Rule| {
            let Explanation { outcome, reason } = rule.subject.explain(facts);
            RuleResult { rule: rule.clone(), outcome, reason }
        };
        let results: Vec<RuleResult> = self.as_slice().iter().map(result).collect();
        (self.decide_by(|index, _| results[index].outcome), results)
    }
}

impl Subject {
    /// What `includes` says, and why.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        if let Self::When(expression) = self {
            return expression.explain(facts);
        }
        let outcome = self.includes(facts);
        let is_meant = outcome == Outcome::True;
        let reason = match self {
            Self::User(user) if is_meant => format!("the user is {user}"),
            Self::User(user) => format!("the user is {}, not {user}", facts.principal().user),
            Self::Group(group) if is_meant => format!("a member of the group {group}"),
            Self::Group(group) => format!("not a member of the group {group}"),
            Self::Everyone | Self::When(_) => "everyone is meant".into(),
        };
        Explanation { outcome, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::{Expression, Scope};
    use crate::domain::names::Names;
    use crate::domain::principal::{GroupId, Principal, UserId};
    use crate::domain::rule::Effect;

    fn rules(subjects: &[(Effect, Subject)]) -> Rules {
        let rule = |(effect, subject): &(Effect, Subject)| Rule {
            effect: *effect,
            subject: subject.clone(),
        };
        Rules::new(subjects.iter().map(rule).collect()).unwrap()
    }

    /// Every list of three of these rules is decided and explained alike.
    #[test]
    fn the_explanation_decides_as_the_decision_does() {
        let when = |text: &str| Subject::When(Expression::parse(text, Scope::Hear).unwrap());
        let principal = Principal {
            groups: Names::new(&[GroupId::new("eng").unwrap()]).unwrap(),
            claims: [("plan".into(), "free".into())].into_iter().collect(),
            ..Principal::new(UserId::new("alice").unwrap(), 0)
        };
        let facts = Facts::new(&principal, None);
        let subjects = [
            (Subject::User(UserId::new("alice").unwrap()), Outcome::True, "the user is alice"),
            (
                Subject::User(UserId::new("bob").unwrap()),
                Outcome::False,
                "the user is alice, not bob",
            ),
            (
                Subject::Group(GroupId::new("eng").unwrap()),
                Outcome::True,
                "a member of the group eng",
            ),
            (
                Subject::Group(GroupId::new("ops").unwrap()),
                Outcome::False,
                "not a member of the group ops",
            ),
            (Subject::Everyone, Outcome::True, "everyone is meant"),
            (
                when("claims.plan == 'pro'"),
                Outcome::False,
                "claims.plan == \"pro\" is false: claims.plan is \"free\"",
            ),
            (
                when("claims.age > 3"),
                Outcome::Error,
                "claims.age > 3 fails: claims.age: no such key",
            ),
        ];
        let all: Vec<(Effect, Subject)> = [Effect::Allow, Effect::Deny]
            .into_iter()
            .flat_map(|effect| subjects.iter().map(move |(subject, ..)| (effect, subject.clone())))
            .collect();
        for (index, (_, outcome, reason)) in subjects.iter().enumerate() {
            let (_, results) = rules(&all[index..=index]).explain(&facts);
            assert_eq!((results[0].outcome, &*results[0].reason), (*outcome, *reason));
        }
        let count = all.len();
        for number in 0..count.pow(3) {
            let three = [number % count, number / count % count, number / count / count];
            let rules = rules(&three.map(|index| all[index].clone()));
            assert_eq!(rules.explain(&facts).0, rules.decide(&facts), "{rules:?}");
        }
    }
}
