//! A WebSocket client that waits for frames with a deadline.

use super::app::App;
use super::{PATIENCE, within};
use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use serde_json::Value;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Request};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Bytes, Error};

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The first frame, `CONNECTED`, unless the socket was closed before.
    pub connected: Value,
    /// The handshake's answer.
    pub response: Response,
}

/// What a client sends to connect.
pub struct Handshake(Request<()>);

impl Handshake {
    /// A handshake for `path` (with its query).
    pub fn new(app: &App, path: &str) -> Self {
        Self::at(app.port, path)
    }

    /// The same for whoever listens on `port`.
    pub fn at(port: u16, path: &str) -> Self {
        let url = format!("wss://localhost:{port}{path}");
        Self(url.into_client_request().expect("the path makes a URL"))
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header's name");
        self.0.headers_mut().append(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    /// Sends it. The error is the HTTP answer of a refused handshake.
    pub async fn send(self, app: &App) -> Result<Socket, Box<Response2>> {
        self.send_over(connect_tls(app).await).await
    }

    /// Sends it over a connection of the caller's.
    pub async fn send_over(self, tls: TlsStream<TcpStream>) -> Result<Socket, Box<Response2>> {
        match self.try_over(tls).await {
            Ok(socket) => Ok(socket),
            Err(Error::Http(response)) => Err(response),
            Err(error) => panic!("the handshake broke: {error}"),
        }
    }

    /// Sends it to `port`, on a way that may break. The error says how it broke, or holds the
    /// refusal.
    pub async fn attempt(self, port: u16, tls: &Arc<ClientConfig>) -> Result<Socket, Error> {
        self.try_over(open_tls(tcp_socket(), port, tls).await?).await
    }

    async fn try_over(self, tls: TlsStream<TcpStream>) -> Result<Socket, Error> {
        let (stream, response) =
            within("the handshake", tokio_tungstenite::client_async(self.0, tls)).await?;
        Ok(Socket { stream, connected: Value::Null, response })
    }
}

/// The HTTP answer of a refused handshake.
pub type Response2 = tokio_tungstenite::tungstenite::http::Response<Option<Vec<u8>>>;

/// A TLS connection to the server under test.
pub async fn connect_tls(app: &App) -> TlsStream<TcpStream> {
    open_tls(tcp_socket(), app.port, &app.tls)
        .await
        .expect("the server listens, and its certificate is trusted")
}

/// The same with little room for what is not read.
pub async fn connect_narrow(app: &App) -> TlsStream<TcpStream> {
    let tcp = tcp_socket();
    tcp.set_recv_buffer_size(4_096).expect("a small buffer");
    open_tls(tcp, app.port, &app.tls)
        .await
        .expect("the server listens, and its certificate is trusted")
}

fn tcp_socket() -> TcpSocket {
    TcpSocket::new_v4().expect("a socket")
}

async fn open_tls(
    tcp: TcpSocket,
    port: u16,
    tls: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = within("a TCP connection", tcp.connect(([127, 0, 0, 1], port).into())).await?;
    let name = "localhost".try_into().expect("a server name");
    within("a TLS session", TlsConnector::from(tls.clone()).connect(name, tcp)).await
}

impl Socket {
    /// Waits for `CONNECTED`.
    pub async fn welcomed(mut self) -> Self {
        self.connected = self.frame().await;
        assert_eq!(self.connected["type"], "CONNECTED", "{}", self.connected);
        self
    }

    /// The next text frame as JSON. Fails the test on anything else.
    pub async fn frame(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => {
                serde_json::from_str(text.as_str()).expect("every frame is JSON")
            }
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    /// The next frame, which must be a message; its `data`.
    pub async fn data(&mut self) -> Value {
        let mut frame = self.frame().await;
        assert_eq!(frame["type"], "MESSAGE", "{frame}");
        frame["data"].take()
    }

    /// The next WebSocket message of any kind; none at the end of the stream.
    pub async fn message(&mut self) -> Option<Message> {
        match self.next().await {
            Some(Ok(message)) => Some(message),
            Some(Err(error)) => {
                eprintln!("the socket ended: {error}");
                None
            }
            None => None,
        }
    }

    /// The same, or how the stream broke.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        within("a frame", self.stream.next()).await
    }

    /// Waits for the close frame, past whatever comes before it: its code and its reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.message().await {
                Some(Message::Close(Some(frame))) => {
                    return (frame.code.into(), frame.reason.as_str().to_owned());
                }
                Some(Message::Close(None)) => return (1005, String::new()),
                Some(_) => {}
                None => panic!("the socket ended without a close frame"),
            }
        }
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a text frame; false where the socket is closed by now.
    pub async fn try_send(&mut self, text: &str) -> bool {
        within("the server reads", self.stream.send(Message::text(text))).await.is_ok()
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: Message) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.send(message)).await;
        sent.expect("the server reads").expect("the socket is open");
    }

    /// Sends a ping frame and waits for its pong.
    pub async fn ping(&mut self, payload: &[u8]) {
        self.send_message(Message::Ping(Bytes::copy_from_slice(payload))).await;
        match self.message().await {
            Some(Message::Pong(answer)) => assert_eq!(&answer[..], payload),
            other => panic!("expected a pong, got {other:?}"),
        }
    }

    /// Closes the socket and waits for the server's close frame.
    pub async fn close(mut self) {
        within("the close", self.stream.close(None)).await.expect("the socket is open");
        while self.message().await.is_some() {}
    }
}
