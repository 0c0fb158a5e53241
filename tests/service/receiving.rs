//! Receiving: the frames, the close codes, what a client may send, and how many may connect.

use crate::support::raw::{RawSocket, frame};
use crate::support::socket::Handshake;
use crate::support::{App, Options, Token, token};
use serde_json::json;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::protocol::Message;

#[actix_web::test]
async fn connected_comes_first_and_says_what_is_heard() {
    let app = App::start().await;
    let channel = json!({"name": "news"});
    app.create_channel(channel).await;
    let socket = app.connect(&token("alice").groups(&["eng", "ops"])).await;
    let connected = &socket.connected;
    assert_eq!(
        connected["channels"],
        json!(["ALL", "user:alice", "group:eng", "group:ops", "channel:news"])
    );
    assert_eq!((&connected["instance"], &connected["userId"]), (&json!("main"), &json!("alice")));
    assert_eq!(connected["keepAliveSeconds"], 60);
    assert!(connected["connectionId"].is_string() && connected["cursor"].is_string());
}

#[actix_web::test]
async fn channels_narrow_what_is_heard_and_unknown_ones_are_left_out() {
    let app = App::start().await;
    for channel in
        [json!({"name": "news"}), json!({"name": "secret", "rules": []}), json!({"name": "bob"})]
    {
        app.create_channel(channel).await;
    }
    let alice = token("alice").groups(&["eng"]);
    for (channels, heard) in [
        ("ALL", json!(["ALL"])),
        ("eng,news,secret,nowhere,user:bob", json!(["group:eng", "channel:news"])),
        ("alice", json!(["user:alice"])),
        ("%5B%22user:alice%22,%22channel:bob%22%5D", json!(["user:alice", "channel:bob"])),
        ("nowhere", json!([])),
    ] {
        let socket = app.connect_with(&alice, &format!("&channels={channels}")).await;
        assert_eq!(socket.connected["channels"], heard, "{channels}");
    }
    let (code, reason) = app.open(&alice, "&channels=%5B1").await.closed().await;
    assert_eq!((code, reason.split(':').next().unwrap()), (4400, "INVALID_REQUEST"));
    let many = |count: usize| format!("&channels={}", vec!["x"; count].join(","));
    app.connect_with(&alice, &many(299)).await;
    app.connect_with(&alice, &many(300)).await;
    assert_eq!(app.open(&alice, &many(301)).await.closed().await.0, 4400);
}

#[actix_web::test]
async fn keep_alives_are_answered_in_every_form() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    for ping in [r#"{"type":"PING"}"#, "PING", r#"{ "type": "PING", "more": [1] }"#] {
        socket.send(ping).await;
        assert_eq!(socket.frame().await, json!({"type": "PONG"}), "{ping}");
    }
    socket.ping(b"").await;
    socket.ping(&[7; 125]).await;
}

#[actix_web::test]
async fn a_client_that_sends_nothing_is_closed_with_4408_and_one_that_pings_is_not() {
    let app = App::start_with(Options::default().with("HERALD_KEEP_ALIVE_SECONDS", 2)).await;
    let mut silent = app.connect(&token("alice")).await;
    let mut alive = app.connect(&token("bob")).await;
    assert_eq!(silent.connected["keepAliveSeconds"], 2);
    let closed = actix_web::rt::spawn(async move { silent.closed().await });
    while !closed.is_finished() {
        alive.ping(b"x").await;
        tokio::time::timeout(std::time::Duration::from_millis(500), std::future::pending::<()>())
            .await
            .ok();
    }
    let (code, reason) = closed.await.unwrap();
    assert_eq!(
        (code, reason.as_str()),
        (4408, "KEEP_ALIVE_MISSED: send PING at least once a minute")
    );
    alive.ping(b"still here").await;
}

#[actix_web::test]
async fn anything_else_is_an_error_once_and_then_the_end() {
    let app = App::start().await;
    for wrong in [
        Message::text("hello"),
        Message::text(r#"{"type":"MESSAGE"}"#),
        Message::Binary(Bytes::from_static(b"x")),
    ] {
        let mut socket = app.connect(&token("alice")).await;
        socket.send_message(wrong.clone()).await;
        let error = socket.frame().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("ERROR"), &json!("ONE_DIRECTIONAL")));
        socket.send("PING").await;
        assert_eq!(socket.frame().await["type"], "PONG");
        socket.send_message(wrong).await;
        let (code, reason) = socket.closed().await;
        assert_eq!((code, reason.split(':').next().unwrap()), (4400, "ONE_DIRECTIONAL"));
    }
}

