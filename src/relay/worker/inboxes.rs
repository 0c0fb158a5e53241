//! The way of questions to the workers, and of their answers back.

use super::asked::Asked;
use crate::domain::instance::InstanceId;
use crate::relay::survey::{Answer, Query};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long the workers have to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that may wait for one worker before it has taken them.
pub const MAX_ASKED: usize = 64;

/// One inbox a worker; grows while the workers start, then stays.
#[derive(Debug, Default)]
pub(crate) struct Inboxes(ArcSwap<Vec<mpsc::Sender<Asked>>>);

/// Some connections were not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// As many questions wait as may.
    #[error("too many questions about connections wait")]
    TooMany,
    /// A worker has not answered in time.
    #[error("a worker has not answered in time")]
    Late,
}

impl Inboxes {
    /// One more worker's.
    pub fn add(&self, inbox: mpsc::Sender<Asked>) {
        let with =
            |all: &Arc<Vec<_>>| all.iter().cloned().chain([inbox.clone()]).collect::<Vec<_>>();
        self.0.rcu(with);
    }

    /// Asks every worker about an instance's connections: what those that answer in time say, and
    /// whether that is everyone. Errors: `Unanswered::TooMany`.
    pub async fn ask(
        &self,
        instance: &InstanceId,
        query: &Query,
    ) -> Result<(Answer, Result<(), Unanswered>), Unanswered> {
        let deadline = Instant::now() + PATIENCE;
        let inboxes = self.0.load_full();
        let mut answers = Vec::with_capacity(inboxes.len());
        for inbox in &*inboxes {
            let (reply, answer) = oneshot::channel();
            let asked = Asked::new(instance.clone(), query.clone(), reply);
            inbox.try_send(asked).map_err(|_| Unanswered::TooMany)?;
            answers.push(timeout_at(deadline, answer));
        }
        let (mut whole, mut outcome) = (query.nobody(), Ok(()));
        for answer in join_all(answers).await {
            match answer {
                Ok(Ok(Some(part))) => whole = query.fold(whole, part),
                Ok(Ok(None)) => return Err(Unanswered::TooMany),
                Ok(Err(_)) | Err(_) => outcome = Err(Unanswered::Late),
            }
        }
        Ok((whole, outcome))
    }
}
