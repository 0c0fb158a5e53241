//! Herald itself: the built binary in a process and a data directory of its own, spoken to over https like any other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate as Authority, Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::certificate::{Certificate, SERVER_NAME};
use crate::envelope::{EXPRESSION, Envelope, PLAIN, RULED};
use crate::process::{Process, free_address};
use crate::{Failure, Outcome};

/// The instance that the benchmark makes for itself.
pub const INSTANCE: &str = "bench";

/// How long Herald may take to be ready; the first start makes its database.
const LONGEST_START: Duration = Duration::from_secs(90);
/// How long a change may take to be in force.
const LONGEST_CHANGE: Duration = Duration::from_secs(10);
const LONGEST_REQUEST: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// How long tokens are valid, in seconds.
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// What stays the same for every start of Herald in one run.
pub struct Setup {
    /// Where the data directory and the log lie.
    pub directory: PathBuf,
    secret: String,
    settings: Vec<(String, String)>,
    client: Client,
}

impl Setup {
    /// A new secret, and a client that trusts `certificate`'s authority only; `settings` hold for every Herald.
    pub fn new(directory: &Path, certificate: &Certificate, settings: Vec<(String, String)>) -> Outcome<Self> {
        let mut secret = [0; 48];
        rand::fill(&mut secret).map_err(|_| "the system gave no random bytes")?;
        let client = Client::builder()
            .tls_certs_only([Authority::from_pem(certificate.authority.as_bytes())?])
            .https_only(true)
            .no_proxy()
            .timeout(LONGEST_REQUEST)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { directory: directory.to_owned(), secret: URL_SAFE_NO_PAD.encode(secret), settings, client })
    }

    /// A token for each of `count` users of `group` who may listen.
    pub fn listener_tokens(&self, group: &str, count: u32) -> Outcome<Vec<String>> {
        let claims =
            |index| json!({"sub": format!("{group}-{index}"), "groups": [group], "roles": ["REALTIME_CONNECT"]});
        (0..count).map(|index| self.token(claims(index))).collect()
    }

    fn token(&self, mut claims: Value) -> Outcome<String> {
        claims["instances"] = json!(["*"]);
        claims["exp"] = json!(get_current_timestamp() + TOKEN_SECONDS);
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        Ok(encode(&Header::new(Algorithm::HS256), &claims, &key)?)
    }

    #[expect(clippy::disallowed_methods, reason = "the child gets no setting of the shell that started the benchmark")]
    fn command(&self, address: SocketAddr, certificate: &Certificate) -> Outcome<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name == "DATABASE_URL" || (name.starts_with("HERALD_") && name != "HERALD_PG_BIN") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .env("HERALD_LISTEN", address.to_string())
            .env("HERALD_METRICS_LISTEN", free_address()?.to_string())
            .env("HERALD_DATA_DIR", self.directory.join("data"))
            .env("HERALD_TLS_CERT", &certificate.chain)
            .env("HERALD_TLS_KEY", &certificate.key)
            .env("HERALD_JWT_SECRET", &self.secret);
        Ok(command)
    }
}

/// A running Herald with the benchmark's instance in force.
pub struct HeraldServer {
    /// The server.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for proxies.
    pub proxy: Option<SocketAddr>,
    /// A component's token.
    pub publisher: String,
    /// How messages are addressed.
    pub envelope: Envelope,
    client: Client,
}

impl HeraldServer {
    /// Starts Herald with more `settings`, and a listener for proxies if one is wanted, waits until it is ready and makes the instance if this is the first start.
    pub async fn start(
        setup: &Setup,
        certificate: &Certificate,
        settings: &[(&str, String)],
        proxy: Option<SocketAddr>,
    ) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = setup.command(address, certificate)?;
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        if let Some(proxy) = proxy {
            command.env("HERALD_PROXY_LISTEN", proxy.to_string()).env("HERALD_TRUSTED_PROXIES", proxy.ip().to_string());
        }
        command.envs(setup.settings.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start("herald", command, &setup.directory)?;
        drop(process.take_stdin());
        let publisher = setup.token(json!({"sub": "bench", "component": "bench", "roles": ["REALTIME_CONNECT"]}))?;
        let (envelope, client) = (Envelope::EVERYONE, setup.client.clone());
        let mut server = Self { process, address, proxy, publisher, envelope, client };
        match server.prepare(setup).await {
            Ok(()) => Ok(server),
            Err(failure) => Err(server.process.explain(failure)),
        }
    }

