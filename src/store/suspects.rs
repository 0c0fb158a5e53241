//! Connections that lead where nothing can be changed, or nowhere, as after a failover.

use sqlx::PgConnection;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a connection may take to say that it is alive.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until when connections were opened that are used no more; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects(Arc<Mutex<Option<Instant>>>);

impl Suspects {
    /// Whether a connection of this age leads to a server that takes changes. Where one does not,
    /// none that is as old is asked any more: a dead one says nothing for a second.
    pub async fn clear(&self, connection: &mut PgConnection, age: Duration) -> bool {
        let now = Instant::now();
        if self.include(now, age) {
            return false;
        }
        let asked = timeout(PATIENCE, is_writable(connection)).await;
        let is_good = matches!(asked, Ok(Ok(true)));
        if !is_good {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        is_good
    }

    fn include(&self, now: Instant, age: Duration) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now.checked_sub(age).is_none_or(|opened| opened <= until))
    }
}

/// Whether the session is on a server that takes changes, and not on a copy that follows another.
async fn is_writable(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let asked =
        sqlx::query_scalar!("select current_setting('transaction_read_only') = 'off' as \"yes!\"");
    asked.fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_opened_later_is_not_suspected() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!suspects.include(now, second));
        *suspects.0.lock().unwrap() = Some(now);
        for (later, age, is_suspected) in [(0, 0, true), (1, 2, true), (1, 1, true), (2, 1, false)]
        {
            let (later, age) = (now + second * later, second * age);
            assert_eq!(suspects.include(later, age), is_suspected, "{later:?} {age:?}");
        }
    }
}
