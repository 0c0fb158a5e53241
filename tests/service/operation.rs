//! Operating: metrics, certificates that change, the proxy listener, shut-down.

use crate::command_line::{Client, Herald, development_token};
use crate::support::raw::RawSocket;
use crate::support::socket::{Handshake, Socket, connect_tls};
use crate::support::{App, Options, Token, postgres, token, trusting, within};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, client_async};

/// Asks the metrics listener: status and text.
async fn ask_operators_listener(app: &App, path: &str) -> (u16, String) {
    let url = format!("http://127.0.0.1:{}{path}", app.metrics_port);
    let answer = app.http.get(url).send().await.expect("the metrics listener answers");
    (answer.status().as_u16(), answer.text().await.expect("the body comes whole"))
}

/// What a socket hears from the shut-down on: the waiting message, when to come back, and the close
/// code.
async fn last_words(mut socket: Socket) -> (Value, u64, u16) {
    let message = socket.data().await;
    let farewell = socket.frame().await;
    assert_eq!(farewell["type"], "RECONNECT", "{farewell}");
    let (code, _) = socket.closed().await;
    while socket.message().await.is_some() {}
    (message, farewell["afterMs"].as_u64().expect("milliseconds"), code)
}

#[actix_web::test]
async fn a_shut_down_delivers_what_waits_and_tells_a_thousand_when_to_come_back() {
    let options = Options::default()
        .with("HERALD_CONNECTIONS_PER_ADDRESS", 2_000)
        .with("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", 100_000);
    let mut app = App::launch(options, postgres::database().await).await;
    app.create_instance("main", json!({"connectsPerSecond": 100_000})).await;
    let users = (0..1_000).map(|number| token(&format!("user-{number}")));
    let opened =
        stream::iter(users).map(async |user| app.connect(&user).await).buffer_unordered(32);
    let sockets: Vec<Socket> = opened.collect().await;
    let connected_before = connect_tls(&app).await;
    assert_eq!(app.publish("ALL", json!("the last")).await["queued"], 1_000);

    app.begin_stop();
    let over = async {
        let mut answer = (200, String::new());
        while answer.0 == 200 {
            answer = ask_operators_listener(&app, "/readyz").await;
        }
        let readiness: Value = serde_json::from_str(&answer.1).expect("JSON");
        assert_eq!(answer.0, 503);
        assert_eq!((&readiness["ready"], &readiness["accepting"]), (&json!(false), &json!(false)));
        let url = format!("wss://localhost/?instance=main&authorization={}", token("late").sign());
        let (mut late, _) = within("the handshake", client_async(url, connected_before))
            .await
            .expect("it is told why");
        let close = within("the close", late.next()).await;
        let is_told = matches!(&close, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1012);
        assert!(is_told, "{close:?}");
        drop(late);
        let ready = app.send(app.request("GET", "/readyz"), 503).await;
        assert_eq!(ready.body["ready"], false);
        assert_eq!(
            app.open(&token("newcomer"), "").await.closed().await.0,
            1012,
            "a node that goes away takes nobody"
        );
        let heard = join_all(sockets.into_iter().map(last_words)).await;
        app.stopped().await;
        heard
    };
    let heard = tokio::time::timeout(Duration::from_secs(12), over)
        .await
        .expect("a shut-down takes 10 s at most");
    assert!(
        heard.iter().all(|(message, after, code)| message == "the last"
            && *after <= 60_000
            && *code == 1012)
    );
    let moments: BTreeSet<u64> = heard.iter().map(|(_, after, _)| *after).collect();
    assert!(moments.len() >= 100, "they all come back at once: {moments:?}");
}

/// What a page says of a series, its labels included.
fn value(page: &str, series: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a number")
}

