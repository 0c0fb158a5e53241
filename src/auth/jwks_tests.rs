//! Key sets against a small server on loopback.

use super::*;
use crate::auth::testing::*;
use crate::auth::{AuthError, Authenticator};
use serde_json::json;
use std::sync::atomic::AtomicUsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request with the same text until that is changed, and counts the requests.
#[derive(Clone)]
struct KeyServer {
    url: Url,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/keys", listener.local_addr().unwrap())).unwrap();
        let server = Self { url, answer: Arc::default(), requests: Arc::default() };
        server.serve_keys(keys);
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                if stream.read(&mut request).await.unwrap_or(0) == 0 {
                    continue;
                }
                serving.requests.fetch_add(1, Ordering::SeqCst);
                let answer = serving.answer.lock().unwrap().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        server
    }

    fn serve_keys(&self, keys: &[Value]) {
        self.serve("200 OK", "", &json!({"keys": keys}).to_string());
    }

    fn serve(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        );
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn settings(servers: &[&KeyServer]) -> AuthSettings {
    let jwks_urls = servers.iter().map(|server| server.url.clone()).collect();
    AuthSettings { jwks_urls, jwks_allow_private: true, ..AuthSettings::default() }
}

/// An authenticator whose sources may be asked as often as wanted, and never refresh by themselves.
fn impatient(servers: &[&KeyServer]) -> Authenticator {
    with_pace(
        servers,
        Pace { refetch: Duration::ZERO, first: Duration::ZERO, refresh: Duration::MAX },
    )
}

fn with_pace(servers: &[&KeyServer], pace: Pace) -> Authenticator {
    let mut authenticator = authenticator(settings(servers));
    let inner = Arc::get_mut(&mut authenticator.0).unwrap();
    for source in &mut inner.sources {
        Arc::get_mut(source).unwrap().pace = pace;
    }
    authenticator
}

fn named(signer: &Signer, id: &str) -> (Value, String) {
    (signer.jwk(json!({"kid": id})), signer.sign(&json!({"kid": id}), &alice()))
}

const WRONG: AuthError =
    AuthError::Invalid("the signature does not verify with any key of this server");

