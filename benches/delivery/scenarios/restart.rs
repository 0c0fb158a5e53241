//! What a restart costs those who are connected: how long until everyone is back, and that nobody
//! misses a message.

use std::time::{Duration, Instant};

use futures_util::future::try_join;
use tokio::time::sleep;

use crate::Outcome;
use crate::clients::listener::Ending;
use crate::clients::load::{Load, Target};
use crate::clients::persistent::Persistent;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::scenarios::delivery::AFTERMATH;
use crate::servers::Server;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::alone("SIGTERM to its end, s"),
    Figure::alone("SIGTERM to ready again, s"),
    Figure::alone("ready to all back, s"),
    Figure::alone("SIGTERM to all back, s"),
    Figure::alone("messages meanwhile"),
    Figure::alone("recovered"),
    Figure::alone("tries a client"),
];

/// How long after the end of the process a client may still have to read that it was closed.
const LONGEST_GOODBYE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

impl Bench {
    /// One restart, with everyone coming back at the same moment, and with a publisher that goes
    /// on.
    pub async fn restart(&self, server: &mut Server) -> Outcome<Sample> {
        let target = Target {
            ending: Ending::Restart,
            ..self.target(server, "listeners", self.options.connections)?
        };
        let inlet = server.inlet(&self.certificate)?;
        let load = Load::open(target).await?;
        let publishing = Persistent::begin(&load, inlet, self.messages.clone(), self.options.rate);
        sleep(self.options.warm_up).await;
        let Server::Herald(herald) = server else {
            return Err("only Herald says that it restarts".into());
        };
        let (signal, before) = (Instant::now(), load.ledger().messages());
        herald.process.end().await?;
        let end = signal.elapsed();
        all_gone(&load).await?;
        let returning = async {
            let resumed = load.resume().await?;
            Ok((resumed, Instant::now(), load.ledger().messages() - before))
        };
        let (ready, (resumed, back, meanwhile)) = try_join(herald.start_again(), returning).await?;
        sleep(self.options.warm_up).await;
        publishing.end().await?;
        load.delivered(load.ledger().messages()).await?;
        sleep(AFTERMATH).await;
        load.check()?;
        let ready = ready.into_std();
        Ok(vec![
            end.as_secs_f64(),
            (ready - signal).as_secs_f64(),
            back.saturating_duration_since(ready).as_secs_f64(),
            (back - signal).as_secs_f64(),
            meanwhile as f64,
            resumed.recovered as f64,
            resumed.tries as f64 / f64::from(self.options.connections),
        ])
    }
}

/// Waits until everyone has been told `RECONNECT` and closed with 1012; anything else is a failure
/// of the load.
async fn all_gone(load: &Load) -> Outcome<()> {
    let deadline = Instant::now() + LONGEST_GOODBYE;
    while load.progress().open() > 0 {
        load.progress().failure()?;
        if Instant::now() > deadline {
            return Err(format!("{} connections were not closed", load.progress().open()).into());
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