#[actix_web::test]
async fn the_metrics_count_exactly_what_happened() {
    let options = Options::default()
        .with("HERALD_OUTBOX_BYTES", 131_072)
        .with("HERALD_SEND_BUFFER_BYTES", 16_384);
    let app = App::launch(options, postgres::database().await).await;
    app.create_instance("main", json!({"componentPayloadBytes": 60_000})).await;
    app.create_instance("side", json!({})).await;
    let mut fast = app.connect(&token("fast")).await;
    let mut slow = RawSocket::connect(&app, &token("slow").sign()).await;
    assert_eq!(value(&app.metrics().await, "herald_connections{instance=\"main\"}"), 2.0);

    let (mut sent, mut dropped) = (0.0, false);
    while !dropped {
        dropped = app.publish("ALL", json!("x".repeat(50_000))).await["dropped"] == 1;
        fast.data().await;
        sent += 1.0;
    }
    let elsewhere = token("publisher").component().instances(&["side"]).sign();
    let request =
        app.request("POST", "/v1/messages").header("instance", "side").bearer_auth(elsewhere);
    app.send(request.json(&json!({"channel": "ALL", "message": 1})), 202).await;
    let (shop, only_asked) = (token("shop").component(), json!({"channel": "ALL", "message": 1}));
    app.call("POST", "/v1/messages?dryRun=true", Some(&shop), Some(only_asked), 202).await;
    let unknown = Some(json!({"channel": "channel:nowhere", "message": 1}));
    app.call("POST", "/v1/messages", Some(&token("publisher").component()), unknown, 404).await;
    app.call("GET", "/v1/channels/news", None, None, 401).await;
    assert_eq!(app.open(&token("late").expires_in(-60), "").await.closed().await.0, 4401);
    assert_eq!(slow.close_code().await, Some(4420));
    slow.ended().await;

    let is_over = |page: &str| {
        value(page, "herald_open_connections") == 1.0 && value(page, "herald_outbox_bytes") == 0.0
    };
    let over = async { while !is_over(&app.metrics().await) {} };
    within("the slow one's end", over).await;
    let page = app.metrics().await;
    for (series, expected) in [
        ("herald_connections{instance=\"main\"}", 1.0),
        ("herald_messages_total{instance=\"main\"}", sent),
        ("herald_matched_total{instance=\"main\"}", 2.0 * sent),
        ("herald_queued_total{instance=\"main\"}", 2.0 * sent - 1.0),
        ("herald_dropped_total{instance=\"main\"}", 1.0),
        ("herald_messages_total{instance=\"side\"}", 1.0),
        ("herald_matched_total{instance=\"side\"}", 0.0),
        ("herald_requests_total{route=\"/v1/messages\",status=\"2xx\"}", sent + 2.0),
        ("herald_requests_total{route=\"/v1/channels/{name}\",status=\"4xx\"}", 1.0),
        ("herald_refusals_total{code=\"CHANNEL_NOT_FOUND\"}", 1.0),
        ("herald_refusals_total{code=\"TOKEN_MISSING\"}", 1.0),
        ("herald_refusals_total{code=\"TOKEN_EXPIRED\"}", 1.0),
        // A dry run publishes nothing.
        ("herald_publish_seconds_count", sent + 1.0),
        ("herald_publish_seconds_bucket{le=\"+Inf\"}", sent + 1.0),
        ("herald_postgres_up", 1.0),
    ] {
        assert_eq!(value(&page, series), expected, "{series}\n{page}");
    }
    assert!(value(&page, "herald_catalog_age_seconds") >= 0.0);
    assert!(page.ends_with("# EOF\n"));
}

#[actix_web::test]
async fn operators_and_clients_have_listeners_of_their_own() {
    let app = App::start().await;
    for (path, status) in
        [("/metrics", 200), ("/healthz", 200), ("/readyz", 200), ("/v1/channels", 404), ("/", 404)]
    {
        assert_eq!(ask_operators_listener(&app, path).await.0, status, "{path}");
    }
    for (path, status) in [("/metrics", 404), ("/healthz", 200), ("/readyz", 200)] {
        app.send(app.request("GET", path), status).await;
    }
}

/// The certificate that a new client is shown, which must be `expected`.
async fn is_shown(port: u16, expected: &rcgen::CertifiedKey<KeyPair>) -> bool {
    let connector = TlsConnector::from(Arc::new(trusting(expected.cert.pem().as_bytes())));
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    let handshake = connector.connect("localhost".try_into().unwrap(), tcp);
    let Ok(tls) = within("a TLS session", handshake).await else { return false };
    assert_eq!(tls.get_ref().1.peer_certificates().unwrap(), [expected.cert.der().clone()]);
    true
}

