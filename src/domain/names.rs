//! A token's lists of groups, roles and instances, each in one text.

use std::marker::PhantomData;
use std::str::FromStr;

/// Most bytes of all names of a list together.
pub const MAX_NAMES_BYTES: usize = u16::MAX as usize;

/// Valid names in order, without doubles if they came without. Each takes its text and two bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Names<T> {
    text: Box<str>,
    /// Where each ends.
    ends: Box<[u16]>,
    of: PhantomData<fn() -> T>,
}

/// A list of names is longer than any token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all names of a list together have at most {MAX_NAMES_BYTES} bytes")]
pub struct NamesTooLong;

impl<T: AsRef<str>> Names<T> {
    /// A list of one.
    pub fn of(name: &T) -> Self {
        Self::new(std::slice::from_ref(name)).unwrap_or_default()
    }

    /// A list of these. Errors: `NamesTooLong`.
    pub fn new(names: &[T]) -> Result<Self, NamesTooLong> {
        let bytes = names.iter().map(|name| name.as_ref().len()).sum();
        let mut text = String::with_capacity(bytes);
        let mut ends = Vec::with_capacity(names.len());
        for name in names {
            text.push_str(name.as_ref());
            ends.push(u16::try_from(text.len()).map_err(|_| NamesTooLong)?);
        }
        Ok(Self { text: text.into(), ends: ends.into(), of: PhantomData })
    }
}

impl<T> Names<T> {
    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name at a position.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(usize::from(begin)..usize::from(end))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Whether one of them is this.
    pub fn contains(&self, name: impl AsRef<str>) -> bool {
        self.iter().any(|known| known == name.as_ref())
    }

    /// What they take, in bytes, beside this struct itself.
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

impl<T: FromStr> Names<T> {
    /// All as values of their own, in order.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.iter().filter_map(|name| name.parse().ok())
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { text: Box::default(), ends: Box::default(), of: PhantomData }
    }
}

impl<T> std::fmt::Debug for Names<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::GroupId;

    fn groups(names: &[&str]) -> Names<GroupId> {
        let groups: Vec<GroupId> = names.iter().map(|name| GroupId::new(name).unwrap()).collect();
        Names::new(&groups).unwrap()
    }

    #[test]
    fn names_come_out_as_they_went_in() {
        let names = groups(&["eng", "é", "eu-west"]);
        assert_eq!(names.iter().collect::<Vec<_>>(), ["eng", "é", "eu-west"]);
        assert_eq!(
            names.values().map(|it| it.to_string()).collect::<Vec<_>>().join(" "),
            "eng é eu-west"
        );
        assert_eq!((names.len(), names.get(1), names.get(3)), (3, Some("é"), None));
        assert!(names.contains("eng") && !names.contains("en") && !names.contains("engé"));
        assert_eq!(names.bytes(), 12 + 6);
        assert!(groups(&[]).is_empty() && groups(&[]).bytes() == 0);
    }

    #[test]
    fn a_list_has_at_most_65535_bytes() {
        let of = |bytes: usize| {
            let long = (0..bytes / 128).map(|_| "x".repeat(128));
            let rest = Some("x".repeat(bytes % 128)).filter(|rest| !rest.is_empty());
            let names: Vec<GroupId> =
                long.chain(rest).map(|name| GroupId::new(name).unwrap()).collect();
            Names::new(&names).map(|names| names.iter().map(str::len).sum::<usize>())
        };
        assert_eq!(of(MAX_NAMES_BYTES - 1), Ok(MAX_NAMES_BYTES - 1));
        assert_eq!(of(MAX_NAMES_BYTES), Ok(MAX_NAMES_BYTES));
        assert_eq!(of(MAX_NAMES_BYTES + 1), Err(NamesTooLong));
    }
}
