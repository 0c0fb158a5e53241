//! A token planted everywhere appears nowhere: not in a log at the most verbose level, a metric or
//! an error.

use crate::support::raw::frame;
use crate::support::tokens::{SECRET, Token, token};
use crate::support::{postgres, trusting, within};
use futures_util::StreamExt;
use futures_util::stream::iter;
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines,
};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Not a JWT; longer than anything of the client's own that an error repeats.
const OPAQUE: &str =
    "planted-secret-which-no-log-no-metric-and-no-error-may-show-0123456789-abcdefghijklmnop";
/// What of a secret must not appear anywhere, in bytes.
const PIECE: usize = 16;
/// Exchanges under way at once.
const AT_ONCE: usize = 16;

/// The binary, as a process of its own. Dropping it kills it.
pub struct Herald {
    process: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    greeting: String,
    tls: TlsConnector,
    directory: TempDir,
}

impl Herald {
    /// Starts it with these variables and no others.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_herald")), variables).await
    }

    /// The same by another command.
    pub async fn start_as(mut command: Command, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the server's data");
        let stderr =
            std::fs::File::create(directory.path().join("stderr")).expect("a file for the log");
        let mut process = command
            .env_clear()
            .envs([("HERALD_LISTEN", "127.0.0.1:0"), ("HERALD_METRICS_LISTEN", "127.0.0.1:0")])
            .envs([
                ("HERALD_JWT_SECRET", SECRET),
                ("HERALD_WORKERS", "2"),
                ("HERALD_SHUTDOWN_SECONDS", "3"),
            ])
            .env("HERALD_DATA_DIR", directory.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut greeting = String::new();
        while !greeting.contains("  CA ") {
            let line = within("the greeting", stdout.next_line()).await.expect("text");
            let log =
                || std::fs::read_to_string(directory.path().join("stderr")).unwrap_or_default();
            greeting += &line.unwrap_or_else(|| panic!("the server did not start: {}", log()));
            greeting.push('\n');
        }
        let ca = std::fs::read(directory.path().join("tls/ca.pem")).expect("the server made a CA");
        Self {
            process,
            stdout,
            greeting,
            tls: TlsConnector::from(Arc::new(trusting(&ca))),
            directory,
        }
    }

    /// The process.
    pub fn id(&self) -> i32 {
        self.process.id().expect("it runs") as i32
    }

    /// The port that the greeting shows on the line with this word.
    pub fn port(&self, word: &str) -> u16 {
        let line =
            self.greeting.lines().find(|line| line.contains(word)).expect("a line of the greeting");
        let digits = line.rsplit(':').next().expect("a port").split('/').next();
        digits.and_then(|digits| digits.parse().ok()).expect("a port")
    }

    /// A TCP connection to the port on that line.
    pub async fn connect_plain(&self, word: &str) -> TcpStream {
        let address = ("127.0.0.1", self.port(word));
        within("a TCP connection", TcpStream::connect(address)).await.expect("the server listens")
    }

    /// A TLS connection to the client listener.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        self.agree(self.connect_plain("Try it").await).await.expect("there is a place for it")
    }

    /// TLS over a connection to the client listener. Errors: it was closed.
    pub async fn agree(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = "localhost".try_into().expect("a name");
        within("a TLS session", self.tls.connect(name, tcp)).await
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).expect("the log")
    }

    /// Makes instance `main`.
    pub async fn create_instance(&self) {
        let body = json!({"id": "main", "name": "main"}).to_string();
        let bearer = format!("Bearer {}", Token::operator().sign());
        let request =
            request("POST", "/v1/instances", &[("authorization", bearer.as_str()), JSON], &body);
        let answer = exchange(self.connect().await, &request).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Stops it as an orchestrator would; everything that it ever wrote.
    pub async fn stopped(mut self) -> String {
        let id = rustix::process::Pid::from_raw(self.id()).expect("a process id");
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .expect("the process can be signalled");
        let status = within("the end of the process", self.process.wait()).await.expect("a status");
        let mut written = self.greeting;
        while let Some(line) =
            within("the rest of the output", self.stdout.next_line()).await.expect("text")
        {
            written += &line;
        }
        written += &std::fs::read_to_string(self.directory.path().join("stderr")).expect("the log");
        assert!(status.success(), "{status}: {written}");
        written
    }
}

