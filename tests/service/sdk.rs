//! The package for JavaScript, `sdk/js`, built, in a real Node, against the real server: a message
//! is sent once.

use crate::support::proxy::Proxy;
use crate::support::{App, Options, Socket, Token, token, within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

const INSTALL: &str = "npm --prefix sdk/js ci && npm --prefix sdk/js run build";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn shop() -> Token {
    token("shop").component().instances(&["*"])
}

/// Node with the package, which sends what it is told to.
struct Publisher {
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    token: String,
}

impl Publisher {
    /// Sends to instance `main` through `port`, as the product page does.
    fn start(app: &App, port: u16) -> Self {
        Self::start_with(app, port, "main", "")
    }

    fn start_with(app: &App, port: u16, instance: &str, options: &str) -> Self {
        let built = project().join("sdk/js/dist/index.js");
        assert!(built.exists(), "the package is not built: {INSTALL}");
        let token = shop().sign();
        let mut process = Command::new("node")
            .arg(project().join("sdk/js/test/publisher.mjs"))
            .arg(options)
            .env("HERALD_URL", format!("https://localhost:{port}"))
            .env("HERALD_TOKEN", &token)
            .env("HERALD_INSTANCE", instance)
            .env("NODE_EXTRA_CA_CERTS", app.directory.path().join("tls/ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs: apt-get install nodejs npm");
        let input = process.stdin.take().expect("it is piped");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, input, lines, token }
    }

    async fn tell(&mut self, line: Value) {
        within("node reads", self.input.write_all(format!("{line}\n").as_bytes()))
            .await
            .expect("node goes on");
    }

    async fn send(&mut self, message: impl Into<Value>) {
        self.tell(json!({"channel": "ALL", "message": message.into()})).await;
    }

    /// The next result, which holds no token.
    async fn result(&mut self) -> Value {
        let line = within("a result", self.lines.next_line())
            .await
            .expect("it can be read")
            .expect("node goes on");
        assert!(!line.contains(&self.token), "a token in {line}");
        serde_json::from_str(&line).expect("every result is JSON")
    }

    async fn receipt(&mut self) -> Value {
        let mut result = self.result().await;
        assert!(result["receipt"].is_object(), "{result}");
        result["receipt"].take()
    }

    async fn error(&mut self) -> Value {
        let mut result = self.result().await;
        assert!(result["error"].is_object(), "{result}");
        result["error"].take()
    }

    /// Ends its input; with nothing left to do it ends well.
    async fn ends(self) {
        let Self { mut process, input, .. } = self;
        drop(input);
        assert!(within("node's end", process.wait()).await.expect("a status").success());
    }
}

/// What becomes of answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Every connection's are swallowed: requests get through, and nothing comes back.
    Swallowed,
    /// New connections have theirs; the others are left waiting.
    Late,
    /// New connections have theirs; the others are cut.
    Lost,
}

/// Forwards TCP to the server, and swallows the answers until it is told otherwise.
struct Swallowing {
    port: u16,
    answers: watch::Sender<Answers>,
    _proxy: Proxy,
}

impl Swallowing {
    async fn start(app: &App) -> Self {
        let (answers, told) = watch::channel(Answers::Swallowed);
        let server = app.port;
        let proxy = Proxy::start(move |client| serve(client, server, told.clone())).await;
        Self { port: proxy.port, answers, _proxy: proxy }
    }

    fn answer_now_with(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }
}

async fn serve(mut client: TcpStream, port: u16, mut answers: watch::Receiver<Answers>) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    if *answers.borrow() == Answers::Swallowed {
        tokio::select! {
            () = swallow(&mut client, &mut server) => {}
            _ = answers.wait_for(|answers| *answers == Answers::Lost) => {}
        }
    } else {
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    }
}

/// Forwards the TLS handshake, then only what the client sends, until it goes.
async fn swallow(client: &mut TcpStream, server: &mut TcpStream) {
    let (mut asked, mut answered) = ([0; 16_384], [0; 16_384]);
    // The client speaks again when it has the server's whole part of the handshake (TLS 1.3: RFC
    // 8446, 2).
    let (mut has_answered, mut has_asked_again) = (false, false);
    loop {
        let forwarded = tokio::select! {
            Ok(read @ 1..) = client.read(&mut asked) => {
                has_asked_again = has_answered;
                server.write_all(&asked[..read]).await
            }
            Ok(read @ 1..) = server.read(&mut answered), if !has_asked_again => {
                has_answered = true;
                client.write_all(&answered[..read]).await
            }
            else => return,
        };
        if forwarded.is_err() {
            return;
        }
    }
}

