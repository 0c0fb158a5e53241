//! What a connection hears: what is its own, and a set that all share who hear the same besides.

use crate::domain::audience::Audience;
use smallvec::SmallVec;
use std::cell::OnceCell;
use std::rc::Rc;

/// What an audience of a set is counted with beyond its name: its places in the set and in the
/// index. Generous, so that the bound holds for short names too.
const AUDIENCE_BYTES: usize = 128;
/// What a set is counted with beyond its audiences.
const SET_BYTES: usize = 512;

/// What one connection hears.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Everyone, the user, or both.
    own: SmallVec<[Audience; 2]>,
    /// Groups and channels.
    set: Rc<HeardSet>,
}

/// The groups and channels that some connections of a room hear.
#[derive(Debug)]
pub(crate) struct HeardSet {
    /// Its place among the room's.
    pub id: usize,
    /// In their order, without doubles.
    audiences: Rc<[Audience]>,
    /// Their names as parts of a JSON array, from when a client was first told of them.
    names: OnceCell<Box<str>>,
}

impl HeardSet {
    /// A set of `audiences`, which stand in their order.
    pub fn new(id: usize, audiences: Rc<[Audience]>) -> Self {
        Self { id, audiences, names: OnceCell::new() }
    }

    /// In their order.
    pub fn audiences(&self) -> &Rc<[Audience]> {
        &self.audiences
    }

    /// What a set of `audiences` is counted with.
    pub fn bytes_of(audiences: &[Audience]) -> usize {
        let names = audiences.iter().map(|it| AUDIENCE_BYTES + it.name_bytes() * 2);
        SET_BYTES + names.sum::<usize>()
    }

    fn names(&self) -> &str {
        self.names.get_or_init(|| list(&self.audiences).into())
    }
}

impl Heard {
    /// What is its own, and the set of all else.
    pub fn new(own: SmallVec<[Audience; 2]>, set: Rc<HeardSet>) -> Self {
        Self { own, set }
    }

    /// Everyone, the user, or both.
    pub fn own(&self) -> &[Audience] {
        &self.own
    }

    /// Groups and channels.
    pub fn set(&self) -> &Rc<HeardSet> {
        &self.set
    }

    /// Everything in its order: everyone, the user, groups, channels.
    pub fn iter(&self) -> impl Iterator<Item = &Audience> {
        self.own.iter().chain(self.set.audiences.iter())
    }

    /// Whether it hears one of these.
    pub fn hears_any(&self, audiences: &[Audience]) -> bool {
        audiences.iter().any(|audience| match audience {
            Audience::All | Audience::User(_) => self.own.contains(audience),
            _ => self.set.audiences.binary_search(audience).is_ok(),
        })
    }

    /// The canonical names as a JSON array.
    pub fn names(&self) -> String {
        let (own, shared) = (list(&self.own), self.set.names());
        let between = if own.is_empty() || shared.is_empty() { "" } else { "," };
        format!("[{own}{between}{shared}]")
    }
}

/// What is one's own of what is heard, in its order, and the rest.
pub(crate) fn split(mut heard: Vec<Audience>) -> (SmallVec<[Audience; 2]>, Vec<Audience>) {
    let is_own = |audience: &Audience| matches!(audience, Audience::All | Audience::User(_));
    let shared = heard.split_off(heard.partition_point(is_own));
    // Not the memory that all of it took.
    (heard.into_iter().collect(), shared)
}

/// Their names as parts of a JSON array.
fn list(audiences: &[Audience]) -> String {
    let mut names = String::new();
    for audience in audiences {
        if !names.is_empty() {
            names.push(',');
        }
        names.push_str(&serde_json::Value::String(audience.name()).to_string());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::channel::ChannelName;
    use crate::domain::principal::{GroupId, UserId};

    #[test]
    fn names_are_a_json_array_whatever_is_in_them() {
        let user = Audience::User(UserId::new("a\"\\b").unwrap());
        let group = Audience::Group(GroupId::new("é\u{2028}").unwrap());
        let channel = Audience::Channel(ChannelName::new("news").unwrap());
        for own in [vec![], vec![Audience::All], vec![Audience::All, user.clone()], vec![user]] {
            for shared in [vec![], vec![group.clone()], vec![group.clone(), channel.clone()]] {
                let all: Vec<Audience> = own.iter().chain(&shared).cloned().collect();
                let (own, shared) = split(all.clone());
                assert!(!own.spilled(), "{own:?}");
                let heard = Heard::new(own, Rc::new(HeardSet::new(0, shared.into())));
                let names: Vec<String> = serde_json::from_str(&heard.names()).unwrap();
                assert_eq!(names, all.iter().map(Audience::name).collect::<Vec<_>>());
                assert_eq!(heard.iter().cloned().collect::<Vec<_>>(), all);
                assert!(all.iter().all(|one| heard.hears_any(std::slice::from_ref(one))));
            }
        }
    }
}
