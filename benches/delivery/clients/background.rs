//! A thread for clients whose own work must not be counted as the server's: it takes only what
//! nobody else needs.

use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::Outcome;

/// The lowest priority there is (setpriority(2)).
const LOWEST_PRIORITY: i32 = 19;

/// One thread of the lowest priority, with a runtime. Dropping it ends everything that runs there.
pub struct Background(Option<Runtime>, Handle);

impl Background {
    /// Starts the thread.
    pub fn start() -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| {
                if let Err(error) = setpriority_process(None, LOWEST_PRIORITY) {
                    eprintln!("a thread in the background keeps its priority: {error}");
                }
            })
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    /// Where to spawn what is to run there.
    pub fn handle(&self) -> &Handle {
        &self.1
    }

    /// Runs `work` there; sockets that it opens stay there.
    pub async fn run<T, F>(&self, work: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.1.spawn(work).await?
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
