//! Everything that speaks SQL: one `impl Store` block and its row types per file.

mod audit;
mod change;
mod channels;
mod error;
mod instances;
mod lease;
mod migrations;
mod pool;
mod quota_requests;
mod revocations;
mod rules;
mod snapshot;
mod suspects;

pub use audit::{AuditEntry, AuditFilter};
pub use change::{CatalogVersion, Committed, MARKS};
pub use channels::KnownCost;
pub use error::{CorruptRow, DecideError, InsertError, StoreError, UpdateError};
pub use lease::{Lease, LeaseLine, LeaseRow, Renewal};
pub use pool::Store;
pub use quota_requests::{MAX_PENDING, QuotaRequest, QuotaStatus, Verdict, Wish};
pub use revocations::RevocationEntry;
pub use snapshot::{Changes, Configured, Stored};
