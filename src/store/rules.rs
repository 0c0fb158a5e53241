//! How rule lists are stored, and shown in audit entries.

use super::CorruptRow;
use crate::domain::expression::Scope;
use crate::domain::expression::compiled::Compiled;
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
/// rule would let in.
pub(super) fn from_json(
    rules: Value,
    scope: Scope,
    compiled: &Compiled,
) -> Result<Rules, CorruptRow> {
    let column = if scope == Scope::Publish { "publish_rules" } else { "rules" };
    let corrupt = CorruptRow { table: "channels", column };
    let rows: Vec<RuleRow> = serde_json::from_value(rules).map_err(|_| corrupt)?;
    let rules = rows
        .into_iter()
        .map(|row| row.into_rule(scope, compiled).ok_or(corrupt))
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
    fn into_rule(self, scope: Scope, compiled: &Compiled) -> Option<Rule> {
        let effect = match self.effect {
            EffectRow::Allow => Effect::Allow,
            EffectRow::Deny => Effect::Deny,
        };
        let subject = match (self.user, self.group, self.when, self.everyone) {
            (Some(user), None, None, None) => Subject::User(UserId::new(user).ok()?),
            (None, Some(group), None, None) => Subject::Group(GroupId::new(group).ok()?),
            (None, None, Some(when), None) => Subject::When(compiled.parse(&when, scope).ok()?),
            (None, None, None, Some(true)) => Subject::Everyone,
            _ => return None,
        };
        Some(Rule { effect, subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::Expression;

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
        assert_eq!(from_json(stored, Scope::Hear, &Compiled::new(1)), Ok(rules));
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
            json!([{"effect": "deny", "when": "nobody"}]),
            json!(vec![json!({"effect": "allow", "everyone": true}); 101]),
        ] {
            let corrupt = CorruptRow { table: "channels", column: "rules" };
            assert_eq!(
                from_json(bad.clone(), Scope::Hear, &Compiled::new(1)),
                Err(corrupt),
                "{bad}"
            );
        }
    }
}