#[actix_web::test]
async fn a_replaced_certificate_is_shown_to_newcomers_and_open_sockets_stay() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let [first, second] =
        [0; 2].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    std::fs::write(&certificate, first.cert.pem()).unwrap();
    std::fs::write(&key, first.signing_key.serialize_pem()).unwrap();
    let settings = [
        ("DATABASE_URL", &*postgres::database().await),
        ("HERALD_TLS_CERT", certificate.to_str().unwrap()),
        ("HERALD_TLS_KEY", key.to_str().unwrap()),
    ];
    let mut herald = Herald::start(data.path(), &settings).await;
    let alice = development_token(data.path(), &["--user", "alice"]).await;
    let mut socket = herald.connect(first.cert.pem().as_bytes(), &alice).await;

    std::fs::write(&certificate, second.cert.pem()).unwrap();
    herald.logs("the TLS certificate cannot be read again").await;
    assert!(is_shown(herald.port, &first).await && !is_shown(herald.port, &second).await);
    std::fs::write(&key, second.signing_key.serialize_pem()).unwrap();
    within("the new certificate", async { while !is_shown(herald.port, &second).await {} }).await;
    assert!(!is_shown(herald.port, &first).await);
    socket.send("PING").await;
    assert_eq!(socket.frame().await["type"], "PONG");
    drop(socket);
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

const HTTPS: (&str, &str) = ("x-forwarded-proto", "https");

fn behind_proxies(trusted: &str) -> Options {
    Options::default()
        .with("HERALD_PROXY_LISTEN", "127.0.0.1:0")
        .with("HERALD_TRUSTED_PROXIES", trusted)
}

/// A request as a proxy would hand it on.
fn proxied(app: &App, method: &str, path: &str) -> reqwest::RequestBuilder {
    let url =
        format!("http://127.0.0.1:{}{path}", app.proxy_port.expect("there is a proxy listener"));
    app.http.request(method.parse().unwrap(), url).header("instance", "main")
}

/// Connects as a proxy would for a client; the status of a refusal.
async fn connect_proxied(app: &App, headers: &[(&str, &str)]) -> Result<Client, u16> {
    let url = format!("ws://localhost/?instance=main&authorization={}", token("alice").sign());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request
            .headers_mut()
            .append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let tcp = TcpStream::connect(("127.0.0.1", app.proxy_port.unwrap()))
        .await
        .expect("the server listens");
    match within("the handshake", client_async(request, MaybeTlsStream::Plain(tcp))).await {
        Ok((socket, _)) => Ok(Client(socket)),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("the handshake broke: {error}"),
    }
}

#[actix_web::test]
async fn the_proxy_listener_serves_https_that_a_proxy_ended_and_nothing_else() {
    let app = App::start_with(behind_proxies("127.0.0.1")).await;
    let publisher = token("publisher").component().sign();
    let publish = || {
        let request = proxied(&app, "POST", "/v1/messages").bearer_auth(&publisher);
        request.json(&json!({"channel": "ALL", "message": "through the proxy"}))
    };
    let mut socket = connect_proxied(&app, &[HTTPS]).await.expect("it is let in");
    assert_eq!(socket.frame().await["type"], "CONNECTED");
    let sent = app.send(publish().header(HTTPS.0, HTTPS.1), 202).await;
    assert_eq!(
        (&sent.body["queued"], sent.header("strict-transport-security")),
        (&json!(1), "max-age=31536000")
    );
    assert_eq!(socket.frame().await["data"], "through the proxy");

    assert_eq!(app.send(publish(), 426).await.code(), "TLS_REQUIRED");
    app.send(publish().header("forwarded", "proto=https"), 426).await;
    assert_eq!(connect_proxied(&app, &[("x-forwarded-proto", "http")]).await.err(), Some(426));
    let strangers = App::start_with(behind_proxies("10.0.0.1")).await;
    for path in ["/", "/healthz", "/v1/channels"] {
        let refused =
            strangers.send(proxied(&strangers, "GET", path).header(HTTPS.0, HTTPS.1), 426).await;
        assert_eq!(refused.code(), "TLS_REQUIRED", "{path}");
    }
    assert_eq!(connect_proxied(&strangers, &[HTTPS]).await.err(), Some(426));
}

