//! Clients that nobody here wrote: Python's websockets, Node's ws, curl.

use crate::support::{App, token, within};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// A client that prints each frame as a line.
struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(app: &App, program: &str, script: &str, install: &str) -> Self {
        let mut process = Command::new(program)
            .arg(project().join("tests/clients").join(script))
            .arg(format!("wss://localhost:{}/", app.port))
            .arg(app.directory.path().join("tls/ca.pem"))
            .arg(token("alice").sign())
            .arg("main")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not run ({error}): {install}"));
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, lines }
    }

    async fn frame(&mut self) -> Value {
        let line = within("a frame", self.lines.next_line()).await.expect("it can be read");
        serde_json::from_str(&line.expect("the client goes on")).expect("every frame is JSON")
    }

    /// Receives a message, pings, and ends well.
    async fn receives(mut self, app: &App) {
        assert_eq!(self.frame().await["type"], "CONNECTED");
        assert_eq!(app.publish("user:alice", json!({"n": 1.50, "text": "ü"})).await["queued"], 1);
        assert_eq!(self.frame().await["data"], json!({"n": 1.50, "text": "ü"}));
        assert_eq!(self.frame().await["type"], "PONG");
        assert!(within("the client's end", self.process.wait()).await.expect("a status").success());
    }
}

#[actix_web::test]
async fn pythons_websockets_receives() {
    let app = App::start().await;
    let python = project().join("target/clients/bin/python").display().to_string();
    let install = "python3 -m venv target/clients && target/clients/bin/pip install -r tests/clients/requirements.txt";
    Client::start(&app, &python, "receive.py", install).receives(&app).await;
}

#[actix_web::test]
async fn nodes_ws_receives() {
    let app = App::start().await;
    let install = "apt-get install nodejs npm && npm --prefix tests/clients ci";
    Client::start(&app, "node", "receive.mjs", install).receives(&app).await;
}

#[actix_web::test]
async fn curl_follows_a_stream() {
    let app = App::start().await;
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--no-buffer", "--cacert"])
        .arg(app.directory.path().join("tls/ca.pem"))
        .arg(format!("https://localhost:{}/v1/stream?instance=main", app.port))
        .args(["-H", &format!("authorization: Bearer {}", token("alice").sign())])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("curl runs: apt-get install curl");
    let mut lines = BufReader::new(curl.stdout.take().expect("it is piped")).lines();
    let mut until = async |start: &str| loop {
        let line = within(start, lines.next_line())
            .await
            .expect("it can be read")
            .expect("the stream goes on");
        if let Some(rest) = line.strip_prefix(start) {
            break rest.to_owned();
        }
    };
    assert_eq!(until("retry: ").await, "2000");
    until("event: CONNECTED").await;
    assert_eq!(app.publish("user:alice", json!({"n": 1.50})).await["queued"], 1);
    assert!(until("data: {\"type\":\"MESSAGE\"").await.ends_with("\"data\":{\"n\":1.5}}"));
    let mut app = app;
    app.begin_stop();
    assert!(until("data: {\"type\":\"CLOSE\",").await.starts_with("\"code\":1012,"));
    assert!(
        within("curl's end", curl.wait()).await.expect("a status").success(),
        "the stream ends whole"
    );
}

#[actix_web::test]
async fn curl_publishes_and_is_told_of_mistakes() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    let curl = async |token: &str, body: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--cacert"])
            .arg(app.directory.path().join("tls/ca.pem"))
            .arg(format!("https://localhost:{}/v1/messages?instance=main", app.port))
            .args([
                "-H",
                &format!("authorization: {token}"),
                "-H",
                "content-type: application/json",
                "-d",
                body,
            ])
            .output();
        let output = within("curl's end", output).await.expect("curl runs: apt-get install curl");
        let text = String::from_utf8(output.stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').expect("curl adds the status");
        (status.to_owned(), serde_json::from_str::<Value>(body).expect("JSON"))
    };
    let publisher = token("shop").component().sign();
    let (status, receipt) = curl(&publisher, r#"{"channel": "ALL", "message": "from curl"}"#).await;
    assert_eq!((status.as_str(), &receipt["queued"]), ("202", &json!(1)));
    assert_eq!(socket.data().await, "from curl");
    let (status, problem) = curl(&publisher, r#"{"channel": "ALL", "messages": 1}"#).await;
    assert_eq!((status.as_str(), &problem["code"]), ("422", &json!("INVALID_REQUEST")));
    let (status, problem) = curl("nonsense", "{}").await;
    assert_eq!((status.as_str(), &problem["code"]), ("401", &json!("TOKEN_INVALID")));
}
