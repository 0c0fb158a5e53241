//! What connections leave behind that come and go: memory and descriptors of the server.

use std::time::Duration;

use tokio::time::sleep;

use crate::Outcome;
use crate::clients::load::{Load, Target};
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::scenario::ChurnOptions;
use crate::servers::Server;
use crate::servers::herald::{HeraldServer, INSTANCE};

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::alone("RSS at the start, MiB"),
    Figure::alone("after the first time, MiB"),
    Figure::alone("after the last time, MiB"),
    Figure::alone("RSS last by first"),
    Figure::alone("descriptors at the start"),
    Figure::alone("after the first time"),
    Figure::alone("after the last time"),
    Figure::alone("descriptors last by first"),
];

/// How long the server may take to notice that everyone is gone.
const LONGEST_CLOSING: Duration = Duration::from_secs(30);

impl Bench {
    /// Opens all connections and closes them, again and again; nothing is published.
    pub async fn churn(&self, server: &Server, options: &ChurnOptions) -> Outcome<Sample> {
        let Server::Herald(herald) = server else {
            return Err("only Herald counts its connections".into());
        };
        let start = self.left_behind(herald).await?;
        let target = self.target(server, "listeners", self.options.connections)?;
        self.come_and_go(&target, herald).await?;
        let first = self.left_behind(herald).await?;
        for _ in 1..options.times {
            self.come_and_go(&target, herald).await?;
        }
        let last = self.left_behind(herald).await?;
        let figures =
            |which: usize| [start[which], first[which], last[which], last[which] / first[which]];
        Ok([figures(0), figures(1)].concat())
    }

    /// The same clients each time, with the tokens that they had.
    async fn come_and_go(&self, target: &Target, herald: &HeraldServer) -> Outcome<()> {
        let load = Load::open(target.clone()).await?;
        herald
            .wait_for_connections(INSTANCE, self.options.connections.into(), Duration::ZERO)
            .await?;
        load.check()?;
        drop(load);
        herald.wait_for_connections(INSTANCE, 0, LONGEST_CLOSING).await
    }

    /// Memory in MiB, and descriptors, once everything has been idle.
    async fn left_behind(&self, herald: &HeraldServer) -> Outcome<[f64; 2]> {
        sleep(self.options.idle).await;
        Ok([herald.process.resident()? / 1_024.0, herald.process.descriptors()? as f64])
    }
}
