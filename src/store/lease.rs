//! The lease: the row of whoever holds the database, on a connection that nothing else uses.

use super::migrations::apply_lease;
use super::{Store, StoreError};
use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// How long a try may take, with opening the connection.
const TRY: Duration = Duration::from_secs(1);

/// How long making the table may take.
const PREPARING: Duration = Duration::from_secs(10);

/// The row as one look found it.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRow {
    /// Which memory of messages its holder has.
    pub term: i64,
    /// The process that took it last.
    pub holder: Uuid,
    /// Where that process runs; see [`Lease::place`].
    pub place: Option<String>,
    /// When it was taken or renewed last, by the database's clock.
    pub renewed_at: DateTime<Utc>,
    /// How long ago that was, by the same clock; nothing if it lies ahead.
    pub age: Duration,
    /// Whether its holder has given it back.
    pub given_back: bool,
}

/// What a process writes into the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which memory of messages it has.
    pub term: i64,
    /// The process.
    pub holder: Uuid,
    /// The boot of its host and a file there of which it holds the lock; none where the system does
    /// not tell.
    pub place: Option<String>,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It holds on.
    Renewed {
        /// Whether someone stands by.
        standby: bool,
    },
    /// The row is another's, or there is none.
    NotMine,
}

/// The way to the row: a connection of its own, opened again after every failure. A try takes a
/// second at most. Errors of every call: `StoreError`.
pub struct LeaseLine {
    /// Knows how to connect; nothing of it is used otherwise.
    pool: PgPool,
    /// With what it was made by: other options make another one.
    open: Option<(PgConnection, Arc<PgConnectOptions>)>,
}

impl Store {
    /// A way to the lease, not open yet.
    pub fn lease_line(&self) -> LeaseLine {
        LeaseLine { pool: self.pool.clone(), open: None }
    }
}

impl LeaseLine {
    /// Makes the table where it is missing. May wait for another process that does; takes ten
    /// seconds at most.
    pub async fn prepare(&mut self) -> Result<(), StoreError> {
        let (mut connection, options) = self.connect().await?;
        let prepared = timeout(PREPARING, apply_lease(&mut connection)).await;
        prepared.unwrap_or_else(|_| Err(too_late().into()))?;
        self.open = Some((connection, options));
        Ok(())
    }

    /// The row; none before the first holder.
    pub async fn find(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        let row = self.ask(async |connection| {
            sqlx::query!(
                "select term, holder, place, renewed_at, given_back, \
                 extract(epoch from clock_timestamp() - renewed_at)::float8 as \"age!\" from lease"
            )
            .fetch_optional(connection)
            .await
        });
        let row = row.await?.map(|row| LeaseRow {
            term: row.term,
            holder: row.holder,
            place: row.place,
            renewed_at: row.renewed_at,
            age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            given_back: row.given_back,
        });
        Ok(row)
    }

    /// Takes the lease, unless the row is no longer as it was seen. Whether it was taken.
    pub async fn take(
        &mut self,
        lease: &Lease,
        seen: Option<&LeaseRow>,
    ) -> Result<bool, StoreError> {
        let (holder, renewed_at) = (seen.map(|row| row.holder), seen.map(|row| row.renewed_at));
        let Lease { term, holder: new, place } = lease;
        let taken = self.ask(async |connection| {
            let query = sqlx::query!(
                "insert into lease as old (term, holder, place, renewed_at, given_back) \
                 values ($1, $2, $3, clock_timestamp(), false) \
                 on conflict (only_row) do update set term = excluded.term, \
                 holder = excluded.holder, place = excluded.place, \
                 renewed_at = clock_timestamp(), given_back = false \
                 where old.holder = $4 and old.renewed_at = $5",
                term,
                new,
                place.as_deref(),
                holder,
                renewed_at,
            );
            query.execute(connection).await
        });
        Ok(taken.await?.rows_affected() == 1)
    }

    /// Says that `holder` is alive.
    pub async fn renew(&mut self, holder: Uuid) -> Result<Renewal, StoreError> {
        let renewed = self.ask(async |connection| {
            sqlx::query_scalar!(
                "update lease set renewed_at = clock_timestamp() \
                 where holder = $1 and not given_back returning exists (select from standbys \
                 where seen_at > clock_timestamp() - interval '1 minute') as \"standby!\"",
                holder,
            )
            .fetch_optional(connection)
            .await
        });
        Ok(renewed.await?.map_or(Renewal::NotMine, |standby| Renewal::Renewed { standby }))
    }

    /// Ends the lease of `holder`, if it is that.
    pub async fn give_back(&mut self, holder: Uuid) -> Result<(), StoreError> {
        let given_back = self.ask(async |connection| {
            let query =
                sqlx::query!("update lease set given_back = true where holder = $1", holder);
            query.execute(connection).await
        });
        given_back.await.map(drop)
    }

    /// Leaves word that `standby` waits for the lease; those who have not for a minute are
    /// forgotten.
    pub async fn stand_by(&mut self, standby: Uuid) -> Result<(), StoreError> {
        let written = self.ask(async |connection| {
            let query = sqlx::query!(
                "with gone as (delete from standbys \
                 where id <> $1 and seen_at < clock_timestamp() - interval '1 minute') \
                 insert into standbys (id, seen_at) values ($1, clock_timestamp()) \
                 on conflict (id) do update set seen_at = excluded.seen_at",
                standby,
            );
            query.execute(connection).await
        });
        written.await.map(drop)
    }

    /// `standby` waits no longer.
    pub async fn stand_down(&mut self, standby: Uuid) -> Result<(), StoreError> {
        let deleted = self.ask(async |connection| {
            sqlx::query!("delete from standbys where id = $1", standby).execute(connection).await
        });
        deleted.await.map(drop)
    }

    /// Asks within a try's time, and lets go of a connection on which that failed.
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let newest = self.pool.connect_options();
        let open = self.open.take().filter(|(_, options)| Arc::ptr_eq(options, &newest));
        let asked = async {
            let (mut connection, options) = match open {
                Some(open) => open,
                None => self.connect().await?,
            };
            let answer = question(&mut connection).await?;
            Ok::<_, sqlx::Error>(((connection, options), answer))
        };
        let (open, answer) = timeout(TRY, asked).await.unwrap_or_else(|_| Err(too_late()))?;
        self.open = Some(open);
        Ok(answer)
    }

    async fn connect(&self) -> Result<(PgConnection, Arc<PgConnectOptions>), sqlx::Error> {
        let options = self.pool.connect_options();
        let connected = timeout(TRY, PgConnection::connect_with(&options)).await;
        Ok((connected.unwrap_or_else(|_| Err(too_late()))?, options))
    }
}

fn too_late() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}
