//! Files that change under a running service, and SIGHUP, which has them read again.

use crate::command_line::{Client, Herald, ca, data_directory, herald};
use crate::support::tokens::SECRET;
use crate::support::{Token, postgres, token, within};
use futures_util::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::protocol::Message;

const OTHER_SECRET: &str = "another-secret-of-the-tests-with-more-than-32-bytes";
const READ: &str = "the signing keys were read again";
const NOT_READ: &str = "the signing keys cannot be read again; the old ones stay in use";

/// A Herald that reads its secret and two public keys from files, with an instance `demo`.
struct Served {
    files: TempDir,
    data: TempDir,
    herald: Herald,
    keys: [KeyPair; 2],
}

impl Served {
    async fn start() -> Self {
        let (files, data) = (data_directory(), data_directory());
        let keys = [0; 2].map(|_| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
        let path = |name: &str| files.path().join(name).display().to_string();
        fs::write(path("secret"), format!("{SECRET}\n")).unwrap();
        for (key, name) in keys.iter().zip(["one.pem", "two.pem"]) {
            fs::write(path(name), key.public_key_pem()).unwrap();
        }
        let public_keys = format!("{},{}", path("one.pem"), path("two.pem"));
        let settings = [
            ("DATABASE_URL", &*postgres::database().await),
            ("HERALD_JWT_SECRET_FILE", &path("secret")),
            ("HERALD_JWT_PUBLIC_KEYS", &public_keys),
        ];
        let herald = Herald::start(data.path(), &settings).await;
        let demo = Some(json!({"id": "demo", "name": "Demo"}));
        let operator = Token::operator().sign();
        let made = herald.call(&ca(&data), "POST", "/v1/instances", &operator, demo).await;
        assert_eq!(made.0, 201, "{}", made.1);
        Self { files, data, herald, keys }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A token of a public key.
    fn signed_by(&self, key: usize) -> String {
        let key = EncodingKey::from_ec_der(&self.keys[key].serialize_der());
        encode(&Header::new(Algorithm::ES256), &component().claims(), &key).unwrap()
    }

    async fn connect(&self, token: &str) -> Client {
        self.herald.connect(&ca(&self.data), token).await
    }

    /// Publishes to everyone: the status, and the code of a refusal.
    async fn publish(&self, token: &str) -> (u16, String) {
        let body = Some(json!({"channel": "ALL", "message": "heard"}));
        let (status, answer) =
            self.herald.call(&ca(&self.data), "POST", "/v1/messages", token, body).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Sends SIGHUP and waits for these words; the log up to there.
    async fn reload(&mut self, words: &str) -> String {
        self.herald.signal(Signal::HUP);
        self.herald.logs(words).await
    }
}

fn component() -> Token {
    token("shop").instances(&["demo"]).component()
}

fn signed_with(secret: &str) -> String {
    component().sign_with(&Header::new(Algorithm::HS256), secret.as_bytes())
}

async fn is_told_that_its_key_is_gone(mut client: Client) {
    let close = within("the close", client.0.next()).await;
    let Some(Ok(Message::Close(Some(close)))) = close else { panic!("{close:?}") };
    assert_eq!(u16::from(close.code), 4401, "{close}");
    assert!(close.reason.starts_with("TOKEN_INVALID: "), "{close}");
}

#[actix_web::test]
async fn tokens_of_a_secret_or_key_that_is_gone_are_refused_and_their_sockets_closed() {
    let mut served = Served::start().await;
    let (first, second) = (served.signed_by(0), served.signed_by(1));
    let mut stays = served.connect(&second).await;
    let open = served.connect(&signed_with(SECRET)).await;
    assert_eq!(served.publish(&signed_with(SECRET)).await.0, 202);
    assert_eq!(served.publish(&signed_with(OTHER_SECRET)).await.0, 401);
    assert_eq!(stays.frame().await["data"], "heard");
    drop(open);

    let open = served.connect(&signed_with(SECRET)).await;
    fs::write(served.file("secret"), OTHER_SECRET).unwrap();
    let said = served.reload(READ).await;
    assert!(!said.contains(SECRET) && !said.contains(OTHER_SECRET), "{said}");
    is_told_that_its_key_is_gone(open).await;
    assert_eq!(served.publish(&signed_with(SECRET)).await, (401, "TOKEN_INVALID".into()));

    let open = served.connect(&first).await;
    fs::remove_file(served.file("one.pem")).unwrap();
    let said = served.reload(READ).await;
    assert!(said.contains("a key file is gone") && said.contains("one.pem"), "{said}");
    is_told_that_its_key_is_gone(open).await;
    assert_eq!(served.publish(&first).await, (401, "TOKEN_INVALID".into()));

    assert_eq!(served.publish(&signed_with(OTHER_SECRET)).await.0, 202);
    assert_eq!(stays.frame().await["data"], "heard");
    assert_eq!(served.herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn a_key_that_is_put_in_the_place_of_another_counts_without_a_restart() {
    let mut served = Served::start().await;
    let [first, second] = [0, 1].map(|key| served.signed_by(key));
    let (open, mut stays) = (served.connect(&first).await, served.connect(&second).await);
    let new = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(served.file("one.pem"), new.public_key_pem()).unwrap();
    served.reload(READ).await;
    is_told_that_its_key_is_gone(open).await;
    served.keys[0] = new;
    assert_eq!(served.publish(&served.signed_by(0)).await.0, 202);
    assert_eq!(stays.frame().await["data"], "heard");
    assert_eq!(served.publish(&first).await.0, 401);
    assert_eq!(served.herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn bad_files_keep_the_old_keys_and_are_logged() {
    let mut served = Served::start().await;
    let tokens = [signed_with(SECRET), served.signed_by(0), served.signed_by(1)];
    let mut open = Vec::new();
    for token in &tokens {
        open.push(served.connect(token).await);
    }
    let (secret, pem) = (fs::read(served.file("secret")).unwrap(), served.file("two.pem"));
    let public_key = fs::read(&pem).unwrap();
    let short = "too-short-and-never-shown";
    for (file, content) in [
        ("secret", short.as_bytes()),
        ("secret", b""),
        ("two.pem", b""),
        ("two.pem", served.keys[1].serialize_pem().as_bytes()),
        ("two.pem", &public_key[..60]),
    ] {
        fs::write(served.file(file), content).unwrap();
        let said = served.reload(NOT_READ).await;
        assert!(!said.contains(short) && !said.contains(SECRET) && !said.contains("PRIVATE"));
        fs::write(served.file("secret"), &secret).unwrap();
        fs::write(&pem, &public_key).unwrap();
    }
    for name in ["secret", "one.pem", "two.pem"] {
        fs::remove_file(served.file(name)).unwrap();
    }
    let said = served.reload(NOT_READ).await;
    assert!(said.contains("there is no key to verify tokens with"), "{said}");
    for token in &tokens {
        assert_eq!(served.publish(token).await.0, 202);
        for client in &mut open {
            assert_eq!(client.frame().await["data"], "heard");
        }
    }
    assert_eq!(served.herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn the_certificate_is_read_again_and_a_bad_one_keeps_the_old() {
    let files = data_directory();
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&certificate, pair.cert.pem()).unwrap();
    fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let settings = [
        ("DATABASE_URL", &*postgres::database().await),
        ("HERALD_JWT_SECRET", SECRET),
        ("HERALD_TLS_CERT", certificate.to_str().unwrap()),
        ("HERALD_TLS_KEY", key.to_str().unwrap()),
    ];
    let data = data_directory();
    let mut herald = Herald::start(data.path(), &settings).await;
    herald.signal(Signal::HUP);
    herald.logs("the TLS certificate was read again").await;
    fs::write(&certificate, "no certificate").unwrap();
    herald.signal(Signal::HUP);
    herald.logs("the TLS certificate cannot be read again; the old one stays in use").await;
    let pem = pair.cert.pem();
    let operator = Token::operator().sign();
    assert_eq!(herald.call(pem.as_bytes(), "GET", "/v1/instances", &operator, None).await.0, 200);
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn the_databases_url_may_lie_in_a_file() {
    let files = data_directory();
    let (path, bad) = (files.path().join("url"), files.path().join("bad"));
    fs::write(&path, postgres::database().await + "\n").unwrap();
    fs::write(&bad, "no URL: hunter2").unwrap();
    let data = data_directory();
    let settings = [("DATABASE_URL_FILE", path.to_str().unwrap()), ("HERALD_JWT_SECRET", SECRET)];
    let mut herald = Herald::start(data.path(), &settings).await;
    assert!(!data.path().join("postgres").exists());
    herald.signal(Signal::HUP);
    herald.logs("the database's URL was read again").await;
    fs::copy(&bad, &path).unwrap();
    herald.signal(Signal::HUP);
    let said = herald.logs("the database's URL cannot be read again; the old one stays").await;
    assert!(!said.contains("hunter2"), "{said}");
    let operator = Token::operator().sign();
    let (status, _) = herald.call(&ca(&data), "GET", "/v1/instances", &operator, None).await;
    assert_eq!(status, 200);
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn check_reads_the_files_of_secrets_and_refuses_one_beside_the_plain_one() {
    let files = data_directory();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, short) = (write("good", SECRET), write("short", "hunter2\n"));
    let url = write("url", "no URL: hunter2");
    let beside = [("HERALD_JWT_SECRET_FILE", &*good), ("HERALD_JWT_SECRET", SECRET)];
    for (settings, code, words) in [
        (&beside[..1], 0, "The configuration is good."),
        (&beside, 2, "HERALD_JWT_SECRET and HERALD_JWT_SECRET_FILE are both set"),
        (&[("HERALD_JWT_SECRET_FILE", &*short)], 1, "HERALD_JWT_SECRET_FILE holds 7 bytes"),
        (
            &[("HERALD_JWT_SECRET_FILE", "/nowhere/secret")],
            1,
            "HERALD_JWT_SECRET_FILE: /nowhere/secret cannot be read",
        ),
        (&[("HERALD_JWT_SECRET", "hunter2")], 1, "HERALD_JWT_SECRET holds 7 bytes"),
        (&[("DATABASE_URL", "no URL: hunter2")], 1, "DATABASE_URL holds no Postgres URL"),
        (&[("HERALD_JWT_PUBLIC_KEYS", "/nowhere/key")], 1, "HERALD_JWT_PUBLIC_KEYS: /nowhere/key"),
        (
            &[("DATABASE_URL_FILE", "/nowhere/url")],
            1,
            "DATABASE_URL_FILE: /nowhere/url cannot be read",
        ),
        (&[("DATABASE_URL_FILE", &*url)], 1, "DATABASE_URL_FILE holds no Postgres URL"),
    ] {
        let output = herald(&["check"]).envs(settings.iter().copied()).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
    }
}