/// Nothing has come to `socket` that it has not seen.
async fn nothing_more(app: &App, socket: &mut Socket) {
    app.publish("ALL", json!("the end")).await;
    assert_eq!(socket.data().await, "the end");
}

#[actix_web::test]
async fn the_call_of_the_product_page_sends() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let mut publisher = Publisher::start(&app, app.port);
    publisher.send(json!({"hello": "world!"})).await;
    let receipt = publisher.receipt().await;
    assert_eq!((&receipt["queued"], &receipt["duplicate"]), (&json!(1), &json!(false)));
    let frame = alice.frame().await;
    assert_eq!((&frame["id"], &frame["data"]), (&receipt["id"], &json!({"hello": "world!"})));
    publisher.ends().await;
}

#[actix_web::test]
async fn the_parameters_arrive() {
    let app = App::start().await;
    let (mut alice, mut bob) =
        (app.connect(&token("alice")).await, app.connect(&token("bob")).await);
    let mut publisher = Publisher::start(&app, app.port);
    let connections = [&bob.connected["connectionId"]];
    let options = json!({"id": "order-1", "ttl": 60, "exclude": {"users": ["carol"], "connections": connections}});
    let line = json!({"channel": "ALL", "message": null, "options": options});
    publisher.tell(line.clone()).await;
    assert_eq!(publisher.receipt().await["matched"], 1);
    let frame = alice.frame().await;
    assert_eq!((&frame["id"], &frame["data"]), (&json!("order-1"), &Value::Null));
    publisher.tell(line).await;
    assert_eq!(publisher.receipt().await["duplicate"], true);
    nothing_more(&app, &mut alice).await;
    assert_eq!(bob.data().await, "the end");
}

#[actix_web::test]
async fn a_message_whose_answer_is_lost_is_sent_once() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let proxy = Swallowing::start(&app).await;
    let mut publisher = Publisher::start(&app, proxy.port);
    publisher.send("once").await;
    let frame = alice.frame().await;
    assert_eq!(frame["data"], "once");
    proxy.answer_now_with(Answers::Lost);
    let receipt = publisher.receipt().await;
    assert_eq!((&receipt["duplicate"], &receipt["id"]), (&json!(true), &frame["id"]));
    nothing_more(&app, &mut alice).await;
}

#[actix_web::test]
async fn a_message_whose_answer_comes_too_late_is_sent_once() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let proxy = Swallowing::start(&app).await;
    let mut publisher = Publisher::start_with(&app, proxy.port, "main", r#"{"timeoutMs": 1000}"#);
    publisher.send("once").await;
    assert_eq!(alice.data().await, "once");
    proxy.answer_now_with(Answers::Late);
    assert_eq!(publisher.receipt().await["duplicate"], true);
    nothing_more(&app, &mut alice).await;
}

#[actix_web::test]
async fn of_many_at_once_each_is_sent_once() {
    const MANY: u64 = 20;
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let proxy = Swallowing::start(&app).await;
    let mut publisher = Publisher::start(&app, proxy.port);
    for n in 0..MANY {
        publisher.send(n).await;
    }
    let mut heard = BTreeSet::new();
    for _ in 0..MANY {
        heard.insert(alice.data().await.as_u64().expect("a number"));
    }
    assert_eq!(heard.len() as u64, MANY);
    proxy.answer_now_with(Answers::Lost);
    let (mut ids, mut duplicates) = (BTreeSet::new(), 0);
    for _ in 0..MANY {
        let receipt = publisher.receipt().await;
        ids.insert(receipt["id"].to_string());
        duplicates += u64::from(receipt["duplicate"] == true);
    }
    assert_eq!((ids.len() as u64, duplicates), (MANY, MANY));
    nothing_more(&app, &mut alice).await;
}

/// Sends until the server answers `status`; how often it did so before it took that message.
async fn refusals(publisher: &mut Publisher, status: u16) -> usize {
    for sent in 1.. {
        publisher.send(sent).await;
        let result = publisher.result().await;
        assert_eq!(result["receipt"]["duplicate"], false, "{result}");
        let statuses = result["statuses"].as_array().expect("a list");
        let refused = statuses.iter().filter(|one| **one == json!(status)).count();
        assert_eq!(refused + sent, statuses.len(), "nothing but 202 and {status}: {result}");
        if refused > 0 {
            return refused;
        }
    }
    unreachable!("it goes on until then")
}