    /// Addresses messages like this from now on, and makes the channels that this needs.
    pub async fn address_by(&mut self, envelope: Envelope, setup: &Setup) -> Outcome<()> {
        self.envelope = envelope;
        if !envelope.needs_channels() {
            return Ok(());
        }
        let administrator = setup.token(json!({"sub": "administrator", "roles": ["REALTIME_ADMIN"]}))?;
        let rules = json!([{"effect": "allow", "when": EXPRESSION}]);
        for channel in [json!({"name": PLAIN}), json!({"name": RULED, "rules": rules})] {
            let request = self.client.post(self.url("/v1/channels")).header(CONTENT_TYPE, "application/json");
            let request = request.header("instance", INSTANCE).body(channel.to_string());
            match send(request, &administrator).await? {
                (StatusCode::CREATED | StatusCode::CONFLICT, _) => {}
                (status, text) => return Err(format!("making a channel was answered {status}: {text}").into()),
            }
        }
        Ok(())
    }

    async fn prepare(&mut self, setup: &Setup) -> Outcome<()> {
        self.wait_until_ready().await?;
        let operator = setup.token(json!({"sub": "operator", "roles": ["REALTIME_OPERATOR"]}))?;
        self.make_instance(&operator).await?;
        let administrator = setup.token(json!({"sub": "administrator", "roles": ["REALTIME_ADMIN"]}))?;
        self.wait_for_instance(&administrator).await
    }

    async fn wait_until_ready(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + LONGEST_START;
        loop {
            self.process.check_running()?;
            let last = match self.client.get(self.url("/readyz")).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.status().to_string(),
                Err(error) => chain(&error),
            };
            if Instant::now() > deadline {
                return Err(format!("Herald was not ready within {LONGEST_START:?}: {last}").into());
            }
            sleep(PAUSE).await;
        }
    }

    async fn make_instance(&self, operator: &str) -> Outcome<()> {
        let instance = json!({"id": INSTANCE, "name": "Benchmark", "limits": {
            "payloadBytes": 65_536, "componentPayloadBytes": 65_536,
            "messagesPerSecond": 1_000_000, "messageBurst": 1_000_000,
            "userMessagesPerSecond": 1_000_000, "userMessageBurst": 1_000_000,
            "connections": 100_000, "connectionsPerUser": 1_000, "connectsPerSecond": 100_000,
        }});
        let request = self.client.post(self.url("/v1/instances")).header(CONTENT_TYPE, "application/json");
        match send(request.body(instance.to_string()), operator).await? {
            (StatusCode::CREATED, _) => Ok(()),
            (StatusCode::CONFLICT, text) if text.contains("INSTANCE_EXISTS") => Ok(()),
            (status, text) => Err(format!("making the instance was answered {status}: {text}").into()),
        }
    }

    async fn wait_for_instance(&self, administrator: &str) -> Outcome<()> {
        let deadline = Instant::now() + LONGEST_CHANGE;
        loop {
            let request = self.client.get(self.url("/v1/quotas")).header("instance", INSTANCE);
            match send(request, administrator).await? {
                (StatusCode::OK, _) => return Ok(()),
                (status, text) if Instant::now() > deadline => {
                    return Err(
                        format!("after {LONGEST_CHANGE:?} the new instance is answered {status}: {text}").into()
                    );
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{SERVER_NAME}:{}{path}", self.address.port())
    }
}

async fn send(request: RequestBuilder, token: &str) -> Outcome<(StatusCode, String)> {
    let answer =
        request.header(AUTHORIZATION, format!("Bearer {token}")).send().await.map_err(|error| chain(&error))?;
    let status = answer.status();
    Ok((status, answer.text().await.map_err(|error| Failure::from(chain(&error)))?))
}

/// An error and everything that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(|cause| format!(": {cause}"));
    format!("{error}{}", causes.collect::<String>())
}
