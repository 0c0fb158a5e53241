//! How the database is reached, out of the configuration.

use super::error::StartError;
use super::secret::read_secret;
use crate::config::SecretSource;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;

/// How long the start waits for a Postgres that starts at the same time.
pub(super) const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// How a Postgres of the operator's own is reached. Errors: `StartError`, which never shows the
/// URL.
pub(super) fn connect_options(source: &SecretSource) -> Result<PgConnectOptions, StartError> {
    let setting = source.setting("DATABASE_URL");
    let url = read_secret(source).map_err(|error| {
        let path = source.file().map(|path| path.display().to_string()).unwrap_or_default();
        StartError(format!("{setting}: {path} cannot be read: {error}"))
    })?;
    let options = std::str::from_utf8(&url).ok().and_then(|url| url.parse().ok());
    // The parser's own words might repeat the password.
    let options: PgConnectOptions =
        options.ok_or_else(|| StartError(format!("{setting} holds no Postgres URL")))?;
    Ok(options.disable_statement_logging())
}
