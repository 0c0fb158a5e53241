//! One wss connection of a client that does as little as a client can.

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::Outcome;
use crate::clients::frames::{Frame, MASKED_PING, accept_key, close_code, next_frame};
use crate::clients::wire::{Route, Wire, read_head, read_some};

const WEBSOCKET_KEY: &str = "ZGVsaXZlcnkgYmVuY2htYQ==";

/// An open connection that has had its `CONNECTED`.
pub struct Client {
    wire: Wire,
    received: BytesMut,
}

impl Client {
    /// Connects, upgrades and waits for `CONNECTED`, which is returned with it.
    pub async fn open(route: &Route, path: &str, token: &str) -> Outcome<(Self, Value)> {
        let mut client =
            Self { wire: route.connect().await?, received: BytesMut::with_capacity(4_096) };
        client.upgrade(route, path, token).await?;
        let frame = client.frame().await?;
        match serde_json::from_slice::<Value>(&frame.payload) {
            Ok(connected) if connected["type"] == "CONNECTED" => Ok((client, connected)),
            _ => Err(format!("the first frame was not CONNECTED but {}", describe(&frame)).into()),
        }
    }

    async fn upgrade(&mut self, route: &Route, path: &str, token: &str) -> Outcome<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\n{}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\nAuthorization: Bearer {token}\r\n\r\n",
            route.headers()
        );
        self.wire.write_all(request.as_bytes()).await?;
        self.wire.flush().await?;
        let answer = read_head(&mut self.wire, &mut self.received).await?;
        let accepted =
            answer.starts_with("HTTP/1.1 101 ") && answer.contains(&accept_key(WEBSOCKET_KEY));
        if accepted { Ok(()) } else { Err(format!("the handshake was answered: {answer}").into()) }
    }

    /// The next frame, read if need be.
    pub async fn frame(&mut self) -> Outcome<Frame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// The next frame if all of it has been read.
    pub fn take(&mut self) -> Outcome<Option<Frame>> {
        next_frame(&mut self.received)
    }

    /// Reads what there is; may be dropped while it waits.
    pub async fn read(&mut self) -> Outcome<()> {
        read_some(&mut self.wire, &mut self.received).await
    }

    /// Says that this end is alive.
    pub async fn ping(&mut self) -> Outcome<()> {
        self.wire.write_all(&MASKED_PING).await?;
        Ok(self.wire.flush().await?)
    }
}

/// A frame in the words of an error.
pub fn describe(frame: &Frame) -> String {
    match close_code(frame) {
        Some(code) => {
            format!("a close with {code} {}", String::from_utf8_lossy(&frame.payload[2..]))
        }
        None => format!("opcode {}: {}", frame.opcode, String::from_utf8_lossy(&frame.payload)),
    }
}