/// Writes these bytes and reads until the server ends the stream.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    // The server may have refused, and gone, before the end.
    let sent = within("the bytes are taken", stream.write_all(bytes)).await;
    drop(sent.and(within("the bytes are sent", stream.flush()).await));
    let mut answer = Vec::new();
    drop(within("the end of the stream", stream.read_to_end(&mut answer)).await);
    String::from_utf8_lossy(&answer).into_owned()
}

pub type Field<'a> = (&'a str, &'a str);

pub const JSON: Field<'static> = ("content-type", "application/json");
pub const MAIN: Field<'static> = ("instance", "main");

pub fn request(method: &str, target: &str, headers: &[Field<'_>], body: &str) -> Vec<u8> {
    let fields: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length =
        if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let last = if fields.contains("upgrade: ") { "" } else { "connection: close\r\n" };
    format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n{last}{fields}{length}\r\n{body}")
        .into_bytes()
}

/// Tokens that are good, and bad in every way. All are secrets.
fn planted() -> Vec<String> {
    let all = ["REALTIME_CONNECT", "REALTIME_ADMIN"];
    let planted = |user: &str| token(user).roles(&all).component();
    let header = Header::new(Algorithm::HS256);
    let unsigned = planted("unsigned").sign();
    vec![
        OPAQUE.into(),
        planted("good").sign(),
        planted("expired").expires_in(-3_600).sign(),
        planted("foreign").sign_with(&header, b"another-secret-with-more-than-thirty-two-bytes"),
        planted("long").with("padding", "planted-secret-".repeat(600)).sign(),
        planted("stranger").instances(&["elsewhere"]).sign(),
        token("nobody").roles(&[]).sign(),
        unsigned.rsplit_once('.').expect("three parts").0.to_owned() + ".",
    ]
}

/// Requests that the service answers, with `secret` in every place; `carrier` is a good token.
#[expect(clippy::too_many_lines, reason = "a list, with one entry after another")]
fn answered(secret: &str, carrier: &str) -> Vec<Vec<u8>> {
    let (bearer, good) = (format!("Bearer {secret}"), ("authorization", carrier));
    let path = |prefix: &str| format!("{prefix}{secret}");
    let get = |target: &str, headers: &[Field<'_>]| request("GET", target, headers, "");
    let mut all = vec![
        get("/v1/quotas", &[("authorization", &bearer), MAIN]),
        get("/v1/quotas", &[("authorization", &format!("Basic {secret}")), MAIN]),
        get("/v1/quotas", &[("authorization", secret), good, MAIN]),
        get(&path("/v1/quotas?instance=main&authorization="), &[]),
        get(&path("/v1/quotas?instance=main&authorization="), &[good]),
        get("/v1/quotas", &[good, ("instance", secret)]),
        get("/v1/instances", &[("authorization", &bearer)]),
        request("PUT", "/v1/channels/news", &[good, MAIN, JSON, ("if-match", secret)], "{}"),
        request(
            "DELETE",
            "/v1/channels/news",
            &[good, MAIN, ("if-match", &format!("\"{secret}\""))],
            "",
        ),
        request("POST", "/v1/messages", &[good, MAIN, ("content-type", secret)], "{}"),
        request(
            "POST",
            "/v1/messages",
            &[good, MAIN, JSON, ("idempotency-key", secret)],
            "{\"channel\":",
        ),
    ];
    for target in [
        "/v1/channels?limit=",
        "/v1/channels?after=",
        "/v1/channels?x=",
        "/v1/channels?",
        "/v1/channels/",
    ] {
        all.push(get(&path(target), &[good, MAIN]));
    }
    for target in
        ["/v1/messages/", "/v1/messages/x?user=", "/v1/messages/x?", "/v1/connections?user="]
    {
        all.push(get(&path(target), &[good, MAIN]));
    }
    for target in
        ["/v1/messages?explain=", "/v1/messages?dryRun=true&explain=", "/v1/messages?after="]
    {
        all.push(request(
            "POST",
            &path(target),
            &[good, MAIN, JSON],
            "{\"channel\":\"ALL\",\"message\":1}",
        ));
    }
    for target in [
        "/errors/",
        "/pages/",
        "/docs/",
        "/v1/",
        "/",
        "/v1/instances/",
        "/v1/connect?authorization=",
    ] {
        all.push(get(&path(target), &[]));
        all.push(get(&path(target), &[("authorization", &bearer), ("cookie", &path("token="))]));
    }
    for name in [
        "cookie",
        "user-agent",
        "referer",
        "x-request-id",
        "x-forwarded-for",
        "traceparent",
        secret,
    ] {
        all.push(get("/nowhere", &[(name.get(..64).unwrap_or(name), secret)]));
    }
    for (target, body) in bodies(secret) {
        all.push(request("POST", target, &[good, MAIN, JSON], &body));
    }
    all
}

fn bodies(secret: &str) -> Vec<(&'static str, String)> {
    let message = |channel: Value, more: Value| {
        let mut body = json!({"channel": channel, "message": {"token": secret}});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        ("/v1/messages", body.to_string())
    };
    let channel = |body: Value| ("/v1/channels", body.to_string());
    vec![
        message(json!("user:nobody-listens"), json!({})),
        message(json!(secret), json!({})),
        message(json!(format!("channel:{secret}")), json!({})),
        message(json!(format!("user:{secret}")), json!({})),
        message(json!([secret]), json!({})),
        message(json!("ALL"), json!({secret: 1})),
        message(json!("ALL"), json!({"exclude": secret})),
        message(json!("ALL"), json!({"exclude": {secret: secret}})),
        message(json!("ALL"), json!({"exclude": {"users": secret, "connections": [secret]}})),
        message(
            json!("user:nobody-listens"),
            json!({"exclude": {"users": [secret], "connections": [secret]}}),
        ),
        ("/v1/messages", format!("{{\"channel\":\"{secret}")),
        ("/v1/messages", format!("\"{secret}\"")),
        ("/v1/messages", secret.into()),
        ("/v1/messages", format!("{{\"channel\":\"ALL\",\"message\":{secret}}}")),
        (
            "/v1/messages/batch",
            json!({"messages": [{"channel": secret, secret: 1}, secret]}).to_string(),
        ),
        ("/v1/messages/batch", json!({"messages": secret}).to_string()),
        channel(json!({"name": secret})),
        channel(json!({"name": "x", "description": [secret], "enabled": secret})),
        channel(json!({"name": "x", "enabled": secret})),
        channel(json!({"name": "x", "rules": [{"effect": secret, "user": secret}]})),
        channel(json!({"name": "x", "rules": [{"effect": "allow", "when": secret}]})),
        channel(json!({"name": "x", "rules": [{"effect": "allow", secret: secret}]})),
        channel(
            json!({"name": "x", "publishRules": [{"effect": "deny", "when": format!("user == {secret}")}]}),
        ),
        message(json!("ALL"), json!({"filter": secret})),
        message(json!("ALL"), json!({"filter": format!("claims.token == \"{secret}\" &&")})),
        message(json!("ALL"), json!({"filter": format!("groups == \"{secret}\"")})),
        ("/v1/channels/news/explain", json!({"connectionId": secret}).to_string()),
        (
            "/v1/channels/news/explain",
            json!({"userId": secret.repeat(2), "claims": {secret: secret}}).to_string(),
        ),
        (
            "/v1/channels/news/explain",
            json!({"userId": "a", "claims": secret, "groups": [secret]}).to_string(),
        ),
        ("/v1/quota-requests", json!({"limit": secret, "value": secret, "reason": 1}).to_string()),
    ]
}

/// Handshakes with frames behind them; good ones and refused ones.
fn sockets(secret: &str, carrier: &str) -> Vec<Vec<u8>> {
    let short = secret.get(..100).unwrap_or(secret);
    let frames = [
        frame(
            0x81,
            json!({"type": "AUTH", "authorization": format!("Bearer {secret}")})
                .to_string()
                .as_bytes(),
        ),
        frame(0x81, short.as_bytes()),
        frame(0x81, json!({"type": short}).to_string().as_bytes()),
        frame(0x88, &[&4_000u16.to_be_bytes(), short.as_bytes()].concat()),
    ];
    let frames = frames.concat();
    let open = |target: &str, key: &str, fields: &[Field<'_>]| {
        let mut headers = vec![
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
        ];
        headers.push(("sec-websocket-key", key));
        headers.extend_from_slice(fields);
        [request("GET", target, &headers, ""), frames.clone()].concat()
    };
    let (key, good) = ("dGhlIHNhbXBsZSBub25jZQ==", ("authorization", carrier));
    let (offered, protocol) = (format!("herald.v1, bearer.{secret}"), "sec-websocket-protocol");
    vec![
        open("/", key, &[good, MAIN]),
        open("/", secret, &[good, MAIN]),
        open("/", key, &[MAIN, (protocol, &offered)]),
        open("/", key, &[MAIN, (protocol, &offered[11..])]),
        open("/", key, &[good, MAIN, (protocol, secret)]),
        open(&format!("/?instance=main&authorization={secret}"), key, &[]),
        open(&format!("/?instance={secret}&authorization={carrier}"), key, &[]),
        open(&format!("/?channels={secret}&{secret}=1"), key, &[good, MAIN]),
        open(&format!("/v1/connect?channels=%5B{secret}"), key, &[good, MAIN]),
        open(
            "/",
            key,
            &[good, MAIN, ("sec-websocket-version", secret), ("sec-websocket-extensions", secret)],
        ),
    ]
}

/// What is no HTTP.
fn broken(secret: &str) -> Vec<Vec<u8>> {
    let head = format!(
        "POST /v1/messages?authorization={secret} HTTP/1.1\r\nhost: x\r\nauthorization: {secret}\r\n"
    );
    vec![
        format!("{secret}\r\n\r\n").into_bytes(),
        format!("GET /?authorization={secret} HTTP/9.9\r\n\r\n").into_bytes(),
        format!("GET /?authorization={secret} {secret}\r\n\r\n").into_bytes(),
        format!("{secret} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes(),
        format!("{head}authorization {secret}\r\n\r\n").into_bytes(),
        format!("{head}content-length: {secret}\r\n\r\n").into_bytes(),
        format!("{head}transfer-encoding: {secret}\r\n\r\n").into_bytes(),
        format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{secret}\r\n")
            .into_bytes(),
        [head.as_bytes(), b"x: \0\x01", secret.as_bytes(), b"\r\n\r\n"].concat(),
    ]
}

/// The pieces of `text` that are pieces of a secret.
fn leaks(text: &str, secrets: &[String]) -> Vec<String> {
    let parts = secrets.iter().flat_map(|secret| secret.split('.'));
    let pieces: HashSet<&[u8]> = parts.flat_map(|part| part.as_bytes().windows(PIECE)).collect();
    let found = text.as_bytes().windows(PIECE).filter(|piece| pieces.contains(piece));
    found.map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

/// Plants every secret in every place of a server with this format of its log.
#[expect(clippy::too_many_lines, reason = "a list, with one entry after another")]
async fn plant(format: &str, more: &[(&str, &str)], database: &str) {
    let proxies = [("HERALD_PROXY_LISTEN", "127.0.0.1:0"), ("HERALD_TRUSTED_PROXIES", "127.0.0.1")];
    let log = [("HERALD_LOG", "trace,actix_http=trace,sqlx=trace"), ("HERALD_LOG_FORMAT", format)];
    let herald =
        Herald::start(&[&log[..], &proxies, &[("DATABASE_URL", database)], more].concat()).await;
    herald.create_instance().await;
    let carrier =
        token("carrier").roles(&["REALTIME_CONNECT", "REALTIME_ADMIN"]).component().sign();
    let mut secrets = planted();
    let requests: Vec<Vec<u8>> = secrets
        .iter()
        .flat_map(|secret| [answered(secret, &carrier), sockets(secret, &carrier)].concat())
        .collect();
    let by_proxy =
        secrets.iter().map(|secret| request("GET", "/", &[("x-forwarded-for", secret)], ""));
    let by_proxy: Vec<Vec<u8>> =
        by_proxy.chain(secrets.iter().flat_map(|secret| broken(secret))).collect();
    let not_http: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| broken(secret)).collect();

    let send = async |request: &Vec<u8>| exchange(herald.connect().await, request).await;
    let plain = async |word: &str, request: &Vec<u8>| {
        exchange(herald.connect_plain(word).await, request).await
    };
    let answers: Vec<String> = iter(&requests).map(send).buffered(AT_ONCE).collect().await;
    let refusals: Vec<String> = iter(&not_http).map(send).buffered(AT_ONCE).collect().await;
    let words = ["Proxies", "Metrics", "Try it"]
        .map(|word| by_proxy.iter().map(move |request| (word, request)));
    let others = iter(words.into_iter().flatten()).map(|(word, request)| plain(word, request));
    let others: Vec<String> = others.buffered(AT_ONCE).collect().await;
    let metrics = plain("Metrics", &request("GET", "/metrics", &[], "")).await;
    let written = herald.stopped().await;

    secrets.extend([carrier, Token::operator().sign(), SECRET.into()]);
    for (request, answer) in requests.iter().zip(&answers) {
        assert!(
            answer.starts_with("HTTP/1.1 "),
            "no answer to {}: {answer}",
            String::from_utf8_lossy(request)
        );
    }
    for told in ["\"type\":\"ERROR\"", "ONE_DIRECTIONAL", "TOKEN_INVALID", "TOKEN_EXPIRED"] {
        let is_socket =
            |answer: &&String| answer.starts_with("HTTP/1.1 101") && answer.contains(told);
        assert!(
            answers.iter().any(|answer| is_socket(&answer)),
            "no socket was told {told}: its frames were not read"
        );
    }
    let errors = answers
        .iter()
        .chain(&refusals)
        .chain(&others)
        .filter(|answer| !answer.starts_with("HTTP/1.1 2"));
    let errors: Vec<&str> = errors.map(String::as_str).collect();
    assert!(errors.len() > answers.len() / 2, "most of them were refused");
    assert!(metrics.contains("herald_refusals_total{code=\"TOKEN_EXPIRED\"}"), "{metrics}");
    for text in errors.iter().copied().chain([metrics.as_str(), &written]) {
        let found = leaks(text, &secrets);
        let line =
            text.lines().find(|line| found.first().is_some_and(|piece| line.contains(piece)));
        assert!(
            found.is_empty(),
            "{} pieces of secrets, such as in: {}",
            found.len(),
            line.unwrap_or(text)
        );
    }
    assert!(!written.contains(database), "the database's URL is in {written}");
    let told = written
        .lines()
        .filter(|line| line.contains("http.route") && line.contains("http.status"))
        .count();
    assert!(told >= requests.len(), "{told} lines for {} requests", requests.len());
    for verbose in ["DEBUG", "closing a socket", "catalog loaded"] {
        assert!(written.contains(verbose), "the log was not verbose: no {verbose}");
    }
}

#[actix_web::test]
async fn no_secret_is_in_a_log_of_text_in_a_metric_or_in_an_error() {
    let database = format!("{}&password={OPAQUE}&unheard-of={OPAQUE}", postgres::database().await);
    plant("text", &[], &database).await;
}

#[actix_web::test]
async fn no_secret_is_in_a_log_of_json_in_a_metric_or_in_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let passwords = directory.path().join("pgpass");
    std::fs::write(&passwords, format!("{OPAQUE}\nlocalhost:{OPAQUE}\n")).expect("a file");
    let passwords = passwords.display().to_string();
    plant("json", &[("PGPASSFILE", &passwords)], &postgres::database().await).await;
}
