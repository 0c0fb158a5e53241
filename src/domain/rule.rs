//! Who may hear or publish: allow and deny rules over users, groups and expressions, decided
//! without any state.

pub mod explain;

use super::expression::{Expression, Facts, Outcome};
use super::principal::{GroupId, UserId};

/// Most rules of one list (contract, "Channels and rules").
pub const MAX_RULES: usize = 100;

/// What a rule that applies does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lets in, unless a deny rule applies too.
    Allow,
    /// Keeps out, whatever else applies.
    Deny,
}

/// Whom a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The user of this id.
    User(UserId),
    /// Every member of this group.
    Group(GroupId),
    /// Whoever the expression is true of.
    When(Expression),
    /// Every principal of the instance.
    Everyone,
}

/// One line of a rule list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub effect: Effect,
    /// To whom.
    pub subject: Subject,
}

/// At most 100 rules, in the order of their writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// A list with more than 100 rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule list has at most {MAX_RULES} rules")]
pub struct TooManyRules {
    /// How many there were.
    pub actual: usize,
}

/// What a rule list says of someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The outcome.
    pub allowed: bool,
    /// The rule that decided, by its index: the first deny that applies, else the first allow, else
    /// none.
    pub rule: Option<usize>,
}

impl Rules {
    /// Checks the length. Errors: `TooManyRules` above 100.
    pub fn new(rules: Vec<Rule>) -> Result<Self, TooManyRules> {
        if rules.len() > MAX_RULES {
            return Err(TooManyRules { actual: rules.len() });
        }
        Ok(Self(rules))
    }

    /// The one rule that stands where a list was left out: everyone is allowed.
    pub fn everyone() -> Self {
        Self(vec![Rule { effect: Effect::Allow, subject: Subject::Everyone }])
    }

    /// The rules in order.
    pub fn as_slice(&self) -> &[Rule] {
        &self.0
    }

    /// The expressions of its rules, with the rules' places in the list.
    pub fn expressions(&self) -> impl Iterator<Item = (usize, &Expression)> {
        self.0.iter().enumerate().filter_map(|(index, rule)| match &rule.subject {
            Subject::When(expression) => Some((index, expression)),
            _ => None,
        })
    }

    /// Deny wins; no matching allow = denied.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        self.decide_by(|_, rule| rule.subject.includes(facts))
    }

    /// What follows from each rule's outcome, asked for by index and rule.
    fn decide_by(&self, outcome: impl Fn(usize, &Rule) -> Outcome) -> Decision {
        let is_first = |effect, index, rule: &Rule| {
            rule.effect == effect && rule.applies(outcome(index, rule))
        };
        let first = |effect| {
            self.0.iter().enumerate().position(|(index, rule)| is_first(effect, index, rule))
        };
        match first(Effect::Deny) {
            Some(rule) => Decision { allowed: false, rule: Some(rule) },
            None => {
                let rule = first(Effect::Allow);
                Decision { allowed: rule.is_some(), rule }
            }
        }
    }
}

impl Rule {
    /// Whether it has its effect where its subject has this outcome: what has no answer "does not
    /// allow" and "does deny".
    pub fn applies(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::True => true,
            Outcome::False => false,
            Outcome::Error => self.effect == Effect::Deny,
        }
    }
}

impl Subject {
    /// Whether someone is meant. Only an expression can be without an answer.
    pub fn includes(&self, facts: &Facts<'_>) -> Outcome {
        let principal = facts.principal();
        let is_meant = match self {
            Self::User(user) => principal.user == *user,
            Self::Group(group) => principal.groups.contains(group),
            Self::When(expression) => return expression.evaluate(facts),
            Self::Everyone => true,
        };
        if is_meant { Outcome::True } else { Outcome::False }
    }
}
