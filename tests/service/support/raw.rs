//! A client that may break the protocol: it writes WebSocket frames byte by byte.

use super::app::App;
use super::socket::connect_tls;
use super::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A socket after its handshake, of which every byte is ours.
pub struct RawSocket {
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

/// One frame that the server sent: opcode and payload.
pub type RawFrame = (u8, Vec<u8>);

impl RawSocket {
    /// Connects with `token` to instance `main` and reads `CONNECTED`.
    pub async fn connect(app: &App, token: &str) -> Self {
        let mut stream = connect_tls(app).await;
        let request = format!(
            "GET /v1/connect?instance=main HTTP/1.1\r\nhost: localhost:{}\r\nauthorization: Bearer {token}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            app.port
        );
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut socket = Self { stream, received: Vec::new() };
        let head = socket.read_until(b"\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let (opcode, payload) = socket.frame().await.expect("CONNECTED comes first");
        assert!(opcode == 1 && payload.starts_with(b"{\"type\":\"CONNECTED\""));
        socket
    }

    /// Writes bytes as they are. False when the server has gone.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Writes one masked frame; `first` holds FIN, the reserved bits and the opcode.
    pub async fn write_frame(&mut self, first: u8, payload: &[u8]) {
        assert!(self.write(&frame(first, payload)).await, "the server has gone");
    }

    /// The next frame; none when the stream ends.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some((frame, used)) = parse(&self.received) {
                self.received.drain(..used);
                return Some(frame);
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// The code of the close frame, past whatever comes before it; none when the stream ends
    /// without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.frame().await? {
                (8, payload) if payload.len() >= 2 => {
                    return Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
                (8, _) => return Some(1005),
                _ => {}
            }
        }
    }

    /// Waits until the server has closed the connection.
    pub async fn ended(&mut self) {
        while self.read_more().await {
            self.received.clear();
        }
    }

    async fn read_until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                let head: Vec<u8> = self.received.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&head).into_owned();
            }
            assert!(self.read_more().await, "the stream ended within the head");
        }
    }

    async fn read_more(&mut self) -> bool {
        let mut buffer = [0; 16_384];
        let read =
            within("bytes from the server", self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// A client's frame: masked, with the shortest length.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            bytes.push(0xFE);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0xFF);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    bytes
}

fn parse(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, header) = match second & 0x7F {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        length => (length as usize, 2),
    };
    let payload = bytes.get(header..header + length)?.to_vec();
    Some(((first & 0x0F, payload), header + length))
}
