//! Living tokens: told before the end, renewed on the open socket, closed after it.

use crate::documents::assert_described;
use crate::support::{App, Options, Socket, Token, token};
use serde_json::{Value, json};

async fn renew(socket: &mut Socket, token: &Token) -> Value {
    renew_with(socket, &format!("Bearer {}", token.sign())).await
}

async fn renew_with(socket: &mut Socket, authorization: &str) -> Value {
    socket.send(&json!({"type": "AUTH", "authorization": authorization}).to_string()).await;
    socket.frame().await
}

#[actix_web::test]
async fn a_new_token_brings_its_rights_to_the_open_socket() {
    let app = App::start().await;
    let rules = json!([{"effect": "allow", "group": "eng"}]);
    let channel = json!({"name": "news", "rules": rules});
    app.create_channel(channel).await;
    let mut socket = app.connect(&token("alice").groups(&["ops"])).await;
    let answer = renew(&mut socket, &token("alice").groups(&["eng"])).await;
    let heard = json!(["ALL", "user:alice", "group:eng", "channel:news"]);
    assert_eq!(answer, json!({"type": "CHANNELS", "channels": heard}));
    app.publish("group:ops", json!("no more")).await;
    app.publish("news", json!("from now on")).await;
    assert_eq!(socket.data().await, "from now on");
    let same = renew(&mut socket, &token("alice").groups(&["eng"])).await;
    assert_eq!(same["channels"], heard, "a good token is answered even if nothing changed");
    let bare = renew_with(&mut socket, &token("alice").sign()).await;
    assert_eq!(bare["channels"], json!(["ALL", "user:alice"]));
}

#[actix_web::test]
async fn a_new_token_has_at_most_16_kib() {
    let app = App::start().await;
    let alice = token("alice");
    let mut socket = app.connect(&alice).await;
    for (bytes, told) in [(16_383, "CHANNELS"), (16_384, "CHANNELS"), (16_385, "ERROR")] {
        let answer = renew_with(&mut socket, &format!("Bearer {}", alice.sign_to(bytes))).await;
        assert_eq!(answer["type"], told, "{bytes}");
    }
    // The frame itself may have 20 KiB.
    for (bytes, code) in [(20_479, None), (20_480, None), (20_481, Some(1009))] {
        let empty = json!({"type": "AUTH", "authorization": ""}).to_string().len();
        let frame = json!({"type": "AUTH", "authorization": "x".repeat(bytes - empty)}).to_string();
        assert_eq!(frame.len(), bytes);
        socket.send(&frame).await;
        match code {
            None => assert_eq!(socket.frame().await["code"], "TOKEN_INVALID"),
            Some(code) => assert_eq!(socket.closed().await.0, code),
        }
    }
}

#[actix_web::test]
async fn a_bad_token_is_an_error_and_the_old_one_stays() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice").groups(&["eng"])).await;
    let long = "x".repeat(16_385);
    for (authorization, code) in [
        ("nonsense".to_owned(), "TOKEN_INVALID"),
        (token("alice").expires_in(-100).sign(), "TOKEN_EXPIRED"),
        (token("bob").sign(), "AUTH_MISMATCH"),
        (token("alice").instances(&["other"]).sign(), "AUTH_MISMATCH"),
        (long, "TOKEN_INVALID"),
    ] {
        let answer = renew_with(&mut socket, &authorization).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("ERROR"), &json!(code)));
        assert!(!answer.to_string().contains(&authorization));
    }
    app.publish("group:eng", json!("still here")).await;
    assert_eq!(socket.data().await, "still here");
}

#[actix_web::test]
async fn every_renewal_counts_and_beyond_the_rate_the_old_token_stays() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice").groups(&["eng"])).await;
    let (good, bad) = (token("alice").groups(&["eng"]).sign(), token("bob").sign());
    for authorization in [&good, &bad].into_iter().cycle().take(50) {
        let frame = json!({"type": "AUTH", "authorization": authorization});
        socket.send(&frame.to_string()).await;
    }
    let mut refused = 0;
    for at in 0..50 {
        let answer = socket.frame().await;
        if answer["code"] == "RATE_LIMITED" {
            assert_eq!(answer["type"], "ERROR");
            refused += 1;
            continue;
        }
        let expected = if at % 2 == 0 { json!("CHANNELS") } else { json!("ERROR") };
        assert_eq!(answer["type"], expected, "{at}: {answer}");
        assert!(at % 2 == 0 || answer["code"] == "AUTH_MISMATCH", "{answer}");
    }
    assert!((1..=40).contains(&refused), "{refused} of 50 were one too many");
    app.publish("group:eng", json!("still here")).await;
    assert_eq!(socket.data().await, "still here");
}

#[actix_web::test]
async fn a_revoked_token_is_no_good_new_one() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    let expires = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let body = json!({"jti": "stolen", "expiresAt": expires.to_rfc3339()});
    app.call("POST", "/v1/revocations", Some(&Token::admin("root")), Some(body), 201).await;
    let answer = renew(&mut socket, &token("alice").with("jti", "stolen")).await;
    assert_eq!(answer["code"], "TOKEN_REVOKED");
    socket.ping(b"still here").await;
}

#[actix_web::test]
async fn a_token_without_the_role_ends_the_connection() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    let auth =
        json!({"type": "AUTH", "authorization": token("alice").roles(&["REALTIME_ADMIN"]).sign()});
    socket.send(&auth.to_string()).await;
    let (code, reason) = socket.closed().await;
    assert_eq!((code, reason.split(':').next().unwrap()), (4403, "ROLE_REQUIRED"));
}

#[actix_web::test]
async fn a_connection_is_told_once_before_its_token_ends_and_a_new_one_keeps_it() {
    let app = App::start_with(Options::default().with("HERALD_JWT_LEEWAY_SECONDS", 1)).await;
    let mut renewed = app.connect(&token("alice").expires_in(5)).await;
    let mut silent = app.connect(&token("bob").expires_in(5)).await;
    for socket in [&mut renewed, &mut silent] {
        let expiring = socket.frame().await;
        let seconds = expiring["seconds"].as_u64().expect("seconds");
        assert!(expiring["type"] == "EXPIRING" && seconds <= 5, "{expiring}");
        assert_described(&expiring);
    }
    assert_eq!(renew(&mut renewed, &token("alice")).await["type"], "CHANNELS");
    let (code, reason) = silent.closed().await;
    assert_eq!((code, reason.split(':').next().unwrap()), (4401, "TOKEN_EXPIRED"));
    app.publish("ALL", json!("still here")).await;
    assert_eq!(renewed.data().await, "still here", "told once, and not again");
}

#[actix_web::test]
async fn how_long_before_is_a_setting() {
    let options =
        Options::default().with("HERALD_EXPIRING_SECONDS", 0).with("HERALD_JWT_LEEWAY_SECONDS", 3);
    let app = App::start_with(options).await;
    let mut socket = app.connect(&token("alice").expires_in(1)).await;
    assert_eq!(socket.frame().await, json!({"type": "EXPIRING", "seconds": 0}));
    assert_eq!(socket.closed().await.0, 4401);
    let mut early = app.connect(&token("alice").expires_in(30)).await;
    app.publish("ALL", json!(1)).await;
    assert_eq!(early.data().await, 1);
}
