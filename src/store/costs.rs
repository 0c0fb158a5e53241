//! What the expressions of an instance cost together, looked at where changes are one after the
//! other.

use super::change::Change;
use super::channels::list_channels;
use super::{Store, StoreError};
use crate::domain::channel::{Channel, ChannelName, cost_of};
use crate::domain::expression::{Cost, Excess};
use crate::domain::instance::InstanceId;

/// What the catalog says of an instance's expressions; it holds for a change that follows on that
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCost {
    /// The catalog's version.
    pub catalog_version: i64,
    /// Of all its channels but the one that is changed.
    pub others: Cost,
}

/// Why a change of a channel is not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CostError {
    /// The instance's expressions would cost too much.
    #[error("the expressions of the instance would cost too much")]
    TooCostly(Excess),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Holds an instance's expressions to their bound, as they are once `channel` is in place of
    /// `before`. What costs no more than before is taken: so an instance that is beyond the bound
    /// finds its way back. Errors: `CostError`.
    pub(super) async fn hold_to_bound(
        &self,
        change: &mut Change,
        instance: &InstanceId,
        (before, channel): (Option<&Channel>, &Channel),
        known: Option<KnownCost>,
    ) -> Result<(), CostError> {
        let cost = channel.cost();
        if cost == Cost::default() {
            return Ok(());
        }
        let follows = |known: &KnownCost| change.follows_on(known.catalog_version);
        let others = match known.filter(follows) {
            Some(known) => known.others,
            None => self.cost_of_others(change, instance, &channel.name).await?,
        };
        match (others + cost).within(self.compiled().bounds().instance) {
            Err(excess) if !before.is_some_and(|before| cost.is_at_most(before.cost())) => {
                Err(CostError::TooCostly(excess))
            }
            _ => Ok(()),
        }
    }

    async fn cost_of_others(
        &self,
        change: &mut Change,
        instance: &InstanceId,
        name: &ChannelName,
    ) -> Result<Cost, StoreError> {
        let pool = self.compiled().pool(instance);
        let all = list_channels(change.connection(), instance, (None, i64::MAX), &pool).await?;
        let others = all.iter().filter(|channel| channel.name != *name);
        Ok(cost_of(others, self.compiled().bounds().instance))
    }
}
