//! Takes the lease, renews it each second, and notices when it is another's.

use super::rules::{Claim, Found, OVER, Sight, Watch, found, sure_until};
use super::standing::{Held, Loss, Standing, Told};
use crate::app::database::STORE_PATIENCE;
use crate::app::error::StartError;
use crate::relay::Moment;
use crate::store::{Lease, LeaseLine, LeaseRow, Renewal, StoreError};
use std::error::Error;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

/// How often it is renewed, and a standby's row with it.
const RENEW: Duration = Duration::from_secs(1);
/// How often another's lease is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a Postgres that does not answer is asked.
const RETRY: Duration = Duration::from_millis(500);

const TAKEN: &str = "another herald holds this database, and messages would be lost between the two: \
    stop it, set HERALD_STANDBY=true to wait for its end, or set DATABASE_URL to another database";

/// The one who keeps it.
pub(super) struct Keeper {
    line: LeaseLine,
    claim: Claim,
    /// Whether this node waits where another holds the lease; and, as a holder, expects others to.
    stands_by: bool,
    /// Names the memory that the last stop kept.
    kept: Option<String>,
    told: Told,
    standing: watch::Sender<Standing>,
    forgotten: mpsc::Receiver<()>,
    /// Its row among those who stand by.
    standby: Uuid,
    /// Under which it holds the lease, or tries to take it.
    holder: Option<Uuid>,
    /// Whether the table is there.
    is_prepared: bool,
}

/// What a try to take it came to.
enum Obtained {
    Taken(Taken),
    Not(Sight),
}

/// What a try to renew it came to.
enum Kept {
    Renewed {
        standby: bool,
    },
    /// The row has changed between two looks.
    Unsure,
    Lost(Loss),
}

/// A lease and what it was taken from.
struct Taken {
    lease: Lease,
    /// The row as it was before.
    replaced: Option<LeaseRow>,
    /// When it was sent that this node holds it.
    sent: Moment,
}

impl Keeper {
    /// One that has done nothing yet. `kept` is given with whom to tell, and where to tell it with
    /// who says that everything is forgotten.
    pub fn new(
        line: LeaseLine,
        claim: Claim,
        stands_by: bool,
        (kept, told): (Option<String>, Told),
        (standing, forgotten): (watch::Sender<Standing>, mpsc::Receiver<()>),
    ) -> Self {
        let (standby, holder, is_prepared) = (Uuid::new_v4(), None, false);
        Self {
            line,
            claim,
            stands_by,
            kept,
            told,
            standing,
            forgotten,
            standby,
            holder,
            is_prepared,
        }
    }

    /// Keeps it until `end` resolves, and gives it back then.
    pub async fn run(mut self, end: oneshot::Receiver<()>) {
        tokio::select! {
            _ = end => {}
            () = self.keep() => {}
        }
        self.leave().await;
    }

