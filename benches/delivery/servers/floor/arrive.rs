//! What comes to the floor: listeners, whose sockets are kept, and publishers, whose messages become frames.

use std::io;
use std::net::TcpStream as AcceptedStream;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::serve::{Floor, Work};
use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::frames::{accept_key, text_frame};
use crate::clients::wire::{Wire, read_body, read_head};

/// What a message frame of Herald's looks like around the data, so that both servers write about the same bytes.
const BEFORE_DATA: &str = r#"{"type":"MESSAGE","id":"0193573c-9f4a-7000-8000-000000000000","channel":"ALL","cursor":"0000000000.0000000000","time":"2026-01-01T00:00:00.000Z","data":"#;
/// As long as an answer of Herald's. The floor counts nobody.
const ANSWER: &str = r#"{"id":"0193573c-9f4a-7000-8000-000000000000","cursor":"0000000000.0000000000","audience":["ALL"],"matched":0,"queued":0,"dropped":0,"incomplete":true}"#;

/// Takes a connection's first request: the socket of a listener, or nothing of a publisher, who is listened to from now on.
pub async fn arrive(stream: AcceptedStream, floor: Arc<Floor>) -> Outcome<Option<Wire>> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let mut socket: Wire = match &floor.acceptor {
        Some(acceptor) => Box::new(acceptor.accept(stream).await?),
        None => Box::new(stream),
    };
    let mut received = BytesMut::with_capacity(1_024);
    let head = read_head(&mut socket, &mut received).await?;
    if head.starts_with("POST ") {
        tokio::spawn(async move {
            if let Err(error) = take_messages(socket, received, head, &floor).await {
                eprintln!("a publisher is gone: {error}");
            }
        });
        return Ok(None);
    }
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).ok_or("no Sec-WebSocket-Key")?;
    let accept = accept_key(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    write(&mut socket, answer.as_bytes()).await?;
    write(&mut socket, &text_frame(br#"{"type":"CONNECTED"}"#)).await?;
    Ok(Some(socket))
}

/// Has each message written to every listener, inside the frame that Herald would send, and answers as much as Herald.
async fn take_messages(mut socket: Wire, mut received: BytesMut, mut head: String, floor: &Floor) -> Outcome<()> {
    let answer = format!(
        "HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    loop {
        let body = read_body(&mut socket, &mut received, &head).await?;
        let message = Envelope::EVERYONE.open(&body).ok_or("a request that is not for everyone")?;
        let frame: Arc<[u8]> = text_frame(&[BEFORE_DATA.as_bytes(), message, b"}"].concat()).into();
        for worker in &floor.workers {
            worker.send(Work::Send(frame.clone())).await?;
        }
        write(&mut socket, answer.as_bytes()).await?;
        head = read_head(&mut socket, &mut received).await?;
    }
}

/// One write.
pub async fn write(socket: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}