#[actix_web::test]
async fn behind_proxies_the_client_is_the_rightmost_address_that_is_no_proxy() {
    let options = behind_proxies("127.0.0.1,10.0.0.0/8").with("HERALD_CONNECTIONS_PER_ADDRESS", 1);
    let app = App::start_with(options).await;
    let mut kept = Vec::new();
    for (hops, refused) in [
        ("203.0.113.1", None),
        ("203.0.113.2", None),
        ("203.0.113.1", Some(429)),
        ("198.51.100.7, 203.0.113.1", Some(429)),
        ("198.51.100.7, 203.0.113.1, 10.0.0.5", Some(429)),
        ("203.0.113.1, 203.0.113.3, 10.0.0.5", None),
    ] {
        let answer = connect_proxied(&app, &[HTTPS, ("x-forwarded-for", hops)]).await;
        assert_eq!(answer.as_ref().err(), refused.as_ref(), "{hops}");
        kept.push(answer);
    }
    kept.push(Ok(connect_proxied(&app, &[HTTPS]).await.expect("the proxy itself")));
    let proxies = [HTTPS, ("x-forwarded-for", "10.0.0.9, 10.0.0.5")];
    assert_eq!(
        connect_proxied(&app, &proxies).await.err(),
        Some(429),
        "proxies alone count as the last of them"
    );
    let spoofed = [HTTPS, ("x-forwarded-for", "198.51.100.8"), ("x-forwarded-for", "203.0.113.2")];
    assert_eq!(
        connect_proxied(&app, &spoofed).await.err(),
        Some(429),
        "the last of several headers counts"
    );
    let path = format!("/?instance=main&authorization={}", token("direct").sign());
    let direct =
        Handshake::new(&app, &path).header("x-forwarded-for", "198.51.100.9").send(&app).await;
    assert_eq!(
        direct.err().map(|answer| answer.status().as_u16()),
        Some(429),
        "nobody believes a header over TLS"
    );
}

