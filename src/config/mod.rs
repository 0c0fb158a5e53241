//! What the service is told by flags and environment, checked once; the only place that reads the
//! environment.

mod reader;
mod settings;

pub use reader::ConfigError;
pub use settings::{SETTINGS, Setting, Visibility};

use ipnet::IpNet;
use reader::Reader;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Set by orchestrators and by our own SDK in the same environment; not ours to judge (contract,
/// "Running it").
const IGNORED: [&str; 4] = ["HERALD_PORT", "HERALD_URL", "HERALD_TOKEN", "HERALD_INSTANCE"];
/// The same, by how they begin.
const IGNORED_PREFIXES: [&str; 2] = ["HERALD_SERVICE_", "HERALD_PORT_"];

/// 24 hours.
const DAY: Duration = Duration::from_secs(86_400);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text; for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The variable holds it.
    Given(Secret),
    /// A file holds it, and one line feed behind it at most.
    File(PathBuf),
}

impl SecretSource {
    /// The setting that names it, where `plain` is the one that would hold it.
    pub fn setting(&self, plain: &str) -> String {
        match self {
            Self::Given(_) => plain.into(),
            Self::File(_) => format!("{plain}_FILE"),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Given(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

/// What tokens are verified with.
#[derive(Clone)]
pub enum SigningKeys {
    /// The key in the data directory, for a first look on loopback.
    Development,
    /// The operator's own; at least one of the three.
    Configured {
        /// HS256.
        secret: Option<SecretSource>,
        /// PEM files.
        public_keys: Vec<PathBuf>,
        /// Key sets.
        jwks_urls: Vec<url::Url>,
    },
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Configured { secret, public_keys, jwks_urls } = self else {
            return f.write_str("Development");
        };
        // The rest of a URL may hold a secret.
        let hosts: Vec<_> = jwks_urls.iter().map(url::Url::host_str).collect();
        f.debug_struct("Configured")
            .field("secret", secret)
            .field("public_keys", public_keys)
            .field("jwks_hosts", &hosts)
            .finish()
    }
}

/// The names of the claims that are read; see the settings.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `HERALD_JWT_CLAIM_USER`.
    pub user: String,
    /// `HERALD_JWT_CLAIM_GROUPS`.
    pub groups: String,
    /// `HERALD_JWT_CLAIM_ROLES`.
    pub roles: String,
    /// `HERALD_JWT_CLAIM_INSTANCES`.
    pub instances: String,
    /// `HERALD_JWT_CLAIM_INSTANCE`.
    pub instance: String,
    /// `HERALD_JWT_CLAIM_COMPONENT`.
    pub component: String,
}

/// How tokens are verified.
#[derive(Clone, Debug)]
pub struct SigningIn {
    /// With what.
    pub keys: SigningKeys,
    /// `HERALD_JWKS_ALLOW_PRIVATE`.
    pub jwks_allow_private: bool,
    /// `HERALD_JWT_ISSUER`.
    pub issuer: Option<String>,
    /// `HERALD_JWT_AUDIENCE`.
    pub audience: Option<String>,
    /// `HERALD_JWT_LEEWAY_SECONDS`.
    pub leeway: Duration,
    /// `HERALD_MAX_TOKEN_DAYS`.
    pub max_token_age: Duration,
    /// The claims' names.
    pub claims: Claims,
    /// `HERALD_JWT_CACHE_ENTRIES`.
    pub cache_entries: usize,
}

/// The bounds that protect the process; each is the setting of its name.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// 0 = one a CPU.
    pub workers: usize,
    /// How often clients must send something.
    pub keep_alive: Duration,
    /// How long before a token's end its connection is told.
    pub expiring: Duration,
    /// How often a quiet event stream is sent a comment.
    pub stream_comment: Duration,
    /// Of one connection.
    pub outbox_bytes: usize,
    /// Of one connection.
    pub outbox_age: Duration,
    /// Of one worker.
    pub queue_messages: usize,
    /// Of one worker.
    pub queue_bytes: usize,
    /// 0 = from the limit on open files.
    pub connections: usize,
    /// Open sockets.
    pub connections_per_address: u32,
    /// New sockets.
    pub connects_per_address: u32,
    /// TLS handshakes of one worker.
    pub handshakes: usize,
    /// Connections that have not finished theirs.
    pub handshakes_per_address: usize,
    /// HTTP connections that are no sockets.
    pub http_per_address: usize,
    /// Of a request body.
    pub body_bytes: usize,
    /// Of a batch.
    pub batch_body_bytes: usize,
    /// Of the head of a request.
    pub head_bytes: usize,
    /// How long a head may take, and a body before its rate counts.
    pub request_patience: Duration,
    /// The least rate of a body after that.
    pub body_bytes_per_second: u32,
    /// Of all unfinished requests.
    pub unfinished_bytes: usize,
    /// Of one instance's unfinished bodies.
    pub unfinished_instance_bytes: usize,
    /// Of one address' unfinished requests.
    pub unfinished_address_bytes: usize,
    /// How long messages are kept.
    pub history_window: Duration,
    /// Of one audience's window.
    pub history_messages: usize,
    /// Of one audience's window.
    pub history_bytes: usize,
    /// Of all windows.
    pub history_total_bytes: usize,
    /// Ids of publishers that are remembered.
    pub ids: usize,
    /// Messages of an instance that can be traced.
    pub traced_messages: usize,
    /// Ended connections of an instance that are remembered.
    pub traced_connections: usize,
    /// Of all traces.
    pub trace_total_bytes: usize,
    /// Filters that an instance keeps in each worker.
    pub filters: usize,
    /// Connections of an instance that wait for its heavy rules, on each worker.
    pub newcomers: usize,
    /// Bytes of the sets of groups and channels that an instance's connections hear, on each worker.
    pub heard_bytes: usize,
    /// Steps of all expressions of an instance.
    pub expression_steps: u64,
    /// Bytes of the same, compiled.
    pub expression_bytes: usize,
    /// Bytes of all that is compiled.
    pub expression_total_bytes: usize,
    /// Explained at a time.
    pub explanations: usize,
    /// Of one replay.
    pub replay_messages: usize,
    /// Of one replay.
    pub replay_bytes: usize,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Duration,
    /// `SO_SNDBUF`; 0 = the system's.
    pub send_buffer_bytes: usize,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Everything, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HERALD_LISTEN`.
    pub listen: SocketAddr,
    /// `HERALD_PROXY_LISTEN`.
    pub proxy_listen: Option<SocketAddr>,
    /// `HERALD_METRICS_LISTEN`.
    pub metrics_listen: SocketAddr,
    /// `HERALD_TRUSTED_PROXIES`.
    pub trusted_proxies: Vec<IpNet>,
    /// `HERALD_DATA_DIR`.
    pub data_dir: PathBuf,
    /// `DATABASE_URL` or `DATABASE_URL_FILE`; none means the private Postgres.
    pub database_url: Option<SecretSource>,
    /// `HERALD_PG_BIN`.
    pub pg_bin: Option<PathBuf>,
    /// `HERALD_STANDBY`.
    pub standby: bool,
    /// `HERALD_TLS_CERT` and `HERALD_TLS_KEY`; none means the local certificate.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How tokens are verified.
    pub signing_in: SigningIn,
    /// What protects the process.
    pub bounds: Bounds,
    /// `HERALD_CATALOG_POLL_SECONDS`.
    pub catalog_poll: Duration,
    /// `HERALD_AUDIT_DAYS`.
    pub audit_age: Duration,
    /// `HERALD_SHUTDOWN_SECONDS`.
    pub shutdown: Duration,
    /// `HERALD_LOG`.
    pub log: String,
    /// `HERALD_LOG_FORMAT`.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads the environment; `flags`, by the variable's name, win. Errors: `ConfigError`.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    pub fn from_environment(flags: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut settings = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            if !is_ours(&name) {
                continue;
            }
            let value =
                value.into_string().map_err(|_| ConfigError(format!("{name} is not UTF-8")))?;
            settings.insert(name, value);
        }
        settings.extend(flags);
        Self::from_settings(settings)
    }

    /// Checks settings by the variables' names. Errors: `ConfigError`, for an unknown name or a bad
    /// value.
    pub fn from_settings(settings: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let reader = Reader::new(settings)?;
        let config = Self {
            listen: reader
                .address("HERALD_LISTEN")?
                .ok_or_else(|| ConfigError("HERALD_LISTEN is missing".into()))?,
            proxy_listen: reader.address("HERALD_PROXY_LISTEN")?,
            metrics_listen: reader
                .address("HERALD_METRICS_LISTEN")?
                .ok_or_else(|| ConfigError("HERALD_METRICS_LISTEN is missing".into()))?,
            trusted_proxies: reader.networks("HERALD_TRUSTED_PROXIES")?,
            data_dir: reader.text("HERALD_DATA_DIR").into(),
            database_url: secret(&reader, "DATABASE_URL", "DATABASE_URL_FILE")?,
            pg_bin: reader.some("HERALD_PG_BIN").map(PathBuf::from),
            standby: reader.yes_or_no("HERALD_STANDBY")?,
            tls: certificate(&reader)?,
            signing_in: signing_in(&reader)?,
            bounds: bounds(&reader)?,
            catalog_poll: reader.seconds("HERALD_CATALOG_POLL_SECONDS", 1, 60)?,
            audit_age: DAY * reader.number("HERALD_AUDIT_DAYS", 1, 3_650)?,
            shutdown: reader.seconds("HERALD_SHUTDOWN_SECONDS", 3, 300)?,
            log: reader.text("HERALD_LOG"),
            log_format: match reader.text("HERALD_LOG_FORMAT").as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(reader.bad("HERALD_LOG_FORMAT", "it is text or json")),
            },
        };
        config.check()
    }

    /// Whether tokens are verified with the development key.
    pub fn is_development(&self) -> bool {
        matches!(self.signing_in.keys, SigningKeys::Development)
    }

    fn check(self) -> Result<Self, ConfigError> {
        if self.is_development() && !self.listen.ip().is_loopback() {
            return Err(ConfigError(format!(
                "HERALD_LISTEN is {}, which others can reach, and tokens would be verified with the development key: set HERALD_JWT_SECRET, HERALD_JWT_SECRET_FILE, HERALD_JWT_PUBLIC_KEYS or HERALD_JWKS_URLS",
                self.listen
            )));
        }
        if self.is_development() && self.proxy_listen.is_some() {
            return Err(ConfigError(
                "HERALD_PROXY_LISTEN needs a signing key of your own: set HERALD_JWT_SECRET, HERALD_JWT_SECRET_FILE, HERALD_JWT_PUBLIC_KEYS or HERALD_JWKS_URLS".into(),
            ));
        }
        if self.standby && self.database_url.is_none() {
            return Err(ConfigError(
                "HERALD_STANDBY needs a database that other nodes reach too: set DATABASE_URL or DATABASE_URL_FILE".into(),
            ));
        }
        if self.proxy_listen.is_some() && self.trusted_proxies.is_empty() {
            return Err(ConfigError(
                "HERALD_PROXY_LISTEN serves only known proxies: name them in HERALD_TRUSTED_PROXIES".into(),
            ));
        }
        Ok(self)
    }
}

fn is_ours(name: &str) -> bool {
    let ignored =
        IGNORED.contains(&name) || IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    ["DATABASE_URL", "DATABASE_URL_FILE"].contains(&name)
        || (name.starts_with("HERALD_") && !ignored)
}

fn certificate(reader: &Reader) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (reader.some("HERALD_TLS_CERT"), reader.some("HERALD_TLS_KEY")) {
        (Some(certificate), Some(key)) => Ok(Some((certificate.into(), key.into()))),
        (None, None) => Ok(None),
        _ => Err(ConfigError(
            "HERALD_TLS_CERT and HERALD_TLS_KEY belong together: set both or none".into(),
        )),
    }
}

/// A secret that is given by itself or in a file.
fn secret(reader: &Reader, name: &str, file: &str) -> Result<Option<SecretSource>, ConfigError> {
    match (reader.some(name), reader.some(file)) {
        (Some(_), Some(_)) => Err(ConfigError(format!("{name} and {file} are both set: set one"))),
        (Some(text), None) => Ok(Some(SecretSource::Given(Secret(text)))),
        (None, Some(path)) => Ok(Some(SecretSource::File(path.into()))),
        (None, None) => Ok(None),
    }
}

fn signing_in(reader: &Reader) -> Result<SigningIn, ConfigError> {
    let secret = secret(reader, "HERALD_JWT_SECRET", "HERALD_JWT_SECRET_FILE")?;
    let public_keys: Vec<PathBuf> =
        reader.list("HERALD_JWT_PUBLIC_KEYS").into_iter().map(PathBuf::from).collect();
    let jwks_urls = reader.urls("HERALD_JWKS_URLS")?;
    let keys = match secret.is_none() && public_keys.is_empty() && jwks_urls.is_empty() {
        true => SigningKeys::Development,
        false => SigningKeys::Configured { secret, public_keys, jwks_urls },
    };
    Ok(SigningIn {
        keys,
        jwks_allow_private: reader.yes_or_no("HERALD_JWKS_ALLOW_PRIVATE")?,
        issuer: reader.some("HERALD_JWT_ISSUER"),
        audience: reader.some("HERALD_JWT_AUDIENCE"),
        leeway: reader.seconds("HERALD_JWT_LEEWAY_SECONDS", 0, 300)?,
        max_token_age: DAY * reader.number("HERALD_MAX_TOKEN_DAYS", 1, 3_650)?,
        claims: Claims {
            user: reader.text("HERALD_JWT_CLAIM_USER"),
            groups: reader.text("HERALD_JWT_CLAIM_GROUPS"),
            roles: reader.text("HERALD_JWT_CLAIM_ROLES"),
            instances: reader.text("HERALD_JWT_CLAIM_INSTANCES"),
            instance: reader.text("HERALD_JWT_CLAIM_INSTANCE"),
            component: reader.text("HERALD_JWT_CLAIM_COMPONENT"),
        },
        cache_entries: reader.number("HERALD_JWT_CACHE_ENTRIES", 1, 1_000_000)?,
    })
}

fn bounds(reader: &Reader) -> Result<Bounds, ConfigError> {
    Ok(Bounds {
        workers: reader.number("HERALD_WORKERS", 0, 64)?,
        keep_alive: reader.seconds("HERALD_KEEP_ALIVE_SECONDS", 1, 3_600)?,
        expiring: reader.seconds("HERALD_EXPIRING_SECONDS", 0, 86_400)?,
        stream_comment: reader.seconds("HERALD_STREAM_COMMENT_SECONDS", 1, 60)?,
        outbox_bytes: reader.number("HERALD_OUTBOX_BYTES", 131_072, 16_777_216)?,
        outbox_age: reader.seconds("HERALD_OUTBOX_SECONDS", 1, 60)?,
        queue_messages: reader.number("HERALD_SHARD_QUEUE_MESSAGES", 1, 65_536)?,
        queue_bytes: reader.number("HERALD_SHARD_QUEUE_BYTES", 131_072, 1_073_741_824)?,
        connections: reader.number("HERALD_MAX_CONNECTIONS", 0, 10_000_000)?,
        connections_per_address: reader.number("HERALD_CONNECTIONS_PER_ADDRESS", 1, 1_000_000)?,
        connects_per_address: reader.number(
            "HERALD_CONNECTS_PER_ADDRESS_PER_SECOND",
            1,
            100_000,
        )?,
        handshakes: reader.number("HERALD_HANDSHAKES", 1, 65_536)?,
        handshakes_per_address: reader.number("HERALD_HANDSHAKES_PER_ADDRESS", 1, 1_000_000)?,
        http_per_address: reader.number("HERALD_HTTP_CONNECTIONS_PER_ADDRESS", 1, 1_000_000)?,
        body_bytes: reader.number("HERALD_BODY_BYTES", 1_024, 16_777_216)?,
        batch_body_bytes: reader.number("HERALD_BATCH_BODY_BYTES", 1_024, 67_108_864)?,
        head_bytes: reader.number("HERALD_HEAD_BYTES", 32_768, 98_304)?,
        request_patience: reader.seconds("HERALD_REQUEST_SECONDS", 1, 300)?,
        body_bytes_per_second: reader.number("HERALD_BODY_BYTES_PER_SECOND", 1, 1_048_576)?,
        unfinished_bytes: unfinished(reader, "HERALD_UNFINISHED_BYTES")?,
        unfinished_instance_bytes: unfinished(reader, "HERALD_UNFINISHED_INSTANCE_BYTES")?,
        unfinished_address_bytes: unfinished(reader, "HERALD_UNFINISHED_ADDRESS_BYTES")?,
        history_window: reader.seconds("HERALD_HISTORY_SECONDS", 1, 86_400)?,
        history_messages: reader.number("HERALD_HISTORY_MESSAGES", 0, 1_000_000)?,
        history_bytes: reader.number("HERALD_HISTORY_BYTES", 1_024, 1_073_741_824)?,
        history_total_bytes: reader.number(
            "HERALD_HISTORY_TOTAL_BYTES",
            1_048_576,
            1_099_511_627_776,
        )?,
        ids: reader.number("HERALD_REMEMBERED_IDS", 1, 100_000_000)?,
        traced_messages: reader.number("HERALD_TRACED_MESSAGES", 1, 1_000_000)?,
        traced_connections: reader.number("HERALD_TRACED_CONNECTIONS", 1, 1_000_000)?,
        trace_total_bytes: reader.number("HERALD_TRACE_TOTAL_BYTES", 65_536, 1_099_511_627_776)?,
        filters: reader.number("HERALD_FILTERS", 1, 10_000)?,
        newcomers: reader.number("HERALD_NEWCOMERS", 1, 10_000)?,
        heard_bytes: reader.number("HERALD_MEMBERSHIP_BYTES", 1_048_576, 1_099_511_627_776)?,
        expression_steps: reader.number("HERALD_EXPRESSION_STEPS", 1_000, 1_000_000_000_000)?,
        expression_bytes: reader.number("HERALD_EXPRESSION_BYTES", 65_536, 1_099_511_627_776)?,
        expression_total_bytes: reader.number(
            "HERALD_EXPRESSION_TOTAL_BYTES",
            65_536,
            1_099_511_627_776,
        )?,
        explanations: reader.number("HERALD_EXPLANATIONS", 1, 256)?,
        replay_messages: reader.number("HERALD_REPLAY_MESSAGES", 1, 1_000_000)?,
        replay_bytes: reader.number("HERALD_REPLAY_BYTES", 65_536, 1_073_741_824)?,
        user_timeout: reader.seconds("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 1, 300)?,
        send_buffer_bytes: reader.number("HERALD_SEND_BUFFER_BYTES", 0, 16_777_216)?,
    })
}

fn unfinished(reader: &Reader, name: &str) -> Result<usize, ConfigError> {
    reader.number(name, 65_536, 1_099_511_627_776)
}

#[cfg(test)]
mod tests;
