//! What every start of Herald in one run has in common: files, a secret and the tokens that it
//! signs, settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::{Certificate as Authority, Client};
use serde_json::{Value, json};

use crate::Outcome;
use crate::servers::certificate::Certificate;

const LONGEST_REQUEST: Duration = Duration::from_secs(10);
/// How long tokens are valid, in seconds.
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// What stays the same for every start of Herald in one run.
pub struct Setup {
    /// Where the data directory and the log lie.
    pub directory: PathBuf,
    /// Manages it over https, and trusts the run's certificate only.
    pub client: Client,
    chain: PathBuf,
    key: PathBuf,
    secret: String,
    settings: Vec<(String, String)>,
}

impl Setup {
    /// A new secret; `settings` hold for every Herald.
    pub fn new(
        directory: &Path,
        certificate: &Certificate,
        settings: Vec<(String, String)>,
    ) -> Outcome<Self> {
        let mut secret = [0; 48];
        rand::fill(&mut secret).map_err(|_| "the system gave no random bytes")?;
        let client = Client::builder()
            .tls_certs_only([Authority::from_pem(certificate.authority.as_bytes())?])
            .https_only(true)
            .no_proxy()
            .timeout(LONGEST_REQUEST)
            .tcp_nodelay(true)
            .build()?;
        let (chain, key) = (certificate.chain.clone(), certificate.key.clone());
        Ok(Self {
            directory: directory.to_owned(),
            client,
            chain,
            key,
            secret: URL_SAFE_NO_PAD.encode(secret),
            settings,
        })
    }

    /// The token of a component that publishes as this user.
    pub fn publisher_token(&self, user: &str) -> Outcome<String> {
        self.token(json!({"sub": user, "component": "bench", "roles": ["REALTIME_CONNECT"]}))
    }

    /// A token for each of `count` users of `group` who may listen.
    pub fn listener_tokens(&self, group: &str, count: u32) -> Outcome<Vec<String>> {
        let claims = |index| json!({"sub": format!("{group}-{index}"), "groups": [group], "roles": ["REALTIME_CONNECT"]});
        (0..count).map(|index| self.token(claims(index))).collect()
    }

    /// A token that is valid in every instance.
    pub fn token(&self, mut claims: Value) -> Outcome<String> {
        claims["instances"] = json!(["*"]);
        claims["exp"] = json!(get_current_timestamp() + TOKEN_SECONDS);
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        Ok(encode(&Header::new(Algorithm::HS256), &claims, &key)?)
    }

    /// Herald, but for its addresses; what `more` sets gives way to the run's own settings.
    #[expect(
        clippy::disallowed_methods,
        reason = "the child gets no setting of the shell that started the benchmark"
    )]
    pub fn command(&self, more: &[(&str, String)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name == "DATABASE_URL" || (name.starts_with("HERALD_") && name != "HERALD_PG_BIN") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .env("HERALD_DATA_DIR", self.directory.join("data"))
            .env("HERALD_TLS_CERT", &self.chain)
            .env("HERALD_TLS_KEY", &self.key)
            .env("HERALD_JWT_SECRET", &self.secret)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}
