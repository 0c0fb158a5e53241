//! The real server on ports of its own, with its own database, and one method for calling it.

use super::socket::{Handshake, Socket};
use super::tokens::{SECRET, Token};
use super::{PATIENCE, postgres, within};
use herald::config::Config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// Settings beyond those that every test server has.
#[derive(Default)]
pub struct Options {
    settings: BTreeMap<String, String>,
}

impl Options {
    /// Sets one `HERALD_…` variable.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.into(), value.to_string());
        self
    }
}

/// A running server. Dropping it stops it as SIGTERM would.
pub struct App {
    /// Of the client listener.
    pub port: u16,
    /// Of the metrics listener.
    pub metrics_port: u16,
    /// Of the proxy listener, if there is one.
    pub proxy_port: Option<u16>,
    /// Trusts the server's certificate.
    pub tls: Arc<rustls::ClientConfig>,
    /// Trusts the server's certificate.
    pub http: reqwest::Client,
    /// Where its data lies.
    pub directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null where it is none.
    pub body: Value,
}

impl Answer {
    /// A header's text; empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The problem's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
}

impl App {
    /// A server with instance `main` and the default limits.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// The same with other settings.
    pub async fn start_with(options: Options) -> Self {
        let app = Self::launch(options, postgres::database().await).await;
        app.create_instance("main", json!({})).await;
        app
    }

    /// A server on this database, without any instance.
    pub async fn launch(options: Options, database: String) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the server's data");
        Self::launch_in(directory, options, database).await
    }

    /// The same with the data of an earlier server.
    pub async fn launch_in(directory: TempDir, options: Options, database: String) -> Self {
        let mut settings = options.settings;
        let data = directory.path().display().to_string();
        for (name, value) in [
            ("HERALD_LISTEN", "127.0.0.1:0"),
            ("HERALD_METRICS_LISTEN", "127.0.0.1:0"),
            ("HERALD_JWT_SECRET", SECRET),
            ("HERALD_DATA_DIR", &data),
            ("HERALD_WORKERS", "2"),
            ("DATABASE_URL", &database),
        ] {
            settings.entry(name.into()).or_insert_with(|| value.into());
        }
        let config = Config::from_settings(settings).expect("the settings are good");
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let shutdown = async move { drop(stopped.await) };
            let (_nobody_asks, reloads) = mpsc::channel(1);
            let run = herald::app::run(config, shutdown, reloads, |addresses| {
                drop(ready.send(addresses.clone()))
            });
            if let Err(error) = actix_web::rt::System::new().block_on(run) {
                eprintln!("the server ended with an error: {error}");
            }
        });
        let addresses = within("the server's start", started).await.expect("the server starts");
        let ca = std::fs::read(directory.path().join("tls/ca.pem")).expect("the server made a CA");
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        Self {
            port: addresses.client.port(),
            metrics_port: addresses.metrics.port(),
            proxy_port: addresses.proxy.map(|proxy| proxy.port()),
            tls: Arc::new(trusting(&ca)),
            http,
            directory,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Makes an instance as an operator would.
    pub async fn create_instance(&self, id: &str, limits: Value) -> Answer {
        let body = json!({ "id": id, "name": id, "limits": limits });
        self.call("POST", "/v1/instances", Some(&Token::operator()), Some(body), 201).await
    }

    /// Calls an operation of instance `main` and checks the status.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&Token>,
        body: Option<Value>,
        expected: u16,
    ) -> Answer {
        let mut request = self.request(method, path).header("instance", "main");
        if let Some(token) = token {
            request = request.bearer_auth(token.sign());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request, expected).await
    }

    /// A request without anything yet.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("https://localhost:{}{path}", self.port))
    }

    /// Sends a request and checks the status.
    pub async fn send(&self, request: reqwest::RequestBuilder, expected: u16) -> Answer {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the body comes whole");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        assert_eq!(status, expected, "{text}");
        Answer { headers, body }
    }

    /// Publishes as a component and expects 202; the receipt.
    pub async fn publish(&self, channel: &str, message: Value) -> Value {
        let body = json!({ "channel": channel, "message": message });
        self.call(
            "POST",
            "/v1/messages",
            Some(&super::token("publisher").component()),
            Some(body),
            202,
        )
        .await
        .body
    }

    /// Makes a channel in instance `main`.
    pub async fn create_channel(&self, channel: Value) {
        let by = Token::admin("root");
        self.call("POST", "/v1/channels", Some(&by), Some(channel), 201).await;
    }

    /// Connects to instance `main` and waits for `CONNECTED`.
    pub async fn connect(&self, token: &Token) -> Socket {
        self.connect_with(token, "").await
    }

    /// The same with more query parameters, such as `&channels=ALL`.
    pub async fn connect_with(&self, token: &Token, query: &str) -> Socket {
        self.open(token, query).await.welcomed().await
    }

    /// Opens a socket that may be closed at once.
    pub async fn open(&self, token: &Token, query: &str) -> Socket {
        let path = format!("/?authorization={}&instance=main{query}", token.sign());
        Handshake::new(self, &path)
            .send(self)
            .await
            .unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    /// The metrics page.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        let answer = self.http.get(url).send().await.expect("the metrics listener answers");
        answer.text().await.expect("the page comes whole")
    }

    /// Asks for the shut-down; the server goes on until it is drained.
    pub fn begin_stop(&mut self) {
        self.stop.take();
    }

    /// Stops the server and waits until it has ended; its data.
    pub async fn stopped(mut self) -> TempDir {
        self.begin_stop();
        let thread = self.thread.take().expect("it runs");
        let joined = tokio::task::spawn_blocking(move || thread.join());
        within("the server's end", joined)
            .await
            .expect("the wait goes on")
            .expect("the server did not panic");
        let empty = tempfile::tempdir().expect("a directory");
        std::mem::replace(&mut self.directory, empty)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Trusts this certificate alone.
pub fn trusting(pem: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).expect("a certificate")).expect("a root");
    rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has the default versions")
    .with_root_certificates(roots)
    .with_no_client_auth()
}
