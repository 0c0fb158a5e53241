//! The binary: its commands, its settings, its private Postgres.

use crate::support::{Token, postgres, tokens, trusting, within};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, Header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

/// A database that nobody serves: whoever comes to ask it came too far.
const NOWHERE: (&str, &str) = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");

/// Arguments for ports that are free, and for the data directory that is to follow.
pub const ANYWHERE: [&str; 5] =
    ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data-dir"];

/// The binary, with nothing of ours in its environment.
pub fn herald(arguments: &[&str]) -> Command {
    herald_by(&[], arguments)
}

/// The same, started by another program such as `nohup`, which is given its path and its arguments.
pub fn herald_by(launcher: &[&str], arguments: &[&str]) -> Command {
    let words = [launcher, &[env!("CARGO_BIN_EXE_herald")], arguments].concat();
    let mut command = Command::new(words[0]);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").args(&words[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command to its end: exit code, standard output, standard error.
async fn run(command: &mut Command) -> (i32, String, String) {
    let output = within("the command's end", command.output()).await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
}

/// Runs a command that must fail and say why in one sentence, the last thing it says.
pub async fn refusal(command: &mut Command, code: i32) -> String {
    let (ended_with, _, said) = run(command).await;
    let sentences: Vec<_> = said.lines().filter(|line| line.starts_with("herald: ")).collect();
    assert_eq!(
        (ended_with, sentences.len(), said.lines().last()),
        (code, 1, sentences.last().copied()),
        "{said}"
    );
    said
}

/// A token signed with the development key of a data directory.
pub async fn development_token(data: &Path, arguments: &[&str]) -> String {
    let (code, token, said) = run(herald(&["token", "--data-dir"]).arg(data).args(arguments)).await;
    assert_eq!(code, 0, "{said}");
    token.trim().to_owned()
}

/// A running binary on ports of its own. Dropping it kills it.
pub struct Herald {
    process: Child,
    /// None where standard output is not the test's to read.
    output: Option<Lines<BufReader<ChildStdout>>>,
    /// None where standard error is not the test's to read.
    log: Option<Lines<BufReader<ChildStderr>>>,
    /// Of the client listener.
    pub port: u16,
}

impl Herald {
    /// Starts it and waits for its greeting.
    pub async fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = herald(&ANYWHERE);
        Self::greeted(command.arg(data).envs(settings.iter().copied())).await
    }

    /// Runs a command that starts it, and waits for its greeting.
    pub async fn greeted(command: &mut Command) -> Self {
        let mut herald = Self::spawn(command, 0);
        let page = herald.prints("Try it").await;
        herald.port =
            page.trim_end_matches('/').rsplit(':').next().expect("a port").parse().expect("a port");
        herald.prints("/metrics").await;
        herald
    }

    /// Runs a command that starts it on this port, and waits until it says that it is ready.
    pub async fn at(command: &mut Command, port: u16) -> Self {
        let mut herald = Self::spawn(command, port);
        herald.logs(" ready ").await;
        herald
    }

    fn spawn(command: &mut Command, port: u16) -> Self {
        let mut process = command.spawn().expect("it runs");
        let output = process.stdout.take().map(|output| BufReader::new(output).lines());
        let log = process.stderr.take().map(|log| BufReader::new(log).lines());
        Self { process, output, log, port }
    }

    /// Waits for a line of its greeting.
    async fn prints(&mut self, words: &str) -> String {
        loop {
            let output = self.output.as_mut().expect("it can be read");
            match within(words, output.next_line()).await.expect("it can be read") {
                Some(line) if line.contains(words) => return line,
                Some(_) => {}
                None => panic!("{words} is not printed: {}", self.rest_of_the_log().await),
            }
        }
    }

    /// Waits for a line of its log; everything up to there that was not read before.
    pub async fn logs(&mut self, words: &str) -> String {
        let log = self.log.as_mut().expect("it can be read");
        let mut text = String::new();
        while !text.contains(words) {
            text += &within(words, log.next_line()).await.expect("it can be read").expect(words);
        }
        text
    }

    async fn rest_of_the_log(&mut self) -> String {
        let mut text = String::new();
        let Some(log) = &mut self.log else { return text };
        while let Some(line) = within("the log", log.next_line()).await.expect("it can be read") {
            text = text + &line + "\n";
        }
        text
    }

    /// Sends a signal and waits for the end; the exit code, if it ended by itself.
    pub async fn end(self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.ended().await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.process.id().expect("it runs"), signal);
    }

    /// Waits for the end; the exit code, if it ended by itself.
    pub async fn ended(mut self) -> Option<i32> {
        let log = self.rest_of_the_log().await;
        let status = within("the end", self.process.wait()).await.expect("a status");
        assert!(!log.contains("panicked"), "{log}");
        status.code()
    }

    /// Calls an operation of `demo`: status and body.
    pub async fn call(
        &self,
        ca: &[u8],
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let certificate = reqwest::Certificate::from_pem(ca).expect("a certificate");
        let client =
            reqwest::Client::builder().tls_certs_only([certificate]).build().expect("a client");
        let url = format!("https://localhost:{}{path}", self.port);
        let mut request = client.request(method.parse().expect("a method"), url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = within("an answer", request.header("instance", "demo").send())
            .await
            .expect("it answers");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Connects to `demo` and reads `CONNECTED`.
    pub async fn connect(&self, ca: &[u8], token: &str) -> Client {
        let url = format!("wss://localhost:{}/?instance=demo&authorization={token}", self.port);
        let connector = Connector::Rustls(Arc::new(trusting(ca)));
        let connect =
            tokio_tungstenite::connect_async_tls_with_config(url, None, false, Some(connector));
        let mut client = Client(within("the handshake", connect).await.expect("it is let in").0);
        assert_eq!(client.frame().await["type"], "CONNECTED");
        client
    }
}

/// An open socket to the binary.
pub struct Client(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        let message =
            within("a frame", self.0.next()).await.expect("it is open").expect("it is open");
        serde_json::from_str(message.to_text().expect("text")).expect("JSON")
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) {
        within("the sending", self.0.send(Message::text(text))).await.expect("it is open");
    }
}

