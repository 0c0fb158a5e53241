//! The rules of channels as they are written and read.

use super::error::{Outcome, Problem};
use crate::domain::expression::compiled::{Compiled, Pool};
use crate::domain::expression::{Cost, Expression, Scope};
use crate::domain::instance::InstanceId;
use crate::domain::principal::{GroupId, UserId};
use crate::domain::rule::{Effect, MAX_RULES, Rule, Rules, Subject};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use utoipa::ToSchema;

/// One rule: an effect, and exactly one of `user`, `group`, `when` and `everyone`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"effect": "allow", "group": "eng"}))]
pub struct RuleBody {
    /// What the rule does where it applies.
    effect: EffectBody,
    /// Applies to the user of this id, 1 to 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user: Option<String>,
    /// Applies to the members of this group, 1 to 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    group: Option<String>,
    /// Applies to whoever this expression (CEL, at most 512 bytes) is true of; see
    /// `docs/expressions.md`. Where it has no answer, an allow rule does not apply and a deny rule
    /// does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512, example = "claims.plan == 'pro'")]
    when: Option<String>,
    /// `true`: applies to everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    everyone: Option<bool>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EffectBody {
    /// Lets in, unless a deny rule applies too.
    Allow,
    /// Keeps out, whatever else applies.
    Deny,
}

/// What stands where a list was left out.
pub fn everyone() -> Vec<RuleBody> {
    show(&Rules::everyone())
}

/// Reads the lists of one channel, and no further than what an instance's expressions may cost.
pub struct RuleReader {
    pool: Pool,
    bound: Cost,
    /// Of what was read so far.
    cost: Cost,
}

impl RuleReader {
    /// For a channel of this instance.
    pub fn new(compiled: &Compiled, instance: &InstanceId) -> Self {
        let bound = compiled.bounds().instance;
        Self { pool: compiled.pool(instance), bound, cost: Cost::default() }
    }

    /// A list of rules. Lets others go on between two expressions, since regular expressions take
    /// long to compile. Errors: 422 at the rule that is none, or at `pointer` for more than 100, or
    /// for what costs more than all of the instance may.
    pub async fn read(
        &mut self,
        pointer: &str,
        bodies: Vec<RuleBody>,
        scope: Scope,
    ) -> Outcome<Rules> {
        let mut rules = Vec::new();
        for (index, body) in bodies.into_iter().take(MAX_RULES + 1).enumerate() {
            let rule = body.into_rule(&format!("{pointer}/{index}"), scope, &self.pool)?;
            if let Subject::When(expression) = &rule.subject {
                self.cost = self.cost + expression.cost();
                self.cost.within(self.bound).map_err(Problem::too_costly)?;
                yield_now().await;
            }
            rules.push(rule);
        }
        Rules::new(rules).map_err(|error| {
            Problem::invalid(pointer, error.to_string())
                .with_limit(MAX_RULES as u64, error.actual as u64)
        })
    }
}

/// The rules as they are shown.
pub fn show(rules: &Rules) -> Vec<RuleBody> {
    rules.as_slice().iter().map(RuleBody::from).collect()
}

impl RuleBody {
    fn into_rule(self, pointer: &str, scope: Scope, pool: &Pool) -> Outcome<Rule> {
        let at =
            |field: &str, detail: String| Problem::invalid(format!("{pointer}/{field}"), detail);
        let subject = match (self.user, self.group, self.when, self.everyone) {
            (Some(user), None, None, None) => {
                Subject::User(UserId::new(user).map_err(|error| at("user", error.to_string()))?)
            }
            (None, Some(group), None, None) => {
                Subject::Group(GroupId::new(group).map_err(|error| at("group", error.to_string()))?)
            }
            (None, None, Some(when), None) => {
                let expression = Expression::parse_in(pool, &when, scope);
                Subject::When(
                    expression
                        .map_err(|error| Problem::expression(format!("{pointer}/when"), error))?,
                )
            }
            (None, None, None, Some(true)) => Subject::Everyone,
            (None, None, None, Some(false)) => {
                return Err(at("everyone", "it is true or left out".into()));
            }
            _ => {
                return Err(Problem::invalid(
                    pointer,
                    "a rule has exactly one of user, group, when and everyone",
                ));
            }
        };
        let effect = match self.effect {
            EffectBody::Allow => Effect::Allow,
            EffectBody::Deny => Effect::Deny,
        };
        Ok(Rule { effect, subject })
    }
}

impl From<&Rule> for RuleBody {
    fn from(rule: &Rule) -> Self {
        let body = Self {
            effect: rule.effect.into(),
            user: None,
            group: None,
            when: None,
            everyone: None,
        };
        match &rule.subject {
            Subject::User(user) => Self { user: Some(user.to_string()), ..body },
            Subject::Group(group) => Self { group: Some(group.to_string()), ..body },
            Subject::When(expression) => Self { when: Some(expression.to_string()), ..body },
            Subject::Everyone => Self { everyone: Some(true), ..body },
        }
    }
}

impl From<Effect> for EffectBody {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Deny => Self::Deny,
        }
    }
}
