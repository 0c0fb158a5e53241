//! Every setting: its variable, its default and what it is for. Flags, messages and the README's
//! table come from here.

/// Who may see a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// A variable and a flag; the value may be shown.
    Open,
    /// A variable only; the value is never shown.
    Secret,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds where nothing is set; empty for nothing.
    pub default: &'static str,
    /// What it is for, with its unit.
    pub help: &'static str,
    /// Who may see it.
    pub visibility: Visibility,
}

impl Setting {
    /// The flag without its dashes: `HERALD_LISTEN` is `listen`.
    pub fn flag(&self) -> String {
        self.name.trim_start_matches("HERALD_").to_ascii_lowercase().replace('_', "-")
    }
}

const fn open(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, help, visibility: Visibility::Open }
}

const fn secret(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: "", help, visibility: Visibility::Secret }
}

/// All of them, grouped as the README shows them.
pub const SETTINGS: &[Setting] = &[
    open("HERALD_LISTEN", "127.0.0.1:8443", "Address and port of https and wss"),
    open(
        "HERALD_DATA_DIR",
        "./data",
        "Folder of the private Postgres, the local certificate and the development key",
    ),
    secret("DATABASE_URL", "A Postgres of your own, instead of the private one"),
    open("DATABASE_URL_FILE", "", "File with DATABASE_URL in it; read again at SIGHUP"),
    open("HERALD_PG_BIN", "", "Folder with initdb and postgres, for the private one"),
    open(
        "HERALD_STANDBY",
        "false",
        "Whether to wait where another node holds the database, and take over at its end",
    ),
    open("HERALD_TLS_CERT", "", "Certificate chain in PEM; followed when it changes"),
    open("HERALD_TLS_KEY", "", "Its private key in PEM"),
    secret("HERALD_JWT_SECRET", "HS256 secret, 32 bytes at least"),
    open("HERALD_JWT_SECRET_FILE", "", "File with the HS256 secret in it; read again at SIGHUP"),
    open(
        "HERALD_JWT_PUBLIC_KEYS",
        "",
        "Public key files in PEM, comma-separated; read again at SIGHUP",
    ),
    secret("HERALD_JWKS_URLS", "Key sets to fetch, comma-separated"),
    open(
        "HERALD_JWKS_ALLOW_PRIVATE",
        "false",
        "Whether key sets may be at private addresses and over plain http",
    ),
    open("HERALD_JWT_ISSUER", "", "What iss must be"),
    open("HERALD_JWT_AUDIENCE", "", "What aud must be or contain"),
    open("HERALD_JWT_LEEWAY_SECONDS", "30", "How far clocks may differ, 0 to 300 s"),
    open(
        "HERALD_MAX_TOKEN_DAYS",
        "30",
        "How long any token may be good for; so long a user stays revoked, 1 to 3,650 days",
    ),
    open("HERALD_JWT_CLAIM_USER", "sub", "Claim with the user id"),
    open("HERALD_JWT_CLAIM_GROUPS", "groups", "Claim with the group ids"),
    open("HERALD_JWT_CLAIM_ROLES", "roles", "Claim with the roles"),
    open("HERALD_JWT_CLAIM_INSTANCES", "instances", "Claim with the instances"),
    open("HERALD_JWT_CLAIM_INSTANCE", "instance", "Claim with the one instance"),
    open("HERALD_JWT_CLAIM_COMPONENT", "component", "Claim that makes a component token"),
    open(
        "HERALD_JWT_CACHE_ENTRIES",
        "10000",
        "Verified tokens that are remembered, 1 to 1,000,000; one of which more than 4 KiB are kept, \
         as of some over 1 KiB, counts as several",
    ),
    open("HERALD_PROXY_LISTEN", "", "Address and port of plain HTTP for proxies that end TLS"),
    open("HERALD_TRUSTED_PROXIES", "", "Their addresses or networks, comma-separated"),
    open("HERALD_METRICS_LISTEN", "127.0.0.1:9464", "Address and port of the Prometheus metrics"),
    open("HERALD_LOG", "info", "What is logged, such as debug or herald::relay=debug"),
    open("HERALD_LOG_FORMAT", "text", "text or json"),
    open("HERALD_WORKERS", "0", "Worker threads; 0 = one a CPU, at most 64"),
    open(
        "HERALD_KEEP_ALIVE_SECONDS",
        "60",
        "How often clients must send something; closed after 1.25 times that, 1 to 3,600 s",
    ),
    open(
        "HERALD_STREAM_COMMENT_SECONDS",
        "15",
        "How often a quiet event stream is sent a comment, 1 to 60 s",
    ),
    open(
        "HERALD_EXPIRING_SECONDS",
        "60",
        "How long before the end of its token a connection is told to send a new one, 0 to 86,400 s",
    ),
    open(
        "HERALD_OUTBOX_BYTES",
        "262144",
        "Bytes that may wait for one connection, 131,072 to 16,777,216",
    ),
    open(
        "HERALD_OUTBOX_SECONDS",
        "10",
        "How long a connection may take nothing while something waits for it, 1 to 60 s",
    ),
    open(
        "HERALD_SHARD_QUEUE_MESSAGES",
        "1024",
        "Messages that may wait for one worker; an instance takes no more than it leaves free, 1 to 65,536",
    ),
    open(
        "HERALD_SHARD_QUEUE_BYTES",
        "16777216",
        "Bytes that may wait for one worker, shared likewise, 131,072 to 1,073,741,824",
    ),
    open(
        "HERALD_HISTORY_SECONDS",
        "120",
        "How long messages are kept for clients that resume, 1 to 86,400 s",
    ),
    open(
        "HERALD_HISTORY_MESSAGES",
        "1000",
        "Messages kept of one audience, 0 to 1,000,000; 0 keeps nothing",
    ),
    open("HERALD_HISTORY_BYTES", "1048576", "Bytes kept of one audience, 1,024 to 1,073,741,824"),
    open(
        "HERALD_HISTORY_TOTAL_BYTES",
        "268435456",
        "Bytes kept of all instances; the least used give way, 1 MiB to 1 TiB",
    ),
    open(
        "HERALD_REMEMBERED_IDS",
        "200000",
        "Ids of messages that are remembered for as long as messages are kept, of all instances: one \
         alone takes half, 1 to 100,000,000",
    ),
    open(
        "HERALD_TRACED_MESSAGES",
        "10000",
        "Messages of an instance that can be traced, 1 to 1,000,000",
    ),
    open(
        "HERALD_TRACED_CONNECTIONS",
        "1000",
        "Ended connections of an instance that traces know, 1 to 1,000,000",
    ),
    open(
        "HERALD_TRACE_TOTAL_BYTES",
        "67108864",
        "Bytes of all traces; the least used instances give way, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_FILTERS",
        "64",
        "Filters of an instance that are kept with their answers in each worker, 1 to 10,000",
    ),
    open(
        "HERALD_NEWCOMERS",
        "100",
        "Newcomers of an instance that wait in each worker while its rules are asked, 1 to 10,000",
    ),
    open(
        "HERALD_MEMBERSHIP_BYTES",
        "67108864",
        "Bytes of the different sets of groups and channels that an instance's connections hear, in each worker, 1 MiB to 1 TiB",
    ),
    open(
        "HERALD_EXPRESSION_STEPS",
        "25000000",
        "Steps that all expressions of an instance's rules may take together, 1,000 to 1,000,000,000,000",
    ),
    open(
        "HERALD_EXPRESSION_BYTES",
        "33554432",
        "Bytes that they may take compiled; its filters' and rules' hold no more, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_EXPRESSION_TOTAL_BYTES",
        "268435456",
        "Bytes of the compiled expressions of all instances; the largest give way, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_EXPLANATIONS",
        "4",
        "Explanations and traces of a user under way at a time, of all instances: one alone takes half, \
         1 to 256",
    ),
    open(
        "HERALD_REPLAY_MESSAGES",
        "10000",
        "Messages that one client may be sent when it resumes, 1 to 1,000,000",
    ),
    open(
        "HERALD_REPLAY_BYTES",
        "4194304",
        "Bytes that one client may be sent when it resumes, 65,536 to 1,073,741,824",
    ),
    open(
        "HERALD_MAX_CONNECTIONS",
        "0",
        "Connections of the process, TCP, TLS and HTTP included; 0 = from the limit on open files",
    ),
    open("HERALD_CONNECTIONS_PER_ADDRESS", "1000", "Open sockets of one address, 1 to 1,000,000"),
    open(
        "HERALD_CONNECTS_PER_ADDRESS_PER_SECOND",
        "100",
        "New sockets of one address a second, 1 to 100,000",
    ),
    open("HERALD_HANDSHAKES", "256", "TLS handshakes under way in one worker, 1 to 65,536"),
    open(
        "HERALD_HANDSHAKES_PER_ADDRESS",
        "1000",
        "Connections of one address that are silent or in their TLS handshake, 1 to 1,000,000",
    ),
    open(
        "HERALD_HTTP_CONNECTIONS_PER_ADDRESS",
        "2000",
        "HTTP connections of one address, sockets and streams apart, 1 to 1,000,000",
    ),
    open(
        "HERALD_HEAD_BYTES",
        "65536",
        "Most bytes of a request's head, a token in it included, 32,768 to 98,304",
    ),
    open("HERALD_BODY_BYTES", "65536", "Most bytes of a request body, 1,024 to 16,777,216"),
    open("HERALD_BATCH_BODY_BYTES", "1048576", "Most bytes of a batch, 1,024 to 67,108,864"),
    open(
        "HERALD_REQUEST_SECONDS",
        "10",
        "How long the head of a request may take, and its body before the least rate counts, 1 to 300 s",
    ),
    open(
        "HERALD_BODY_BYTES_PER_SECOND",
        "4096",
        "Least rate of a request body after that, on average, 1 to 1,048,576 bytes a second",
    ),
    open(
        "HERALD_UNFINISHED_BYTES",
        "67108864",
        "Bytes held by requests that have not come whole; an address or instance takes no more \
         than it leaves free, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_UNFINISHED_INSTANCE_BYTES",
        "33554432",
        "The same, of one instance's bodies, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_UNFINISHED_ADDRESS_BYTES",
        "16777216",
        "The same, of one address's requests, 64 KiB to 1 TiB",
    ),
    open(
        "HERALD_CATALOG_POLL_SECONDS",
        "1",
        "How often the configuration's version is looked at, beside notifications, 1 to 60 s",
    ),
    open("HERALD_AUDIT_DAYS", "400", "How long the audit keeps what was changed, 1 to 3,650 days"),
    open("HERALD_SHUTDOWN_SECONDS", "10", "Longest shut-down, 3 to 300 s"),
    open(
        "HERALD_SOCKET_USER_TIMEOUT_SECONDS",
        "10",
        "After how long a peer that takes nothing is cut, 1 to 300 s",
    ),
    open("HERALD_SEND_BUFFER_BYTES", "0", "SO_SNDBUF of each socket; 0 = the system's own tuning"),
];
