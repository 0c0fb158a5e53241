//! The filters of messages: compiled once, however often a publisher sends them.

use super::error::{Code, Outcome, Problem};
use crate::domain::expression::compiled::Compiled;
use crate::domain::expression::{Expression, Scope};
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;

/// Filters by their instance and text; cheap to clone. One that a message, or a worker, still holds
/// is not read again.
#[derive(Clone)]
pub struct Filters(Compiled);

impl Filters {
    /// Compiled where the rules are.
    pub fn new(compiled: Compiled) -> Self {
        Self(compiled)
    }

    /// The expression of a message's `filter`. Errors: 403 `ROLE_REQUIRED` for whom others' claims
    /// are none of their business, 422 `EXPRESSION_INVALID`.
    pub fn get(
        &self,
        text: &str,
        instance: &InstanceId,
        principal: &Principal,
    ) -> Outcome<Expression> {
        if !principal.may_see_others() {
            return Err(Problem::new(
                Code::RoleRequired,
                "filter needs a component token or REALTIME_ADMIN",
            ));
        }
        let parsed = Expression::parse_in(&self.0.pool(instance), text, Scope::Filter);
        let filter = parsed.map_err(|error| Problem::expression("/filter", error))?;
        // One that could not be kept would be compiled again for every connection.
        let (limit, actual) = (self.0.bounds().instance.bytes, filter.cost().bytes);
        if actual > limit {
            let detail = format!(
                "/filter: compiled it would take {actual} bytes; at most {limit} are allowed"
            );
            let problem = Problem::new(Code::ExpressionInvalid, detail);
            return Err(problem.with_limit(limit as u64, actual as u64));
        }
        Ok(filter)
    }
}
