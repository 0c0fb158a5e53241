//! The way of questions to the workers, and of their answers back.

use super::asked::Asked;
use crate::domain::instance::InstanceId;
use crate::relay::survey::{Answer, Query};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long the workers have to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions about its connections that may wait for an instance.
const MAX_WAITING: usize = 16;
/// Questions that may wait for one worker before it has taken them: those of many instances.
pub const MAX_ASKED: usize = 1_024;

/// One inbox a worker; grows while the workers start, then stays.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    workers: ArcSwap<Vec<mpsc::Sender<Asked>>>,
    /// Questions that wait, by instance; one without any is not in the map.
    waiting: Mutex<HashMap<InstanceId, usize>>,
}

/// A question's place among those of its instance; dropping it gives it back.
struct Waiting<'a> {
    inboxes: &'a Inboxes,
    instance: &'a InstanceId,
}

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
        self.workers.rcu(with);
    }

    /// Asks every worker about an instance's connections: what those that answer in time say, and
    /// whether that is everyone. Errors: `Unanswered::TooMany`; then none was asked.
    pub async fn ask(
        &self,
        instance: &InstanceId,
        query: &Query,
    ) -> Result<(Answer, Result<(), Unanswered>), Unanswered> {
        let _waiting = Waiting::take(self, instance).ok_or(Unanswered::TooMany)?;
        let deadline = Instant::now() + PATIENCE;
        let workers = self.workers.load_full();
        // Space with every worker first: a question that closes connections is asked of all or of
        // none.
        let spaces: Result<Vec<_>, _> = workers.iter().map(mpsc::Sender::try_reserve).collect();
        let answers = spaces.map_err(|_| Unanswered::TooMany)?.into_iter().map(|space| {
            let (reply, answer) = oneshot::channel();
            space.send(Asked::new(instance.clone(), query.clone(), reply));
            timeout_at(deadline, answer)
        });
        let answers: Vec<_> = answers.collect();
        let (mut whole, mut outcome) = (query.nobody(), Ok(()));
        for answer in join_all(answers).await {
            match answer {
                Ok(Ok(part)) => whole = query.fold(whole, part),
                Ok(Err(_)) | Err(_) => outcome = Err(Unanswered::Late),
            }
        }
        Ok((whole, outcome))
    }
}

impl<'a> Waiting<'a> {
    /// A place, unless the instance has as many as it may.
    fn take(inboxes: &'a Inboxes, instance: &'a InstanceId) -> Option<Self> {
        let mut waiting = inboxes.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.entry(instance.clone()).or_default();
        if *own >= MAX_WAITING {
            return None;
        }
        *own += 1;
        Some(Self { inboxes, instance })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.inboxes.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = waiting.get_mut(self.instance) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(self.instance);
            }
        }
    }
}