#[actix_web::test]
async fn messages_over_their_size_end_with_1009() {
    let app = App::start().await;
    let alice = token("alice").sign();
    for (length, code) in [
        (1_023, None),
        (1_024, None),
        (1_025, Some(1009)),
        (20_480, Some(1009)),
        (20_481, Some(1009)),
    ] {
        let mut socket = RawSocket::connect(&app, &alice).await;
        socket.write_frame(0x81, "x".repeat(length).as_bytes()).await;
        match code {
            None => assert!(socket.frame().await.unwrap().1.starts_with(b"{\"type\":\"ERROR\"")),
            code => assert_eq!(socket.close_code().await, code, "{length}"),
        }
    }
    let mut fragments = RawSocket::connect(&app, &alice).await;
    fragments.write_frame(0x01, &[b'x'; 11_000]).await;
    fragments.write_frame(0x00, &[b'x'; 11_000]).await;
    assert_eq!(fragments.close_code().await, Some(1009));
}

#[actix_web::test]
async fn a_gigabyte_announced_is_refused_at_its_header() {
    let app = App::start().await;
    let mut socket = RawSocket::connect(&app, &token("alice").sign()).await;
    let mut header = vec![0x82, 0xFF];
    header.extend((1u64 << 30).to_be_bytes());
    header.extend([1, 2, 3, 4]);
    assert!(socket.write(&header).await);
    assert_eq!(socket.close_code().await, Some(1009));
    socket.ended().await;
}

#[actix_web::test]
async fn broken_frames_end_with_1002_and_broken_text_with_1007() {
    let app = App::start().await;
    let alice = token("alice").sign();
    let unmasked = vec![0x81, 0x01, b'x'];
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("a reserved bit", frame(0xC1, b"x"), 1002),
        ("an unknown opcode", frame(0x83, b"x"), 1002),
        ("an unmasked frame", unmasked, 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a fragmented ping", frame(0x09, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a text within a text", [frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xFF\xFE"), 1007),
        (
            "fragments that are not UTF-8",
            [frame(0x01, b"\xC3"), frame(0x80, b"\x28")].concat(),
            1007,
        ),
    ];
    for (what, bytes, code) in cases {
        let mut socket = RawSocket::connect(&app, &alice).await;
        assert!(socket.write(&bytes).await);
        assert_eq!(socket.close_code().await, Some(code), "{what}");
        socket.ended().await;
    }
    let mut socket = RawSocket::connect(&app, &alice).await;
    socket
        .write(
            &[frame(0x01, b"{\"type\":"), frame(0x89, b"between"), frame(0x80, b"\"PING\"}")]
                .concat(),
        )
        .await;
    assert_eq!(socket.frame().await, Some((0xA, b"between".to_vec())));
    assert_eq!(socket.frame().await, Some((1, b"{\"type\":\"PONG\"}".to_vec())));
}

#[actix_web::test]
async fn sixty_frames_at_once_are_answered_and_five_hundred_end_with_4429() {
    let app = App::start().await;
    let alice = token("alice").sign();
    let mut polite = RawSocket::connect(&app, &alice).await;
    assert!(polite.write(&frame(0x89, b"p").repeat(60)).await);
    for _ in 0..60 {
        assert_eq!(polite.frame().await, Some((0xA, b"p".to_vec())));
    }
    let mut flood = RawSocket::connect(&app, &alice).await;
    flood.write(&frame(0x81, b"{\"type\":\"PING\"}").repeat(500)).await;
    assert_eq!(flood.close_code().await, Some(4429));
    flood.ended().await;
    let mut empty = RawSocket::connect(&app, &alice).await;
    empty
        .write(
            &[frame(0x01, b"")]
                .iter()
                .cloned()
                .chain(vec![frame(0x00, b""); 200])
                .collect::<Vec<_>>()
                .concat(),
        )
        .await;
    assert_eq!(empty.close_code().await, Some(4429));
}

#[actix_web::test]
async fn the_clients_close_is_answered_with_its_code() {
    let app = App::start().await;
    let mut socket = RawSocket::connect(&app, &token("alice").sign()).await;
    socket.write_frame(0x88, &[0x0F, 0xA5, b'b', b'y', b'e']).await;
    assert_eq!(socket.close_code().await, Some(4005));
    socket.ended().await;
}

#[actix_web::test]
async fn a_token_that_ends_closes_its_socket_with_4401() {
    let app = App::start_with(Options::default().with("HERALD_JWT_LEEWAY_SECONDS", 0)).await;
    let mut socket = app.connect(&token("alice").expires_in(2)).await;
    let (code, reason) = socket.closed().await;
    assert_eq!((code, reason.split(':').next().unwrap()), (4401, "TOKEN_EXPIRED"));
}

#[actix_web::test]
async fn a_token_lives_through_its_leeway() {
    let app = App::start().await;
    app.connect(&token("alice").expires_in(-20)).await;
    assert_eq!(app.open(&token("alice").expires_in(-40), "").await.closed().await.0, 4401);
}

#[actix_web::test]
async fn connections_are_capped_by_user_and_by_instance() {
    let app = App::start().await;
    app.create_instance("tight", json!({"connections": 4, "connectionsPerUser": 2})).await;
    let open = async |user: &str| {
        let token = token(user).instances(&["tight"]).sign();
        Handshake::new(&app, &format!("/?instance=tight&authorization={token}"))
            .send(&app)
            .await
            .unwrap()
    };
    let mut kept = vec![open("a").await.welcomed().await, open("a").await.welcomed().await];
    let (code, reason) = open("a").await.closed().await;
    assert_eq!(
        (code, reason.as_str()),
        (4429, "TOO_MANY_CONNECTIONS: the user has its 2 connections")
    );
    kept.extend([open("b").await.welcomed().await, open("c").await.welcomed().await]);
    assert_eq!(
        open("d").await.closed().await.1,
        "TOO_MANY_CONNECTIONS: the instance has its 4 connections"
    );
    kept.remove(0).close().await;
    open("d").await.welcomed().await;
}

#[actix_web::test]
async fn connects_are_capped_by_second() {
    let app = App::start().await;
    app.create_instance("tight", json!({"connectsPerSecond": 2})).await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        let token = token("a").instances(&["tight"]).sign();
        let path = format!("/?instance=tight&authorization={token}");
        let mut socket = Handshake::new(&app, &path).send(&app).await.unwrap();
        match socket.message().await {
            Some(Message::Close(Some(close))) => codes.push(u16::from(close.code)),
            _ => codes.push(0),
        }
    }
    assert_eq!(codes[..2], [0, 0]);
    assert!(codes[2..].contains(&4429), "{codes:?}");
}

