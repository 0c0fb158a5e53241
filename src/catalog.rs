//! The in-memory picture of instances, channels and revocations that the hot path reads, and the
//! task that keeps it fresh.

mod authorizing;
mod follow;
mod snapshot;
mod tenant;

pub use authorizing::{Authorizing, Changes};
pub use follow::{follow, load};
pub use snapshot::{Catalog, Snapshot};
pub use tenant::{Known, ResolveError, Tenant};
