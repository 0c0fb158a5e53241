//! Work that evaluates rules many times over, as explaining does: off the workers' threads, and a
//! few at a time.

use super::error::{Code, Outcome, Problem};
use crate::domain::instance::InstanceId;
use actix_web::web;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The turns that such work takes; cheap to clone.
#[derive(Clone)]
pub struct ExplainPool(Arc<Turns>);

struct Turns {
    most: usize,
    /// By instance; one without a turn is not in the map.
    taken: Mutex<HashMap<InstanceId, usize>>,
}

/// One turn; dropping it gives it back.
struct Turn {
    turns: Arc<Turns>,
    instance: InstanceId,
}

impl ExplainPool {
    /// At most so many at a time, of all instances.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Turns { most, taken: Mutex::default() }))
    }

    /// Does work for an instance; its turn lasts as long as it does, even if nobody waits for the
    /// outcome any more. Errors: 503 `OVERLOADED` when all turns are taken, or as many by the
    /// instance as it leaves to the others.
    pub async fn run<T: Send + 'static>(
        &self,
        instance: &InstanceId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let Some(turn) = Turn::take(&self.0, instance) else {
            let busy = Problem::new(Code::Overloaded, "too much is being explained at this moment");
            return Err(busy.with_retry_after(Duration::from_secs(1)));
        };
        let done = web::block(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Problem::new(Code::Overloaded, "the server is going away"))
    }
}

impl Turn {
    /// A turn of those that are left. An instance takes no more than it leaves to the others, and
    /// one at least.
    fn take(turns: &Arc<Turns>, instance: &InstanceId) -> Option<Self> {
        let mut taken = turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(instance).copied().unwrap_or(0);
        if all >= turns.most || own > 0 && own + all >= turns.most {
            return None;
        }
        taken.insert(instance.clone(), own + 1);
        Some(Self { turns: turns.clone(), instance: instance.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.instance) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.instance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn id(text: &str) -> InstanceId {
        InstanceId::new(text).unwrap()
    }

    /// Work that goes on until `end` is dropped.
    fn begin(pool: &ExplainPool, instance: &str) -> (mpsc::SyncSender<()>, Running) {
        let (end, ended) = mpsc::sync_channel::<()>(1);
        let (pool, instance) = (pool.clone(), id(instance));
        let work = async move { pool.run(&instance, move || ended.recv().is_err()).await };
        (end, actix_web::rt::spawn(work))
    }

    type Running = actix_web::rt::task::JoinHandle<Outcome<bool>>;

    async fn taken(pool: &ExplainPool, turns: usize) {
        while pool.0.taken.lock().unwrap().values().sum::<usize>() < turns {
            tokio::task::yield_now().await;
        }
    }

    #[actix_web::test]
    async fn an_instance_takes_no_more_turns_than_it_leaves_and_a_neighbour_finds_one() {
        let pool = ExplainPool::new(4);
        let mut running = vec![begin(&pool, "storm"), begin(&pool, "storm")];
        taken(&pool, 2).await;
        let refused = pool.run(&id("storm"), || ()).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds), (Code::Overloaded, Some(1)));
        running.push(begin(&pool, "quiet"));
        taken(&pool, 3).await;
        assert!(pool.run(&id("quiet"), || ()).await.is_err(), "with its own, that were too many");
        assert_eq!(pool.run(&id("new"), || 7).await, Ok(7));
        running.push(begin(&pool, "new"));
        taken(&pool, 4).await;
        assert!(pool.run(&id("late"), || ()).await.is_err(), "all are taken");
        for (end, running) in running {
            drop(end);
            assert_eq!(running.await.unwrap(), Ok(true));
        }
        assert_eq!(pool.run(&id("storm"), || 7).await, Ok(7));
        assert!(pool.0.taken.lock().unwrap().is_empty());
    }

    #[actix_web::test]
    async fn of_a_single_turn_whoever_comes_first_has_it() {
        let pool = ExplainPool::new(1);
        let (end, running) = begin(&pool, "storm");
        taken(&pool, 1).await;
        assert!(pool.run(&id("quiet"), || ()).await.is_err());
        drop(end);
        assert_eq!((running.await.unwrap(), pool.run(&id("quiet"), || 1).await), (Ok(true), Ok(1)));
    }
}
