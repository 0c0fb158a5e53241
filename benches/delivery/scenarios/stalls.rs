//! What connections that read nothing do to the memory of the server: under full load, and after
//! it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::time::{sleep, sleep_until, timeout};

use crate::Outcome;
use crate::clients::client::{Client, describe};
use crate::clients::frames::{CLOSE, TEXT, close_code};
use crate::clients::load::Target;
use crate::clients::message::{Content, Messages};
use crate::clients::order::Order;
use crate::clients::wire::Route;
use crate::measure::Bench;
use crate::options::cpus;
use crate::report::figures::{Figure, Sample};
use crate::scenario::StallsOptions;
use crate::servers::Server;
use crate::servers::herald::INSTANCE;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::alone("RSS before, MiB"),
    Figure::alone("peak, MiB"),
    Figure::alone("growth, MiB"),
    Figure::alone("bound, MiB"),
    Figure::alone("growth by bound"),
    Figure::alone("RSS after the rest, MiB"),
    Figure::alone("after by before"),
    Figure::alone("all stalled gone, s"),
    Figure::alone("messages"),
    Figure::alone("told 4420"),
    Figure::alone("cut"),
];

/// `SO_RCVBUF` of those who read nothing: the least that the kernel gives, so that it does not
/// swallow everything for them.
const RECEIVE_BUFFER: u32 = 1;
/// How long after the load the last of them may be there.
const LONGEST_STALL: Duration = Duration::from_secs(60);
/// How long one may take to read what its kernel has.
const LONGEST_READING: Duration = Duration::from_secs(10);
/// What a trace takes at most, of a message to everyone.
const TRACE_BYTES: u64 = 1_024;
const KIB_A_MIB: f64 = 1_024.0;

impl Bench {
    /// Full load for those who read, while the others take nothing; then a rest.
    pub async fn stalls(&self, server: &Server, options: &StallsOptions) -> Outcome<Sample> {
        let Server::Herald(herald) = server else {
            return Err("only Herald bounds what waits".into());
        };
        let stalled = (self.options.connections * options.stalled / 100).max(1);
        let readers = self.options.connections - stalled;
        let load = self.open(server, readers).await?;
        let stalling = self.open_stalling(server, stalled).await?;
        sleep(self.options.idle).await;
        herald.wait_for_connections(INSTANCE, (readers + stalled).into(), Duration::ZERO).await?;
        let (before, peak, start) =
            (server.process().resident()?, server.process().watch_memory(), Instant::now());
        self.flat_out(server, &load, readers as usize..=(readers + stalled) as usize, async {
            Ok(())
        })
        .await?;
        let rested = Instant::now() + Duration::from_secs(options.rest.into());
        herald.wait_for_connections(INSTANCE, readers.into(), LONGEST_STALL).await?;
        let (gone, peak) = (start.elapsed().as_secs_f64(), peak.end()?);
        let told = self.read_at_last(stalling).await?;
        sleep_until(rested.into()).await;
        herald.wait_for_connections(INSTANCE, readers.into(), Duration::ZERO).await?;
        let after = server.process().resident()?;
        load.check()?;
        let [before, peak, after] = [before, peak, after].map(|resident| resident / KIB_A_MIB);
        let bound = self.bound(stalled.into())?;
        Ok(vec![
            before,
            peak,
            peak - before,
            bound,
            (peak - before) / bound,
            after,
            after / before,
            gone,
            load.ledger().messages() as f64,
            told as f64,
            f64::from(stalled) - told as f64,
        ])
    }

    /// What may come to what the idle server holds, in MiB: an outbox for each who takes nothing, a
    /// queue for each worker, the window of the one audience, and a trace for each message that is
    /// traced. A message that stands in several of these is held once, so this is a bound and no
    /// estimate.
    fn bound(&self, stalled: u64) -> Outcome<f64> {
        let workers = match self.options.setting("HERALD_WORKERS", 0)? {
            0 => cpus() as u64,
            workers => workers,
        };
        let outboxes = stalled * self.options.setting("HERALD_OUTBOX_BYTES", 256 << 10)?;
        let queues = workers * self.options.setting("HERALD_SHARD_QUEUE_BYTES", 16 << 20)?;
        let window = self.options.setting("HERALD_HISTORY_BYTES", 1 << 20)?;
        let traces = TRACE_BYTES * self.options.setting("HERALD_TRACED_MESSAGES", 10_000)?;
        Ok((outboxes + queues + window + traces) as f64 / f64::from(1 << 20))
    }

    /// Connections that are `CONNECTED` and then not read. At once, because one that says nothing
    /// is not kept for long.
    async fn open_stalling(&self, server: &Server, stalled: u32) -> Outcome<Vec<Client>> {
        let Target { route, path, tokens, .. } = self.target(server, "stalled", stalled)?;
        let route = Route { receive_buffer: Some(RECEIVE_BUFFER), ..route };
        let opened =
            try_join_all(tokens.iter().map(|token| Client::open(&route, &path, token))).await?;
        Ok(opened.into_iter().map(|(client, _)| client).collect())
    }

    /// Reads what their kernels have, which must be whole and in order as far as it goes. Returns
    /// how many find 4420 at its end.
    async fn read_at_last(&self, stalling: Vec<Client>) -> Outcome<usize> {
        let reading = stalling
            .into_iter()
            .map(|client| timeout(LONGEST_READING, read_all(client, &self.messages)));
        let told = try_join_all(reading).await?.into_iter().collect::<Outcome<Vec<_>>>()?;
        Ok(told.into_iter().filter(|told| *told).count())
    }
}

/// Whether the connection ends with 4420, and not without a word.
async fn read_all(mut client: Client, messages: &Arc<Messages>) -> Outcome<bool> {
    let mut order = Order::default();
    loop {
        while let Some(frame) = client.take()? {
            match frame.opcode {
                CLOSE if close_code(&frame) == Some(4420) => return Ok(true),
                TEXT => {
                    match messages.read(&frame.payload)? {
                        Content::Message(number) => order.take(number)?,
                        _ => return Err(
                            "a connection that read nothing was sent something else than messages"
                                .into(),
                        ),
                    }
                }
                _ => return Err(describe(&frame).into()),
            }
        }
        if client.read().await.is_err() {
            return Ok(false);
        }
    }
}
