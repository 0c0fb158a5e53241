//! What a delivery would do, without doing it.

use super::room::Asking;
use super::{Delivery, Key, Shard};
use crate::relay::outbox::Pushed;
use indexmap::IndexMap;
use std::time::Instant;

impl Shard {
    /// Whom `deliver` would choose now, and what the outbox of each would say to a frame of so many
    /// bytes. Queues nothing and stamps no connection.
    pub fn rehearse(
        &mut self,
        delivery: &Delivery,
        bytes: usize,
        now: Instant,
    ) -> IndexMap<Key, Pushed> {
        let Some(room) = self.rooms.get_mut(&delivery.instance) else { return IndexMap::new() };
        let (members, bounds) = (&self.members, self.bounds.outbox);
        let asking =
            Asking { members, evaluations: &self.evaluations, most_filters: self.bounds.filters };
        let chosen = room.receivers(delivery, asking).filter_map(|key| {
            let member = members.get(key).filter(|member| member.wants(delivery))?;
            Some((key, member.link.outbox.rehearse(bytes, delivery.lane.as_ref(), bounds, now)))
        });
        chosen.collect()
    }
}
