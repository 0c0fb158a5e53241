//! Trims the audit by age, a slice at a time.

use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// How long after a run the next one begins.
const EVERY: Duration = Duration::from_secs(3_600);
/// The same after a run that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Most entries that one statement deletes.
const SLICE: u32 = 1_000;
/// How long Postgres is left to others between two slices.
const PAUSE: Duration = Duration::from_millis(100);

/// Deletes what is older than `age`, at once and then again and again. Ends never.
pub(super) async fn keep_audit_trimmed(store: Store, age: Duration) {
    keep_trimmed(async |after| store.delete_old_audit(age_ago(age), after, SLICE).await).await;
}

/// Where an entry must lie before to be older than `age`.
fn age_ago(age: Duration) -> DateTime<Utc> {
    Utc::now() - age
}

/// `delete` deletes a slice of what lies behind an id, in the order of ids; it answers which.
async fn keep_trimmed(delete: impl AsyncFn(Uuid) -> Result<Vec<Uuid>, StoreError>) {
    loop {
        let (deleted, outcome) = trim(&delete).await;
        if deleted > 0 {
            tracing::info!(entries = deleted, "the audit forgot its oldest entries");
        }
        let pause = match outcome {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(%error, "the audit cannot be trimmed for now");
                AFTER_FAILURE
            }
        };
        sleep(pause).await;
    }
}

/// One run: how many entries are gone, and whether it came to its end.
async fn trim(
    delete: &impl AsyncFn(Uuid) -> Result<Vec<Uuid>, StoreError>,
) -> (u64, Result<(), StoreError>) {
    let mut deleted = 0;
    // What was passed over stays behind for the next run.
    let mut after = Uuid::nil();
    loop {
        let slice = match delete(after).await {
            Ok(slice) => slice,
            Err(error) => return (deleted, Err(error)),
        };
        deleted += slice.len() as u64;
        match slice.iter().max() {
            Some(last) if slice.len() >= SLICE as usize => after = *last,
            _ => return (deleted, Ok(())),
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::{Instant, timeout};

    /// What was asked for, when, and what is still there.
    struct Table {
        begun: Instant,
        asked: RefCell<Vec<(Duration, Uuid)>>,
        answers: RefCell<Vec<Result<u32, StoreError>>>,
    }

    fn id(number: u32) -> Uuid {
        Uuid::from_u128(u128::from(number))
    }

    impl Table {
        /// Answers in turn with slices of so many entries, then with none.
        fn new(mut answers: Vec<Result<u32, StoreError>>) -> Self {
            answers.reverse();
            let (asked, answers) = (RefCell::default(), RefCell::new(answers));
            Self { begun: Instant::now(), asked, answers }
        }

        fn delete(&self, after: Uuid) -> Result<Vec<Uuid>, StoreError> {
            self.asked.borrow_mut().push((self.begun.elapsed(), after));
            let count = self.answers.borrow_mut().pop().unwrap_or(Ok(0))?;
            // Postgres answers in no order.
            Ok((1..=count).rev().map(id).collect())
        }

        /// What was asked for within so long.
        async fn within(&self, time: Duration) -> Vec<(Duration, Uuid)> {
            let endless = keep_trimmed(async |after| self.delete(after));
            assert!(timeout(time, endless).await.is_err());
            self.asked.take()
        }
    }

    fn unavailable() -> StoreError {
        StoreError::Unavailable(sqlx::Error::PoolTimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn full_slices_follow_each_other_after_a_pause_and_the_next_run_after_an_hour() {
        let table = Table::new(vec![Ok(SLICE), Ok(SLICE), Ok(SLICE - 1), Ok(0)]);
        let asked = table.within(EVERY + 3 * PAUSE).await;
        let runs_end = 2 * PAUSE;
        let last = id(SLICE);
        let expected = [
            (Duration::ZERO, Uuid::nil()),
            (PAUSE, last),
            (runs_end, last),
            (runs_end + EVERY, Uuid::nil()),
        ];
        assert_eq!(asked, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_fails_is_tried_again_after_a_minute_from_the_beginning() {
        let table = Table::new(vec![Ok(SLICE), Err(unavailable()), Err(unavailable()), Ok(1)]);
        let asked = table.within(2 * AFTER_FAILURE + 2 * PAUSE).await;
        let expected = [
            (Duration::ZERO, Uuid::nil()),
            (PAUSE, id(SLICE)),
            (PAUSE + AFTER_FAILURE, Uuid::nil()),
            (PAUSE + 2 * AFTER_FAILURE, Uuid::nil()),
        ];
        assert_eq!(asked, expected);
    }
}
