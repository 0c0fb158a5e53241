//! The data directory: one Herald at a time serves it.

use super::error::StartError;
use crate::postgres::{DataLock, PostgresError};
use std::fs;
use std::path::Path;

/// Makes the directory if it is missing, and locks it. None where it cannot be made or locked: a
/// Herald with a database and a certificate of the operator's own goes on without it. Errors:
/// another Herald serves it.
pub(super) async fn lock(data_dir: &Path) -> Result<Option<DataLock>, StartError> {
    let error = match fs::create_dir_all(data_dir) {
        Err(error) => error.to_string(),
        Ok(()) => match DataLock::take(data_dir).await {
            Ok(lock) => return Ok(Some(lock)),
            Err(error @ PostgresError::Locked(_)) => return Err(StartError(error.to_string())),
            Err(error) => error.to_string(),
        },
    };
    tracing::warn!(error, "the data directory cannot be locked");
    Ok(None)
}
