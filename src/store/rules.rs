//! How rule lists are stored, and shown in audit entries.

use super::CorruptRow;
use crate::domain::expression::compiled::Pool;
use crate::domain::expression::{Expression, Scope};
use crate::domain::principal::{GroupId, UserId};
use crate::domain::rule::{Effect, Rule, Rules, Subject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One rule: an effect and exactly one of the others.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleRow {
    effect: EffectRow,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    everyone: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EffectRow {
    Allow,
    Deny,
}

/// The array that is stored.
pub(super) fn to_json(rules: &Rules) -> Value {
    json!(rules.as_slice().iter().map(RuleRow::from).collect::<Vec<_>>())
}

/// Reads what `to_json` wrote. A rule that is not understood is an error, for leaving out a deny
/// rule would let in. One whose expression is not understood any more stays with its fault.
pub(super) fn from_json(rules: Value, scope: Scope, pool: &Pool) -> Result<Rules, CorruptRow> {
    let column = if scope == Scope::Publish { "publish_rules" } else { "rules" };
    let corrupt = CorruptRow { table: "channels", column };
    let rows: Vec<RuleRow> = serde_json::from_value(rules).map_err(|_| corrupt)?;
    let rules = rows
        .into_iter()
        .map(|row| row.into_rule(scope, pool).ok_or(corrupt))
        .collect::<Result<_, _>>()?;
    Rules::new(rules).map_err(|_| corrupt)
}

impl From<&Rule> for RuleRow {
    fn from(rule: &Rule) -> Self {
        let effect = match rule.effect {
            Effect::Allow => EffectRow::Allow,
            Effect::Deny => EffectRow::Deny,
        };
        let row = Self { effect, user: None, group: None, when: None, everyone: None };
        match &rule.subject {
            Subject::User(user) => Self { user: Some(user.to_string()), ..row },
            Subject::Group(group) => Self { group: Some(group.to_string()), ..row },
            Subject::When(expression) => Self { when: Some(expression.to_string()), ..row },
            Subject::Everyone => Self { everyone: Some(true), ..row },
        }
    }
}

impl RuleRow {
    fn into_rule(self, scope: Scope, pool: &Pool) -> Option<Rule> {
        let effect = match self.effect {
            EffectRow::Allow => Effect::Allow,
            EffectRow::Deny => Effect::Deny,
        };
        let subject = match (self.user, self.group, self.when, self.everyone) {
            (Some(user), None, None, None) => Subject::User(UserId::new(user).ok()?),
            (None, Some(group), None, None) => Subject::Group(GroupId::new(group).ok()?),
            (None, None, Some(when), None) => {
                Subject::When(Expression::stored_in(pool, &when, scope))
            }
            (None, None, None, Some(true)) => Subject::Everyone,
            _ => return None,
        };
        Some(Rule { effect, subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::Cost;
    use crate::domain::expression::compiled::{Compiled, CompiledBounds};
    use crate::domain::instance::InstanceId;

    fn pool() -> Pool {
        let bounds = CompiledBounds {
            instance: Cost { steps: 1_000, bytes: 1 << 20 },
            total_bytes: 1 << 20,
        };
        Compiled::new(bounds).pool(&InstanceId::new("demo").unwrap())
    }

    #[test]
    fn rules_survive_their_row_in_order() {
        let rules = Rules::new(vec![
            Rule { effect: Effect::Deny, subject: Subject::User(UserId::new("mallory").unwrap()) },
            Rule { effect: Effect::Allow, subject: Subject::Group(GroupId::new("eng").unwrap()) },
            Rule {
                effect: Effect::Allow,
                subject: Subject::When(Expression::parse("'a' in groups", Scope::Hear).unwrap()),
            },
            Rule { effect: Effect::Allow, subject: Subject::Everyone },
        ])
        .unwrap();
        let stored = json!([
            {"effect": "deny", "user": "mallory"},
            {"effect": "allow", "group": "eng"},
            {"effect": "allow", "when": "'a' in groups"},
            {"effect": "allow", "everyone": true},
        ]);
        assert_eq!(to_json(&rules), stored);
        assert_eq!(from_json(stored, Scope::Hear, &pool()), Ok(rules));
    }

    #[test]
    fn a_rule_that_is_not_understood_is_corrupt() {
        for bad in [
            json!({}),
            json!([{"effect": "allow"}]),
            json!([{"effect": "allow", "user": "a", "group": "b"}]),
            json!([{"effect": "allow", "everyone": false}]),
            json!([{"effect": "allow", "user": ""}]),
            json!([{"effect": "perhaps", "everyone": true}]),
            json!(vec![json!({"effect": "allow", "everyone": true}); 101]),
        ] {
            let corrupt = CorruptRow { table: "channels", column: "rules" };
            assert_eq!(from_json(bad.clone(), Scope::Hear, &pool()), Err(corrupt), "{bad}");
        }
    }

    #[test]
    fn a_rule_whose_expression_is_not_understood_any_more_stays_with_its_fault() {
        let stored =
            json!([{"effect": "allow", "everyone": true}, {"effect": "deny", "when": "nobody"}]);
        let rules = from_json(stored.clone(), Scope::Hear, &pool()).unwrap();
        let faults: Vec<_> =
            rules.expressions().map(|(index, it)| (index, it.fault().cloned())).collect();
        assert!(matches!(&faults[..], [(1, Some(fault))] if fault.reason.contains("nobody")));
        assert_eq!(to_json(&rules), stored);
    }
}