#[actix_web::test]
async fn an_address_has_a_cap_that_is_told_in_http() {
    let app = App::start_with(Options::default().with("HERALD_CONNECTIONS_PER_ADDRESS", 2)).await;
    let _first = app.connect(&token("a")).await;
    let second = app.connect(&token("b")).await;
    let path = format!("/?instance=main&authorization={}", token("c").sign());
    let refused = Handshake::new(&app, &path).send(&app).await.err().expect("a third is refused");
    assert_eq!(refused.status().as_u16(), 429);
    assert!(
        String::from_utf8_lossy(refused.body().as_deref().unwrap())
            .contains("TOO_MANY_CONNECTIONS")
    );
    second.close().await;
    loop {
        match Handshake::new(&app, &path).send(&app).await {
            Ok(socket) => break drop(socket.welcomed().await),
            Err(answer) => assert_eq!(answer.status().as_u16(), 429),
        }
    }
}

#[actix_web::test]
async fn the_process_has_a_cap_that_is_told_in_http() {
    let app = App::start_with(Options::default().with("HERALD_MAX_CONNECTIONS", 2)).await;
    let _first = app.connect(&token("a")).await;
    let _second = app.connect(&token("b")).await;
    let path = format!("/?instance=main&authorization={}", token("c").sign());
    let refused = Handshake::new(&app, &path).send(&app).await.err().expect("a third is refused");
    assert_eq!(refused.status().as_u16(), 503);
    let ready = app.send(app.request("GET", "/readyz"), 503).await;
    assert_eq!(ready.body["ready"], false);
}

#[actix_web::test]
async fn pages_of_other_origins_are_refused_in_http() {
    let app = App::start().await;
    let instance = json!({"name": "main", "origins": ["https://good.example"]});
    let request = app
        .request("PUT", "/v1/instances/main")
        .bearer_auth(Token::operator().sign())
        .json(&instance);
    app.send(request.header("if-match", "\"1\""), 200).await;
    let path = format!("/?instance=main&authorization={}", token("a").sign());
    for (origin, status) in
        [("https://good.example", 101), ("https://evil.example", 403), ("null", 403)]
    {
        let sent = Handshake::new(&app, &path).header("origin", origin).send(&app).await;
        let answered = sent.map_or_else(|answer| answer.status().as_u16(), |_| 101);
        assert_eq!(answered, status, "{origin}");
    }
    app.connect(&token("no-browser")).await;
}
