//! Standard output and standard error that nobody reads, or that are full or closed: what is said
//! is lost, and nothing else.

use crate::command_line::{
    ANYWHERE, Herald, ca, data_directory, development_token, herald, herald_by,
};
use crate::support::postgres;
use rustix::process::Signal;
use serde_json::json;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::Stdio;
use tokio::process::Command;

/// Takes nothing: whoever writes is told that the disk is full.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("the device is there").into()
}

/// A pipe whose reader is gone.
fn deserted() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// The binary, run by a shell that closes some of its streams (`2>&-`).
fn closing(streams: &str, arguments: &[&str]) -> Command {
    let mut shell = herald_by(&["sh", "-c", &format!("exec \"$0\" \"$@\" {streams}")], arguments);
    shell.stderr(Stdio::null());
    shell
}

#[actix_web::test]
async fn a_standard_error_that_takes_nothing_costs_the_log_and_nothing_else() {
    let with = |stream: Stdio| {
        let mut command = herald(&ANYWHERE);
        command.stderr(stream);
        command
    };
    for (mut command, format) in [
        (with(full()), "text"),
        (with(full()), "json"),
        (with(deserted()), "text"),
        (closing("2>&-", &ANYWHERE), "text"),
    ] {
        let data = data_directory();
        command.arg(data.path()).env("DATABASE_URL", postgres::database().await);
        // Everything that can be said is said.
        command.envs([("HERALD_LOG", "trace"), ("HERALD_LOG_FORMAT", format)]);
        let herald = Herald::greeted(&mut command).await;
        let ca = ca(&data);
        let token = async |arguments: &[&str]| development_token(data.path(), arguments).await;
        let admin = token(&["--user", "root", "--role", "REALTIME_ADMIN"]).await;
        let shop = token(&["--user", "shop", "--component", "shop"]).await;
        let mut alice = herald.connect(&ca, &token(&["--user", "alice"]).await).await;
        herald.signal(Signal::HUP);
        let broken = json!({"name": "news", "rules": [{"effect": "allow", "when": "user == ("}]});
        for (path, token, body, expected) in [
            ("/v1/channels", &admin, broken, 422),
            ("/v1/channels", &"no token".to_owned(), json!({}), 401),
            ("/v1/messages", &shop, json!({"channel": "channel:none", "message": 1}), 404),
            ("/v1/messages", &shop, json!({"channel": "ALL", "message": "heard"}), 202),
        ] {
            let (status, answer) = herald.call(&ca, "POST", path, token, Some(body)).await;
            assert_eq!(status, expected, "{answer}");
        }
        assert_eq!(alice.frame().await["data"], "heard");
        drop(alice);
        assert_eq!(herald.end(Signal::TERM).await, Some(0));
        assert!(data.path().join("window.jsonl").exists());
    }
}

#[actix_web::test]
async fn a_standard_output_that_takes_nothing_costs_the_greeting_and_nothing_else() {
    let arguments = |port: u16| {
        let listen = format!("127.0.0.1:{port}");
        ["--metrics-listen", "127.0.0.1:0", "--listen", &listen, "--data-dir"].map(str::to_owned)
    };
    let database = postgres::database().await;
    for place in ["full", "deserted", "closed"] {
        let data = data_directory();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        drop(taken);
        let arguments = arguments(port);
        let arguments = arguments.each_ref().map(String::as_str);
        let mut command = match place {
            "closed" => closing(">&-", &arguments),
            _ => herald(&arguments),
        };
        match place {
            "full" => drop(command.stdout(full())),
            "deserted" => drop(command.stdout(deserted())),
            _ => {}
        }
        command.stderr(Stdio::piped()).arg(data.path()).env("DATABASE_URL", &database);
        let herald = Herald::at(&mut command, port).await;
        let alice = development_token(data.path(), &["--user", "alice"]).await;
        herald.connect(&ca(&data), &alice).await;
        assert_eq!(herald.end(Signal::TERM).await, Some(0), "{place}");
    }
}

#[actix_web::test]
async fn a_document_that_is_lost_is_a_failure_and_one_that_nobody_wants_is_none() {
    for (output, code, words) in
        [(full(), 1, "standard output cannot be written"), (deserted(), 0, "")]
    {
        let mut command = herald(&["openapi"]);
        command.stdout(output).stderr(Stdio::piped());
        let ended = command.spawn().expect("it runs").wait_with_output().await.expect("it ends");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!((ended.status.code(), said.contains(words)), (Some(code), true), "{said}");
        assert_eq!(said.is_empty(), words.is_empty(), "{said}");
    }
}

#[actix_web::test]
async fn a_command_that_cannot_say_why_it_fails_fails_as_it_would() {
    for (arguments, expected) in [
        (["check", "--keep-alive-seconds", "0"], 2),
        (["check", "--jwt-public-keys", "/nowhere"], 1),
        (["check", "--no-such-flag", "x"], 2),
        (["check", "--keep-alive-seconds", "1"], 0),
    ] {
        let mut both = herald(&arguments);
        both.stdout(full()).stderr(full());
        let mut left = herald(&arguments);
        left.stdout(deserted()).stderr(deserted());
        for mut command in [both, left, closing(">&- 2>&-", &arguments)] {
            let status = command.status().await.expect("it runs");
            assert_eq!(status.code(), Some(expected), "{arguments:?}");
        }
    }
}
