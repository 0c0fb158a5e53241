//! The lock on a data directory: one Herald at a time serves it.

use super::error::PostgresError;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the lock may be held on by a Herald that was just killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A data directory that no other process serves; until it is dropped, or the process ends in
/// whatever way.
#[derive(Debug)]
pub struct DataLock {
    file: File,
}

impl DataLock {
    /// Locks a directory that is there, by its file `lock`. Errors: another process holds it, or
    /// the file cannot be made.
    pub async fn take(data_dir: &Path) -> Result<Self, PostgresError> {
        let path = data_dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(PostgresError::io("open", path))?;
        Ok(Self { file: hold(file, data_dir).await? })
    }

    /// Names the locked file among all files of this host for as long as it runs: of those who ever
    /// held a lock of this name, only the holder is alive. None where the system does not tell.
    pub fn name(&self) -> Option<String> {
        let metadata = self.file.metadata().ok()?;
        Some(format!("{}:{}", metadata.dev(), metadata.ino()))
    }
}

/// Locks the file until it is closed. Errors: another process holds it.
pub(super) async fn hold(file: File, data_dir: &Path) -> Result<File, PostgresError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(LOOK).await,
            Err(Errno::WOULDBLOCK) => return Err(PostgresError::Locked(data_dir.to_owned())),
            Err(error) => return Err(PostgresError::io("lock", data_dir)(error.into())),
        }
    }
}