#[actix_web::test]
async fn it_waits_as_long_as_429_says() {
    let app = App::start().await;
    app.create_instance("slow", json!({"messagesPerSecond": 1, "messageBurst": 1})).await;
    let mut publisher = Publisher::start_with(&app, app.port, "slow", "");
    assert_eq!(refusals(&mut publisher, 429).await, 1, "after a second there is room");
}

#[actix_web::test]
async fn it_waits_as_long_as_503_says() {
    let options =
        Options::default().with("HERALD_HISTORY_SECONDS", 2).with("HERALD_REMEMBERED_IDS", 2);
    let app = App::start_with(options).await;
    let mut publisher = Publisher::start(&app, app.port);
    let refusals = refusals(&mut publisher, 503).await;
    assert!(refusals <= 2, "each asks for a second, and the id is forgotten after two: {refusals}");
}

#[actix_web::test]
async fn what_is_refused_is_told_with_its_code() {
    let app = App::start().await;
    let mut publisher = Publisher::start(&app, app.port);
    publisher.tell(json!({"channel": "all", "message": 1, "options": {"id": "mine"}})).await;
    let error = publisher.error().await;
    assert_eq!(
        (&error["name"], &error["code"]),
        (&json!("HeraldError"), &json!("INVALID_REQUEST"))
    );
    assert_eq!((&error["status"], &error["id"]), (&json!(422), &json!("mine")));
    assert_eq!(error["problem"]["errors"][0]["pointer"], "/channel");
    assert_eq!(error["problem"]["detail"], error["detail"]);
    publisher.send("x".repeat(5_000)).await;
    let error = publisher.error().await;
    assert_eq!(
        (&error["code"], &error["problem"]["limit"]),
        (&json!("PAYLOAD_TOO_LARGE"), &json!(4_096))
    );
    let mut stranger = Publisher::start_with(&app, app.port, "elsewhere", "");
    stranger.send(1).await;
    assert_eq!(stranger.error().await["code"], "INSTANCE_NOT_FOUND");
}

#[actix_web::test]
async fn a_signal_ends_what_is_under_way() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let proxy = Swallowing::start(&app).await;
    let mut publisher = Publisher::start(&app, proxy.port);
    publisher.send("under way").await;
    assert_eq!(alice.data().await, "under way");
    publisher.tell(json!({"abort": true})).await;
    assert_eq!(publisher.error().await["name"], "AbortError");
    publisher.ends().await;
    nothing_more(&app, &mut alice).await;
}

#[actix_web::test]
async fn nobody_there_is_told_after_the_deadline() {
    let app = App::start().await;
    let free = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut publisher = Publisher::start_with(&app, port, "main", r#"{"deadlineMs": 500}"#);
    publisher.send(1).await;
    let error = publisher.error().await;
    assert_eq!(error["code"], "UNREACHABLE", "{error}");
    assert!(error["detail"].as_str().expect("text").contains("ECONNREFUSED"), "{error}");
}

#[actix_web::test]
async fn a_certificate_of_an_unknown_ca_is_told_at_once() {
    let (app, other) = (App::start().await, App::start().await);
    let mut publisher = Publisher::start(&other, app.port);
    publisher.send(1).await;
    let error = publisher.error().await;
    assert_eq!((&error["code"], &error["status"]), (&json!("UNREACHABLE"), &Value::Null));
    assert!(error["detail"].as_str().expect("text").contains("certificate"), "{error}");
}

/// The command of `README.md`, but for the address, the CA and the token.
#[actix_web::test]
async fn the_readmes_example_works_as_pasted() {
    let app = App::start().await;
    app.create_instance("demo", json!({})).await;
    let readme = std::fs::read_to_string(project().join("README.md")).expect("there is a README");
    let (_, section) = readme.split_once("## Publish from JavaScript").expect("the section");
    let mut lines = section.lines().skip_while(|line| !line.contains("HERALD_URL="));
    let command: Vec<&str> =
        lines.by_ref().take_while(|line| line.starts_with("    ")).map(str::trim).collect();
    let ca = app.directory.path().join("tls/ca.pem").display().to_string();
    let command = command
        .join("\n")
        .replace(":8443", &format!(":{}", app.port))
        .replace("data/tls/ca.pem", &ca);
    let mut bash = Command::new("bash");
    bash.args(["-c", &command])
        .current_dir(project())
        .env("SHOP", shop().sign())
        .kill_on_drop(true);
    let output = within("the command's end", bash.output()).await.expect("bash runs");
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("duplicate: false"), "{command}\n{text}{errors}");
}