#[actix_web::test]
async fn plain_http_on_the_tls_port_gets_no_answer() {
    let app = App::start().await;
    let mut tcp = TcpStream::connect(("127.0.0.1", app.port)).await.unwrap();
    tcp.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-forwarded-proto: https\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    within("the connection's end", tcp.read_to_end(&mut answer)).await.ok();
    assert!(
        !answer.windows(4).any(|bytes| bytes == b"HTTP"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[actix_web::test]
async fn answers_may_be_read_by_the_origins_that_the_instance_allows() {
    let app = App::start().await;
    let allow = async |version: &str, origins: &[&str]| {
        let request =
            app.request("PUT", "/v1/instances/main").bearer_auth(Token::operator().sign());
        let instance = json!({"name": "main", "origins": origins});
        app.send(request.header("if-match", version).json(&instance), 200).await;
    };
    allow("\"1\"", &["https://good.example"]).await;
    for origin in ["https://good.example", "https://evil.example", "null"] {
        let preflight = app.request("OPTIONS", "/v1/messages").header("origin", origin);
        let answer = app.send(preflight.header("access-control-request-method", "POST"), 204).await;
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert!(
            answer
                .header("access-control-allow-headers")
                .contains("authorization, instance, content-type")
        );
        assert_eq!(answer.header("access-control-allow-credentials"), "");
    }
    let list = |origin: &str| {
        let request =
            app.request("GET", "/v1/channels").header("instance", "main").header("origin", origin);
        request.bearer_auth(Token::admin("root").sign())
    };
    let allowed = app.send(list("https://good.example"), 200).await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://good.example");
    assert_eq!(
        (allowed.header("vary"), allowed.header("access-control-allow-credentials")),
        ("Origin", "")
    );
    let exposed: BTreeSet<&str> =
        allowed.header("access-control-expose-headers").split(", ").collect();
    let promised =
        BTreeSet::from(["ETag", "Location", "Retry-After", "RateLimit", "RateLimit-Policy"]);
    assert!(exposed.is_superset(&promised), "{exposed:?}");
    for origin in
        ["https://evil.example", "https://good.example:444", "http://good.example", "null"]
    {
        let refused = app.send(list(origin), 403).await;
        assert_eq!(
            (refused.code(), refused.header("access-control-allow-origin")),
            ("ORIGIN_FORBIDDEN", "")
        );
    }
    app.call("GET", "/v1/channels", Some(&Token::admin("root")), None, 200).await;
    allow("\"2\"", &["null"]).await;
    assert_eq!(app.send(list("null"), 200).await.header("access-control-allow-origin"), "null");
    app.send(list("https://good.example"), 403).await;
}

#[actix_web::test]
async fn every_answer_has_an_id_and_the_headers_that_protect_browsers() {
    let app = App::start().await;
    let mut ids = BTreeSet::new();
    for (path, status) in
        [("/", 200), ("/docs/", 200), ("/errors/NOT_FOUND", 200), ("/healthz", 200), ("/no", 404)]
    {
        let answer = app.send(app.request("GET", path), status).await;
        assert_eq!(answer.header("strict-transport-security"), "max-age=31536000", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        if answer.header("content-type").starts_with("text/html") {
            assert!(
                answer.header("content-security-policy").starts_with("default-src 'none'"),
                "{path}"
            );
        }
        assert!(ids.insert(answer.header("x-request-id").to_owned()), "{path} repeats an id");
    }
    assert!(ids.len() == 5 && !ids.contains(""));
}

/// An identity provider: answers with a key set, or hangs up while it has none.
#[derive(Default)]
struct KeyServer {
    set: Mutex<Option<Value>>,
    asked: AtomicUsize,
}

impl KeyServer {
    async fn answer(self: Arc<Self>, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0)
            {}
            let Some(body) = self.set.lock().unwrap().as_ref().map(ToString::to_string) else {
                continue;
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await.ok();
        }
    }

    fn has(&self, key: &EncodingKey, id: &str) {
        let mut jwk = json!(Jwk::from_encoding_key(key, Algorithm::ES256).unwrap());
        jwk["kid"] = id.into();
        *self.set.lock().unwrap() = Some(json!({"keys": [jwk]}));
    }
}

/// Calls with a token of the identity provider; the problem's code.
async fn sign_in(app: &App, key: &EncodingKey, id: &str, status: u16) -> String {
    let header = Header { kid: Some(id.into()), ..Header::new(Algorithm::ES256) };
    let signed = encode(&header, &Token::admin("root").claims(), key).unwrap();
    let request = app.request("GET", "/v1/channels").header("instance", "main").bearer_auth(signed);
    app.send(request, status).await.code().to_owned()
}

#[actix_web::test]
async fn key_sets_may_change_and_outlive_the_absence_of_their_url() {
    let [old, new, stranger] = [0; 3].map(|_| {
        let pem = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        EncodingKey::from_ec_pem(pem.as_bytes()).unwrap()
    });
    let (provider, listener) =
        (Arc::new(KeyServer::default()), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    provider.has(&old, "old");
    tokio::spawn(provider.clone().answer(listener));
    let options = || {
        Options::default().with("HERALD_JWKS_URLS", &url).with("HERALD_JWKS_ALLOW_PRIVATE", true)
    };
    let (follows, left_behind) =
        (App::start_with(options()).await, App::start_with(options()).await);
    sign_in(&follows, &old, "old", 200).await;
    sign_in(&left_behind, &old, "old", 200).await;
    provider.has(&new, "new");
    sign_in(&follows, &new, "new", 200).await;
    assert_eq!(sign_in(&follows, &old, "old", 401).await, "TOKEN_INVALID");
    let asked = provider.asked.load(Ordering::Relaxed);
    assert_eq!(sign_in(&follows, &stranger, "stranger", 401).await, "TOKEN_INVALID");
    assert_eq!(
        provider.asked.load(Ordering::Relaxed),
        asked,
        "an unknown key is looked for once a minute"
    );

    *provider.set.lock().unwrap() = None;
    assert_eq!(sign_in(&left_behind, &new, "new", 503).await, "OVERLOADED");
    assert!(provider.asked.load(Ordering::Relaxed) > asked, "the URL was asked in vain");
    sign_in(&left_behind, &old, "old", 200).await;
    sign_in(&follows, &new, "new", 200).await;
}
