//! How messages come to the floor: posted as to Herald, on a thread of its own, so that they reach
//! busy workers too.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio_rustls::TlsAcceptor;

use super::serve::{Work, secure, write};
use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::frames::text_frame;
use crate::clients::wire::{read_body, read_head};

/// What a message frame of Herald's looks like around the data, so that both servers write about
/// the same bytes.
const BEFORE_DATA: &str = r#"{"type":"MESSAGE","id":"0193573c-9f4a-7000-8000-000000000000","channel":"ALL","cursor":"0000000000.0000000000","time":"2026-01-01T00:00:00.000Z","data":"#;
/// As long as an answer of Herald's. The floor counts nobody.
const ANSWER: &str = r#"{"id":"0193573c-9f4a-7000-8000-000000000000","cursor":"0000000000.0000000000","audience":["ALL"],"matched":0,"queued":0,"dropped":0,"incomplete":true}"#;

/// Takes messages for as long as the process runs.
pub async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    workers: Vec<Sender<Work>>,
) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, workers) = (acceptor.clone(), workers.clone());
        tokio::spawn(async move {
            if let Err(error) = take_messages(stream, acceptor, &workers).await {
                eprintln!("a publisher is gone: {error}");
            }
        });
    }
}

/// Has each message written to every listener, inside the frame that Herald would send, and answers
/// about as much as Herald.
async fn take_messages(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    workers: &[Sender<Work>],
) -> Outcome<()> {
    let answer = format!(
        "HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let mut socket = secure(stream, acceptor).await?;
    let mut received = BytesMut::new();
    loop {
        let head = read_head(&mut socket, &mut received).await?;
        let body = read_body(&mut socket, &mut received, &head).await?;
        let message = Envelope::EVERYONE.open(&body).ok_or("a request that is not for everyone")?;
        let frame: Arc<[u8]> = text_frame(&[BEFORE_DATA.as_bytes(), message, b"}"].concat()).into();
        for worker in workers {
            worker.send(Work::Send(frame.clone())).await?;
        }
        write(&mut socket, answer.as_bytes()).await?;
    }
}
