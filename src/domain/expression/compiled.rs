//! Expressions that were read lately: reading one takes a hundred times as long as evaluating it.

use super::{Expression, ExpressionError, Scope};
use quick_cache::sync::Cache;
use std::sync::Arc;

/// Expressions by text and scope, a bounded number of them; cheap to clone. What does not parse is
/// not kept.
#[derive(Clone)]
pub struct Compiled(Arc<Cache<(Box<str>, Scope), Expression>>);

impl Compiled {
    /// Room for so many; the least used give way.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Cache::new(most)))
    }

    /// The same as [`Expression::parse`].
    pub fn parse(&self, text: &str, scope: Scope) -> Result<Expression, ExpressionError> {
        let key = (text.into(), scope);
        if let Some(known) = self.0.get(&key) {
            return Ok(known);
        }
        let expression = Expression::parse(text, scope)?;
        self.0.insert(key, expression.clone());
        Ok(expression)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_in_the_same_scope_is_read_once() {
        let compiled = Compiled::new(10);
        let first = compiled.parse("user == 'a'", Scope::Hear).unwrap();
        assert!(Arc::ptr_eq(&first.0, &compiled.parse("user == 'a'", Scope::Hear).unwrap().0));
        assert!(!Arc::ptr_eq(&first.0, &compiled.parse("user == 'a'", Scope::Filter).unwrap().0));
        let address = "connection.address == '::1'";
        assert!(
            compiled.parse(address, Scope::Hear).is_ok()
                && compiled.parse(address, Scope::Publish).is_err()
        );
        (0..1_000)
            .for_each(|number| drop(compiled.parse(&format!("user == '{number}'"), Scope::Hear)));
        assert!(compiled.0.len() <= 10);
    }
}
