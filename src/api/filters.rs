//! The filters of messages: compiled once, however often a publisher sends them.

use super::error::{Code, Outcome, Problem};
use crate::domain::expression::compiled::Compiled;
use crate::domain::expression::{Expression, Scope};
use crate::domain::principal::Principal;

/// Compiled filters that are kept, of all instances: an expression says the same everywhere.
const MAX_COMPILED: usize = 1_000;

/// Compiled filters by their text; cheap to clone.
#[derive(Clone)]
pub struct Filters(Compiled);

impl Default for Filters {
    fn default() -> Self {
        Self(Compiled::new(MAX_COMPILED))
    }
}

impl Filters {
    /// The expression of a message's `filter`. Errors: 403 `ROLE_REQUIRED` for whom others' claims
    /// are none of their business, 422 `EXPRESSION_INVALID`.
    pub fn get(&self, text: &str, principal: &Principal) -> Outcome<Expression> {
        if !principal.may_see_others() {
            return Err(Problem::new(
                Code::RoleRequired,
                "filter needs a component token or REALTIME_ADMIN",
            ));
        }
        self.0.parse(text, Scope::Filter).map_err(|error| Problem::expression("/filter", error))
    }
}
