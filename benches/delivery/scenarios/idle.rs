//! What an idle connection holds: of the server's memory, and of the kernel's.

use tokio::time::sleep;

use crate::Outcome;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::{Memory, kernel_memory};

/// What is measured.
pub const FIGURES: &[Figure] =
    &[Figure::compared("RSS KiB"), Figure::alone("PSS KiB"), Figure::alone("kernel KiB")];

/// What there was before anyone was connected.
pub struct Empty {
    server: Memory,
    kernel: f64,
}

impl Bench {
    /// Reads what there is without connections, after one has come and gone: code that is touched
    /// once is not counted.
    pub async fn empty(&self, server: &Server) -> Outcome<Empty> {
        drop(self.open(server, 1).await?);
        Ok(Empty { server: server.process().memory()?, kernel: kernel_memory()? })
    }

    /// What each connection has added, with all of them open and idle.
    pub async fn idle(&self, server: &Server, empty: &Empty) -> Outcome<Sample> {
        sleep(self.options.idle).await;
        let (idle, kernel) = (server.process().memory()?, kernel_memory()?);
        let connections = f64::from(self.options.connections);
        Ok(vec![
            (idle.resident - empty.server.resident) / connections,
            (idle.proportional - empty.server.proportional) / connections,
            (kernel - empty.kernel) / connections,
        ])
    }
}