#[tokio::test]
async fn keys_of_every_public_family_are_fetched_once() {
    let (rsa, p256) = (Signer::rsa(jsonwebtoken::Algorithm::PS256), Signer::p256());
    let server =
        KeyServer::start(&[rsa.jwk(json!({})), p256.jwk(json!({"kid": "e", "use": "sig"}))]).await;
    let authenticator = authenticator(settings(&[&server]));
    for token in
        [rsa.token(), p256.token(), named(&p256, "e").1, named(&rsa, "unnamed in the set").1]
    {
        authenticator.verify(&token).await.unwrap();
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_new_key_is_fetched_and_an_old_one_is_forgotten() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let ((old_key, old_token), (new_key, new_token)) = (named(&old, "1"), named(&new, "2"));
    let server = KeyServer::start(&[old_key]).await;
    let authenticator = authenticator(settings(&[&server]));
    let before = authenticator.verify(&old_token).await.unwrap();
    server.serve_keys(&[new_key]);
    authenticator.verify(&old_token).await.unwrap();
    authenticator.verify(&new_token).await.unwrap();
    assert_eq!(
        authenticator.verify(&old_token).await.unwrap_err(),
        WRONG,
        "the cache must forget it too"
    );
    assert!(!before.key.is_withdrawn(), "open sockets stay until their token ends");
}

#[tokio::test]
async fn unknown_keys_cause_at_most_one_fetch_a_minute() {
    let (known, stranger) = (Signer::p256(), Signer::p256());
    let (key, token) = named(&known, "1");
    let server = KeyServer::start(&[key]).await;
    let authenticator = authenticator(settings(&[&server]));
    authenticator.verify(&token).await.unwrap();
    for id in 0..20 {
        assert_eq!(
            authenticator.verify(&named(&stranger, &format!("x{id}")).1).await.unwrap_err(),
            WRONG
        );
    }
    assert_eq!(server.requests(), 2, "the first fetch, and one for the unknown");
    assert_eq!(authenticator.verify(&named(&stranger, "1").1).await.unwrap_err(), WRONG);
    let hs256 = Signer::secret(SECRET).sign(&json!({"kid": "y"}), &alice());
    assert_eq!(authenticator.verify(&hs256).await.unwrap_err(), WRONG);
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_fetch() {
    let signer = Signer::p256();
    let (key, token) = named(&signer, "1");
    let server = KeyServer::start(&[key]).await;
    let authenticator = impatient(&[&server]);
    let outcomes =
        futures_util::future::join_all((0..50).map(|_| authenticator.verify(&token))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn the_last_good_set_stays_while_the_url_answers_anything_else() {
    let signer = Signer::p256();
    let (key, token) = named(&signer, "1");
    let server = KeyServer::start(std::slice::from_ref(&key)).await;
    let authenticator = impatient(&[&server]);
    authenticator.verify(&token).await.unwrap();
    let padded = json!({"keys": [key], "pad": "x".repeat(65_536)}).to_string();
    let location = format!("Location: {}\r\n", server.url);
    let stranger = named(&Signer::p256(), "2").1;
    for (status, headers, body) in [
        ("500 Oops", "", "{}"),
        ("302 Found", location.as_str(), ""),
        ("200 OK", "", "not json"),
        ("200 OK", "", "[]"),
        ("200 OK", "", padded.as_str()),
    ] {
        server.serve(status, headers, body);
        let before = server.requests();
        assert_eq!(
            authenticator.verify(&stranger).await.unwrap_err(),
            AuthError::KeysUnavailable,
            "{status}"
        );
        assert_eq!(server.requests(), before + 1, "{status}: no redirect is followed");
        let fresh =
            signer.sign(&json!({"kid": "1"}), &alice_with(json!({"jti": format!("{before}")})));
        authenticator.verify(&fresh).await.unwrap();
    }
}

#[tokio::test]
async fn a_set_of_64_kib_is_read_and_one_byte_more_is_not() {
    for (size, accepted) in [(65_536, true), (65_537, false)] {
        let signer = Signer::p256();
        let (key, token) = named(&signer, "1");
        let server = KeyServer::start(&[]).await;
        let bare = json!({"keys": [key], "pad": ""}).to_string().len();
        server.serve(
            "200 OK",
            "",
            &json!({"keys": [key], "pad": "x".repeat(size - bare)}).to_string(),
        );
        assert_eq!(impatient(&[&server]).verify(&token).await.is_ok(), accepted, "{size}");
    }
}

#[tokio::test]
async fn a_url_that_was_never_reached_is_no_fault_of_the_token() {
    let server = KeyServer::start(&[]).await;
    server.serve("503 Later", "", "");
    let mut settings = settings(&[&server]);
    settings.secret = Some(SECRET.to_vec());
    let authenticator = authenticator(settings);
    assert_eq!(
        authenticator.verify(&Signer::p256().token()).await.unwrap_err(),
        AuthError::KeysUnavailable
    );
    authenticator.verify(&Signer::secret(SECRET).token()).await.unwrap();
}

#[tokio::test]
async fn an_old_set_is_refreshed_in_the_background() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let ((old_key, old_token), (new_key, _)) = (named(&old, "1"), named(&new, "2"));
    let server = KeyServer::start(&[old_key]).await;
    let pace = Pace { refetch: Duration::ZERO, first: Duration::ZERO, refresh: Duration::ZERO };
    let authenticator = with_pace(&[&server], pace);
    authenticator.verify(&old_token).await.unwrap();
    server.serve_keys(&[new_key]);
    let gone = async {
        while authenticator.verify(&old_token).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the old key stayed");
}

#[tokio::test]
async fn two_sources_may_use_the_same_kid() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let ((one_key, one_token), (two_key, two_token)) = (named(&one, "1"), named(&two, "1"));
    let servers = [KeyServer::start(&[one_key]).await, KeyServer::start(&[two_key]).await];
    let authenticator = authenticator(settings(&[&servers[0], &servers[1]]));
    authenticator.verify(&one_token).await.unwrap();
    authenticator.verify(&two_token).await.unwrap();
}

#[test]
fn a_jwk_is_used_only_for_what_it_says() {
    let (rsa, p256) = (Signer::rsa(jsonwebtoken::Algorithm::RS256), Signer::p256());
    let token = rsa.token();
    let verifies = |fields: Value| {
        let token = Token::parse(&token).unwrap();
        Key::from_jwk(&rsa.jwk(fields)).is_some_and(|key| key.verifies(&token))
    };
    for fields in [
        json!({}),
        json!({"alg": "RS256", "use": "sig"}),
        json!({"key_ops": ["verify", "x"], "x5c": 1}),
    ] {
        assert!(verifies(fields.clone()), "{fields}");
    }
    for fields in [
        json!({"alg": "PS256"}),
        json!({"alg": "HS256"}),
        json!({"alg": "RSA-OAEP"}),
        json!({"alg": 1}),
        json!({"use": "enc"}),
        json!({"use": 1}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": "verify"}),
        json!({"kid": 1}),
        json!({"n": "AQAB"}),
        json!({"n": "!"}),
        json!({"kty": "oct", "k": "c2VjcmV0"}),
    ] {
        assert!(!verifies(fields.clone()), "{fields}");
    }
    assert!(Key::from_jwk(&p256.jwk(json!({"crv": "P-384"}))).is_none());
    assert!(Key::from_jwk(&p256.jwk(json!({"crv": "Ed25519"}))).is_none());
    assert!(Key::from_jwk(&p256.jwk(json!({"y": "AAAA"}))).is_none());
    assert!(Key::from_jwk(&json!("key")).is_none());
    let oct = json!({"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"});
    assert!(Key::from_jwk(&oct).is_none());
}