/// Sends a signal to a process.
pub fn kill(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(id.cast_signed()).expect("a process"), signal).expect("it runs");
}

/// A new and empty directory.
pub fn data_directory() -> TempDir {
    tempdir().expect("a directory")
}

/// The CA in a data directory that was served.
pub fn ca(data: &TempDir) -> Vec<u8> {
    std::fs::read(data.path().join("tls/ca.pem")).expect("Herald made a CA")
}

/// The processes of Postgres that serve a data directory: all of them work in its cluster.
pub fn servers(data: &TempDir) -> BTreeSet<u32> {
    let Ok(cluster) = data.path().join("postgres").canonicalize() else { return BTreeSet::new() };
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let works_here =
        |path: &Path| std::fs::read_link(path.join("cwd")).is_ok_and(|folder| folder == cluster);
    let servers = processes.filter(|process| works_here(&process.path()));
    servers.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// The first process of Postgres on a data directory.
pub fn postmaster(data: &TempDir) -> u32 {
    let text = std::fs::read_to_string(data.path().join("postgres/postmaster.pid"))
        .expect("Postgres runs");
    text.lines().next().expect("a line").parse().expect("a process")
}

#[actix_web::test]
async fn nothing_set_is_a_complete_service_whose_line_can_be_pasted() {
    let data = data_directory();
    let mut herald = Herald::start(data.path(), &[]).await;
    let printed = herald.prints("  CA  ").await;
    assert!(printed.contains(&data.path().join("tls/ca.pem").display().to_string()), "{printed}");
    let line = herald.prints("curl ").await;
    let ca = ca(&data);
    let alice = development_token(data.path(), &["--user", "alice"]).await;
    let mut socket = herald.connect(&ca, &alice).await;

    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{line} --silent --show-error --write-out '\\n%{{http_code}}'")]);
    shell.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").kill_on_drop(true);
    let (code, printed, said) = run(&mut shell).await;
    assert_eq!(code, 0, "{said} (without curl: apt-get install curl)");
    let (receipt, status) = printed.rsplit_once('\n').expect("curl adds the status");
    let receipt: Value = serde_json::from_str(receipt).expect("JSON");
    assert_eq!((status, &receipt["matched"]), ("202", &json!(1)));
    assert_eq!(socket.frame().await["data"], json!({"hello": "world!"}));

    let operator = ["--user", "root", "--role", "REALTIME_OPERATOR", "--instance", "*"];
    let operator = development_token(data.path(), &operator).await;
    let (status, instances) = herald.call(&ca, "GET", "/v1/instances", &operator, None).await;
    assert_eq!((status, instances["items"].as_array().unwrap().len()), (200, 1));
    assert_eq!(instances["items"][0]["id"], "demo");
    assert!(!servers(&data).is_empty());
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
    assert_eq!(servers(&data), BTreeSet::new());
}

#[actix_web::test]
async fn a_message_that_was_sent_has_no_line_in_the_log_and_a_refused_one_has() {
    let data = data_directory();
    let mut herald = Herald::start(data.path(), &[]).await;
    let shop = development_token(data.path(), &["--user", "shop", "--component", "shop"]).await;
    let ca = ca(&data);
    for (path, body, expected) in [
        ("/v1/messages", json!({"channel": "ALL", "message": 1}), 202),
        ("/v1/messages/batch", json!({"messages": [{"channel": "ALL", "message": 1}]}), 200),
        ("/v1/messages", json!({"channel": "channel:none", "message": 1}), 404),
    ] {
        let (status, answer) = herald.call(&ca, "POST", path, &shop, Some(body)).await;
        assert_eq!(status, expected, "{answer}");
    }
    let log = herald.logs("CHANNEL_NOT_FOUND").await;
    assert!(
        log.contains("/v1/messages")
            && !log.contains("status=20")
            && !log.contains("/v1/messages/batch"),
        "{log}"
    );
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn a_killed_herald_starts_again_with_its_data_and_no_stray_postgres() {
    let data = data_directory();
    let herald = Herald::start(data.path(), &[]).await;
    let (ca, admin) = (ca(&data), ["--user", "root", "--role", "REALTIME_ADMIN"]);
    let admin = development_token(data.path(), &admin).await;
    let (status, _) =
        herald.call(&ca, "POST", "/v1/channels", &admin, Some(json!({"name": "news"}))).await;
    assert_eq!(status, 201);
    let first = servers(&data);
    assert!(first.contains(&postmaster(&data)));
    assert_eq!(herald.end(Signal::KILL).await, None);

    let herald = Herald::start(data.path(), &[]).await;
    assert!(servers(&data).is_disjoint(&first), "a Postgres of the first life goes on");
    let (status, channel) = herald.call(&ca, "GET", "/v1/channels/news", &admin, None).await;
    assert_eq!((status, &channel["name"]), (200, &json!("news")));
    assert_eq!(herald.end(Signal::INT).await, Some(0));
}

#[actix_web::test]
async fn a_second_herald_on_the_same_data_is_refused_and_the_first_goes_on() {
    let data = data_directory();
    let first = Herald::start(data.path(), &[]).await;
    let serving = postmaster(&data);
    let mut second = herald(&ANYWHERE);
    let said = refusal(second.arg(data.path()), 1).await;
    assert!(said.contains("another herald is already running on the data directory"), "{said}");
    assert!(postmaster(&data) == serving && servers(&data).contains(&serving));
    let alice = development_token(data.path(), &["--user", "alice"]).await;
    first.connect(&ca(&data), &alice).await;
    assert_eq!(first.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn a_port_that_is_taken_is_named_and_postgres_is_not_left_behind() {
    let data = data_directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command =
        herald(&["--listen", &address, "--metrics-listen", "127.0.0.1:0", "--data-dir"]);
    let said = refusal(command.arg(data.path()), 1).await;
    assert!(said.contains(&format!("HERALD_LISTEN: {address} cannot be listened on")), "{said}");
    assert_eq!(servers(&data), BTreeSet::new());
    assert!(!data.path().join("postgres/postmaster.pid").exists());
}

#[actix_web::test]
async fn unknown_and_bad_settings_are_named_and_those_of_others_are_ignored() {
    for (name, value, words) in [
        ("HERALD_LISTENN", "127.0.0.1:0", "HERALD_LISTENN is not a setting"),
        ("HERALD_LISTEN", "here", "HERALD_LISTEN is `here`, but it is an address and a port"),
        ("HERALD_KEEP_ALIVE_SECONDS", "0", "HERALD_KEEP_ALIVE_SECONDS is `0`"),
        ("HERALD_LOG_FORMAT", "xml", "HERALD_LOG_FORMAT is `xml`"),
        ("HERALD_LISTEN", "0.0.0.0:0", "development key"),
        (
            "HERALD_PROXY_LISTEN",
            "127.0.0.1:0",
            "HERALD_PROXY_LISTEN needs a signing key of your own",
        ),
    ] {
        for command in ["serve", "check", "migrate"] {
            let said = refusal(herald(&[command]).env(name, value), 2).await;
            assert!(said.contains(words) && said.lines().count() == 1, "{said}");
        }
    }
    let said = refusal(&mut herald(&["check", "--keep-alive-seconds", "0"]), 2).await;
    assert!(said.contains("HERALD_KEEP_ALIVE_SECONDS is `0`"), "{said}");
    let mut command = herald(&["check"]);
    for name in
        ["SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_8443_TCP", "URL", "TOKEN", "INSTANCE"]
    {
        command.env(format!("HERALD_{name}"), "tcp://10.0.0.1:8443");
    }
    assert_eq!(run(&mut command).await, (0, "The configuration is good.\n".into(), String::new()));
}

#[actix_web::test]
async fn check_reads_the_files_that_are_named() {
    for (settings, words) in [
        (vec![("HERALD_JWT_PUBLIC_KEYS", "/nowhere/key.pem")], "/nowhere/key.pem"),
        (
            vec![("HERALD_TLS_CERT", "/nowhere/c.pem"), ("HERALD_TLS_KEY", "/nowhere/k.pem")],
            "/nowhere/c.pem",
        ),
        (vec![("HERALD_LOG", "=[x")], "HERALD_LOG"),
    ] {
        let said = refusal(herald(&["check"]).envs(settings), 1).await;
        assert!(said.contains(words), "{said}");
    }
}

#[actix_web::test]
async fn secrets_have_no_flag_and_short_ones_are_refused_unseen() {
    let (_, help, _) = run(&mut herald(&["serve", "--help"])).await;
    assert!(help.contains("--jwt-issuer") && help.contains("--data-dir"), "{help}");
    for flag in ["--jwt-secret", "--jwks-urls", "--database-url"] {
        assert!(!help.split_whitespace().any(|word| word == flag), "{flag}");
        assert_eq!(run(&mut herald(&["check", flag, "x"])).await.0, 2, "{flag}");
    }
    let (data, secret) = (data_directory(), "0123456789-tests-0123456789-1234");
    for command in ["check", "serve"] {
        let mut command = herald(&[command, "--data-dir"]);
        let said = refusal(
            command.arg(data.path()).envs([NOWHERE, ("HERALD_JWT_SECRET", &secret[1..])]),
            1,
        )
        .await;
        assert!(
            said.contains("31 bytes") && said.contains("32") && !said.contains(&secret[1..]),
            "{said}"
        );
    }
    let (code, _, said) = run(herald(&["check"]).env("HERALD_JWT_SECRET", secret)).await;
    assert_eq!((code, said.as_str()), (0, ""));
}

#[actix_web::test]
async fn with_a_real_key_the_development_key_opens_nothing() {
    let (data, database) = (data_directory(), postgres::database().await);
    let operator = ["--user", "root", "--role", "REALTIME_OPERATOR", "--instance", "*"];
    let stored = development_token(data.path(), &operator).await;
    let real =
        Token::operator().sign_with(&Header::new(Algorithm::HS256), tokens::SECRET.as_bytes());
    let settings = [("DATABASE_URL", database.as_str()), ("HERALD_JWT_SECRET", tokens::SECRET)];
    let herald_with_key = Herald::start(data.path(), &settings).await;
    let ca = ca(&data);
    let (status, problem) = herald_with_key.call(&ca, "GET", "/v1/instances", &stored, None).await;
    assert_eq!((status, &problem["code"]), (401, &json!("TOKEN_INVALID")));
    let (status, instances) = herald_with_key.call(&ca, "GET", "/v1/instances", &real, None).await;
    assert_eq!(
        (status, &instances["items"]),
        (200, &json!([])),
        "there is no demo with a real key"
    );
    let main = Some(json!({"id": "main", "name": "Main"}));
    assert_eq!(herald_with_key.call(&ca, "POST", "/v1/instances", &real, main).await.0, 201);
    assert_eq!(herald_with_key.end(Signal::TERM).await, Some(0));

    let said =
        refusal(herald(&["token", "--user", "a"]).env("HERALD_JWT_SECRET", tokens::SECRET), 1)
            .await;
    assert!(said.contains("a signing key of your own is configured"), "{said}");
    let key = std::fs::read_to_string(data.path().join("development.key")).unwrap();
    for command in ["check", "serve"] {
        let mut command = herald(&[command, "--data-dir"]);
        let said =
            refusal(command.arg(data.path()).envs([NOWHERE, ("HERALD_JWT_SECRET", key.trim())]), 1)
                .await;
        assert!(
            said.contains("HERALD_JWT_SECRET is the development key") && !said.contains(key.trim()),
            "{said}"
        );
    }
    let herald_without = Herald::start(data.path(), &settings[..1]).await;
    let (_, instances) = herald_without.call(&ca, "GET", "/v1/instances", &stored, None).await;
    let ids: Vec<_> =
        instances["items"].as_array().unwrap().iter().map(|instance| &instance["id"]).collect();
    assert_eq!(ids, [&json!("main")], "demo is made only where there is no instance");
    assert_eq!(herald_without.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn the_documents_need_neither_settings_nor_a_place_to_write() {
    for (arguments, file) in
        [(vec!["openapi"], "openapi.json"), (vec!["openapi", "--operations"], "operations.txt")]
    {
        let mut command = herald(&arguments);
        let (code, text, said) = run(command.env_clear().current_dir("/proc")).await;
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(file);
        assert_eq!((code, said.as_str()), (0, ""));
        assert!(
            text == std::fs::read_to_string(committed).unwrap(),
            "openapi/{file} is not what the binary prints"
        );
    }
}

#[actix_web::test]
async fn migrations_are_applied_once_and_may_be_asked_for_again() {
    let database = postgres::database().await;
    for _ in 0..2 {
        let mut command = herald(&["migrate"]);
        let (code, printed, said) =
            run(command.env("DATABASE_URL", &database).current_dir("/proc")).await;
        assert_eq!((code, printed.as_str()), (0, "The migrations are applied.\n"), "{said}");
    }
}
