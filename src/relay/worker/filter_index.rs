//! Who of a room passes a message's filter: each connection is asked once, and the answer kept as
//! long as it holds.

use crate::domain::expression::Expression;
use crate::relay::member::Key;
use indexmap::{IndexMap, IndexSet};

/// The filters that an instance's publishers used lately; each holds at most a key for every
/// connection.
#[derive(Debug, Default)]
pub(crate) struct FilterIndex(IndexMap<Expression, FilterAnswers>);

/// One filter's answers; a connection in neither set does not pass.
#[derive(Debug, Default)]
pub(crate) struct FilterAnswers {
    /// Who passes.
    pub passing: IndexSet<Key>,
    /// Who was not asked yet.
    pub unknown: IndexSet<Key>,
}

impl FilterIndex {
    /// A connection came, or its token changed: it is asked when a filter is used next.
    pub fn forget(&mut self, key: Key) {
        for answers in self.0.values_mut() {
            answers.passing.swap_remove(&key);
            answers.unknown.insert(key);
        }
    }

    /// A connection went.
    pub fn remove(&mut self, key: Key) {
        for answers in self.0.values_mut() {
            answers.passing.swap_remove(&key);
            answers.unknown.swap_remove(&key);
        }
    }

    /// The answers to `filter`, which becomes the one most recently used. If it is new, `everyone`
    /// is still to be asked, and of more than `most` the one least recently used gives way.
    pub fn answers(
        &mut self,
        filter: &Expression,
        everyone: &IndexSet<Key>,
        most: usize,
    ) -> &mut FilterAnswers {
        let known = self.0.shift_remove(filter);
        if known.is_none() && self.0.len() >= most {
            self.0.shift_remove_index(0);
        }
        let fresh = || FilterAnswers { passing: IndexSet::new(), unknown: everyone.clone() };
        self.0.entry(filter.clone()).or_insert_with(|| known.unwrap_or_else(fresh))
    }
}

impl FilterAnswers {
    /// Asks those of `keys` who were not asked yet, as long as there is time, and one at least.
    /// True when nobody of them is left.
    pub fn ask(
        &mut self,
        keys: impl Iterator<Item = Key>,
        mut passes: impl FnMut(Key) -> bool,
        mut has_time: impl FnMut() -> bool,
    ) -> bool {
        if self.unknown.is_empty() {
            return true;
        }
        for key in keys {
            if !self.unknown.swap_remove(&key) {
                continue;
            }
            if passes(key) {
                self.passing.insert(key);
            }
            if !has_time() {
                return false;
            }
        }
        if self.unknown.is_empty() {
            self.unknown = IndexSet::new();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::Scope;

    fn filter(text: &str) -> Expression {
        Expression::parse(text, Scope::Filter).unwrap()
    }

    #[test]
    fn each_is_asked_once_and_again_when_it_is_forgotten() {
        let (mut filters, everyone) = (FilterIndex::default(), IndexSet::from([1, 2, 3]));
        let mut asked = Vec::new();
        let mut ask = |filters: &mut FilterIndex, keys: &[Key]| {
            let answers = filters.answers(&filter("user == 'a'"), &everyone, 1);
            answers.ask(
                keys.iter().copied(),
                |key| {
                    asked.push(key);
                    key != 2
                },
                || true,
            );
            answers.passing.clone()
        };
        assert_eq!(ask(&mut filters, &[1, 2]), IndexSet::from([1]));
        assert_eq!(ask(&mut filters, &[1, 2, 3]), IndexSet::from([1, 3]));
        filters.forget(1);
        assert_eq!(ask(&mut filters, &[1, 2, 3]), IndexSet::from([3, 1]));
        filters.remove(3);
        assert_eq!(ask(&mut filters, &[1, 2]), IndexSet::from([1]));
        assert_eq!(asked, [1, 2, 3, 1]);
    }

    #[test]
    fn who_is_left_when_the_time_is_over_is_asked_the_next_time() {
        let (mut filters, everyone) = (FilterIndex::default(), IndexSet::from([1, 2, 3]));
        let mut asked = Vec::new();
        let mut whole = Vec::new();
        for _ in 0..4 {
            let answers = filters.answers(&filter("user == 'a'"), &everyone, 1);
            let passes = |key| {
                asked.push(key);
                true
            };
            whole.push(answers.ask(everyone.iter().copied(), passes, || false));
        }
        // The last one's time is over too before it is known that nobody follows.
        assert_eq!((asked, whole), (vec![1, 2, 3], vec![false, false, false, true]));
    }

    #[test]
    fn so_many_are_kept_and_the_least_recently_used_gives_way() {
        let (mut filters, everyone) = (FilterIndex::default(), IndexSet::from([1]));
        let text = |number: usize| filter(&format!("user == '{number}'"));
        for number in 0..3 {
            filters.answers(&text(number), &everyone, 3).ask([1].into_iter(), |_| true, || true);
        }
        for number in [1, 2, 0] {
            assert!(
                filters.answers(&text(number), &everyone, 3).unknown.is_empty(),
                "there is room for all"
            );
        }
        filters.answers(&text(3), &everyone, 3);
        assert_eq!(filters.0.len(), 3);
        assert!(filters.answers(&text(0), &everyone, 3).unknown.is_empty(), "it was used lately");
        assert!(!filters.answers(&text(1), &everyone, 3).unknown.is_empty(), "it had to give way");
    }
}
