//! Which channels the bearer of one request may publish to: each channel's `publishRules` are asked
//! once, however many entries of a batch are for it.

use crate::domain::channel::{Channel, ChannelName};
use crate::domain::expression::Facts;
use crate::domain::principal::Principal;
use smallvec::SmallVec;
use std::cell::RefCell;

/// The answers of one request: of one bearer, by one picture of the instance.
#[derive(Clone, Debug, Default)]
pub struct PublishRights {
    /// At most one for each entry of a batch.
    known: RefCell<SmallVec<[(ChannelName, bool); 1]>>,
}

impl PublishRights {
    /// Whether `principal` may publish to a channel. It is the bearer of the request each time.
    pub fn allow(&self, principal: &Principal, channel: &Channel) -> bool {
        let decide = || channel.publish_rules.decide(&Facts::new(principal, None)).allowed;
        self.remember(&channel.name, decide)
    }

    fn remember(&self, name: &ChannelName, decide: impl FnOnce() -> bool) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some((_, allowed)) = known.iter().find(|(known, _)| known == name) {
            return *allowed;
        }
        let allowed = decide();
        known.push((name.clone(), allowed));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_asked_once_and_its_answer_holds_for_the_request() {
        let rights = PublishRights::default();
        let [open, closed] = ["open", "closed"].map(|name| ChannelName::new(name).unwrap());
        let mut asked = Vec::new();
        for round in 0..100 {
            for (name, allowed) in [(&open, true), (&closed, false)] {
                let decide = || {
                    asked.push((round, name.to_string()));
                    allowed
                };
                assert_eq!(rights.remember(name, decide), allowed);
            }
        }
        assert_eq!(asked, [(0, "open".to_owned()), (0, "closed".to_owned())]);
    }
}