    async fn keep(&mut self) {
        loop {
            let taken = match self.obtain().await {
                Ok(taken) => taken,
                Err(error) => {
                    self.standing.send_replace(Standing::Refused(error.to_string()));
                    return std::future::pending().await;
                }
            };
            let loss = self.hold(taken).await;
            self.told.tenure.lose();
            self.told.figures.lose();
            self.holder = None;
            self.standing.send_replace(Standing::Lost(loss));
            if self.forgotten.recv().await.is_none() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until it may be taken, and takes it. Errors: another holds it and this one does not
    /// stand by, or Postgres cannot be used.
    async fn obtain(&mut self) -> Result<Taken, StartError> {
        let (mut watch, until) = (Watch::default(), Instant::now() + STORE_PATIENCE);
        let (mut written, mut fails) = (None, false);
        loop {
            let pause = match self.try_to_obtain(&mut watch, &mut written).await {
                Ok(Obtained::Taken(taken)) => return Ok(taken),
                Ok(Obtained::Not(Sight::Living)) if !self.stands_by => {
                    return Err(StartError(TAKEN.into()));
                }
                Ok(Obtained::Not(_)) => {
                    if std::mem::take(&mut fails) {
                        tracing::info!("the lease is looked at again");
                    }
                    LOOK
                }
                Err(error) if *self.standing.borrow() == Standing::StandsBy => {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the lease cannot be looked at");
                    }
                    RETRY
                }
                Err(error @ StoreError::Unavailable(_)) if Instant::now() < until => {
                    tracing::info!(%error, "waiting for Postgres");
                    RETRY
                }
                Err(error) => return Err(StartError::because("Postgres cannot be used")(error)),
            };
            sleep(pause).await;
        }
    }

    async fn try_to_obtain(
        &mut self,
        watch: &mut Watch,
        written: &mut Option<Instant>,
    ) -> Result<Obtained, StoreError> {
        if !self.is_prepared {
            self.line.prepare().await?;
            self.is_prepared = true;
        }
        if self.stands_by && written.is_none_or(|written| written.elapsed() >= RENEW) {
            self.line.stand_by(self.standby).await?;
            *written = Some(Instant::now());
        }
        let row = self.line.find().await?;
        let sight = watch.look(row.as_ref(), &self.claim, Moment::now());
        if sight == Sight::Free
            && let Some(taken) = self.take(row).await?
        {
            return Ok(Obtained::Taken(taken));
        }
        if self.stands_by {
            self.stand_by();
        }
        Ok(Obtained::Not(sight))
    }

    fn stand_by(&self) {
        let changed = self.standing.send_if_modified(|standing| {
            let before = std::mem::replace(standing, Standing::StandsBy);
            before != Standing::StandsBy
        });
        if changed {
            tracing::info!("standing by: another herald holds the database, or may");
        }
    }

    /// Takes the lease if it still is as it was seen.
    async fn take(&mut self, row: Option<LeaseRow>) -> Result<Option<Taken>, StoreError> {
        let (before, continues) = match &row {
            None => (0, None),
            Some(row) => {
                let name = name(row.term, row.holder);
                (row.term, self.kept.clone().filter(|kept| *kept == name))
            }
        };
        let term = if continues.is_some() { before } else { before + 1 };
        let holder = Uuid::new_v4();
        self.holder = Some(holder);
        let (lease, sent) = (Lease { term, holder, place: self.claim.place() }, Moment::now());
        if !self.line.take(&lease, row.as_ref()).await? {
            self.holder = None;
            return Ok(None);
        }
        self.kept = None;
        self.renewed(&lease, sent, self.stands_by);
        if self.stands_by
            && let Err(error) = self.line.stand_down(self.standby).await
        {
            tracing::debug!(%error, "the row of a standby is left behind");
        }
        tracing::info!(lease.term = term, "this node holds the database");
        let held = Held { name: name(term, holder), term, continues };
        self.standing.send_replace(Standing::Holds(held));
        Ok(Some(Taken { lease, replaced: row, sent }))
    }

    /// Renews it each second until it is lost.
    async fn hold(&mut self, taken: Taken) -> Loss {
        let Taken { lease, replaced, sent } = taken;
        let mut last = sent;
        let mut tick = interval(RENEW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut fails = false;
        loop {
            tick.tick().await;
            let sent = Moment::now();
            let outcome = self.renew(&lease, replaced.as_ref()).await;
            match outcome {
                Ok(Kept::Renewed { standby }) => {
                    self.renewed(&lease, sent, self.stands_by || standby);
                    last = sent;
                    if std::mem::take(&mut fails) {
                        tracing::info!("the lease is renewed again");
                    }
                }
                Ok(Kept::Unsure) => {}
                Ok(Kept::Lost(loss)) => {
                    tracing::warn!("another herald has taken the database");
                    return loss;
                }
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        let cause = error.source().map(ToString::to_string).unwrap_or_default();
                        tracing::warn!(error.cause = cause, "the lease cannot be renewed");
                    }
                    if Moment::now().since(last) >= OVER {
                        self.told.figures.lose();
                    }
                }
            }
        }
    }

    async fn renew(
        &mut self,
        lease: &Lease,
        replaced: Option<&LeaseRow>,
    ) -> Result<Kept, StoreError> {
        if let Renewal::Renewed { standby } = self.line.renew(lease.holder).await? {
            return Ok(Kept::Renewed { standby });
        }
        let row = self.line.find().await?;
        let lost = match found(row.as_ref(), lease.holder, replaced) {
            Found::Another => Loss::ToAnother,
            Found::Ended => Loss::Ended,
            Found::Own | Found::Older => {
                // The next renewal says whether somebody stands by; until then it is supposed.
                let is_taken = self.line.take(lease, row.as_ref()).await?;
                return Ok(if is_taken { Kept::Renewed { standby: true } } else { Kept::Unsure });
            }
        };
        Ok(Kept::Lost(lost))
    }

    /// A renewal that was sent then has come back.
    fn renewed(&self, lease: &Lease, sent: Moment, is_watched: bool) {
        self.told.tenure.hold(sure_until(sent, is_watched));
        self.told.figures.hold(lease.term);
    }

    /// Gives it back, or is no standby any more. Nobody waits for a database that does not answer.
    async fn leave(mut self) {
        self.told.figures.lose();
        if let Some(holder) = self.holder
            && let Err(error) = self.line.give_back(holder).await
        {
            tracing::warn!(%error, "the lease could not be given back; it is over in 5 seconds");
        }
        if *self.standing.borrow() == Standing::StandsBy
            && let Err(error) = self.line.stand_down(self.standby).await
        {
            tracing::debug!(%error, "the row of a standby is left behind");
        }
    }
}

/// Names a memory of messages: the term, and who has it.
fn name(term: i64, holder: Uuid) -> String {
    format!("{term}:{holder}")
}
