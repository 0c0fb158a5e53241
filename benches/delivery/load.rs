//! The listeners: many cheap wss connections that check that every message arrives once and in order.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::SERVER_NAME;
use crate::frames::{CLOSE, Frame, MASKED_PING, TEXT, accept_key, next_frame};
use crate::message::{Messages, frame_type};
use crate::{Failure, Outcome};

/// Connections being opened at the same time.
const OPENING: usize = 16;
/// How long one connection may take from TCP to its first frame.
const LONGEST_OPENING: Duration = Duration::from_secs(20);
/// How long a message may take to reach every connection.
const LONGEST_DELIVERY: Duration = Duration::from_secs(10);
/// Every connection says that it is alive this often; runs shorter than that send nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const WEBSOCKET_KEY: &str = "ZGVsaXZlcnkgYmVuY2htYQ==";

/// Whom to connect to, and as whom.
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// TLS that trusts it.
    pub connector: TlsConnector,
    /// The path and query of the handshake.
    pub path: String,
    /// A token for each connection.
    pub tokens: Vec<String>,
    /// What will be published.
    pub messages: Arc<Messages>,
}

/// Open connections; dropping it closes them all.
pub struct Load {
    listeners: JoinSet<()>,
    progress: Arc<Progress>,
}

impl Load {
    /// Opens a connection for each token and starts to listen on it, once each has had its `CONNECTED`.
    pub async fn open(target: &Target) -> Outcome<Self> {
        let progress = Arc::new(Progress::default());
        let opening = target.tokens.iter().enumerate().map(|(index, token)| async move {
            let opened = timeout(LONGEST_OPENING, Listener::open(target, index, token)).await;
            opened.map_err(Failure::from).flatten().map_err(|error| format!("connection {index}: {error}"))
        });
        let mut listeners = JoinSet::new();
        let mut opening = stream::iter(opening).buffer_unordered(OPENING);
        while let Some(listener) = opening.try_next().await? {
            listeners.spawn(listener.listen(target.messages.clone(), progress.clone()));
        }
        Ok(Self { listeners, progress })
    }

    /// Waits until the first `messages` messages have reached every connection.
    pub async fn delivered(&self, messages: u64) -> Outcome<()> {
        let wanted = messages * self.listeners.len() as u64;
        match timeout(LONGEST_DELIVERY, self.progress.wait(wanted)).await {
            Ok(result) => result,
            Err(_) => {
                let missing = wanted.saturating_sub(self.progress.received.load(Ordering::SeqCst));
                Err(format!("{missing} of {wanted} deliveries are missing after {LONGEST_DELIVERY:?}").into())
            }
        }
    }

    /// The bytes of text frames with messages that all connections have had together.
    pub fn bytes(&self) -> u64 {
        self.progress.bytes.load(Ordering::SeqCst)
    }

    /// Errors when anything but exactly `messages` messages a connection has arrived until now.
    pub fn check(&self, messages: u64) -> Outcome<()> {
        self.progress.failure()?;
        let wanted = messages * self.listeners.len() as u64;
        match self.progress.received.load(Ordering::SeqCst) {
            received if received == wanted => Ok(()),
            received => Err(format!("{received} deliveries arrived, {wanted} were expected").into()),
        }
    }
}

/// What all connections have had so far, together.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    bytes: AtomicU64,
    wanted: AtomicU64,
    failure: Mutex<Option<String>>,
    changed: Notify,
}

impl Progress {
    async fn wait(&self, wanted: u64) -> Outcome<()> {
        self.wanted.store(wanted, Ordering::SeqCst);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            self.failure()?;
            if self.received.load(Ordering::SeqCst) >= wanted {
                return Ok(());
            }
            changed.await;
        }
    }

    fn add(&self, messages: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let received = self.received.fetch_add(messages, Ordering::SeqCst) + messages;
        if received >= self.wanted.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    fn fail(&self, failure: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.changed.notify_waiters();
    }

    fn failure(&self) -> Outcome<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }
}

/// One connection.
struct Listener {
    index: usize,
    socket: TlsStream<TcpStream>,
    received: BytesMut,
}

impl Listener {
    async fn open(target: &Target, index: usize, token: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let socket = target.connector.connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
        let mut listener = Self { index, socket, received: BytesMut::with_capacity(4_096) };
        listener.upgrade(&target.path, token).await?;
        let frame = listener.first_frame().await?;
        match frame_type(&frame.payload) {
            Ok(kind) if kind == "CONNECTED" => Ok(listener),
            _ => Err(format!("the first frame was not CONNECTED but {}", describe(&frame)).into()),
        }
    }

    async fn upgrade(&mut self, path: &str, token: &str) -> Outcome<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        self.socket.write_all(request.as_bytes()).await?;
        self.socket.flush().await?;
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let answer = String::from_utf8_lossy(&self.received.split_to(end)).into_owned();
        let accepted = answer.starts_with("HTTP/1.1 101 ") && answer.contains(&accept_key(WEBSOCKET_KEY));
        if accepted { Ok(()) } else { Err(format!("the handshake was answered: {answer}").into()) }
    }

    async fn first_frame(&mut self) -> Outcome<Frame> {
        loop {
            if let Some(frame) = next_frame(&mut self.received)? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Outcome<()> {
        self.received.reserve(2_048);
        match self.socket.read_buf(&mut self.received).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    async fn listen(mut self, messages: Arc<Messages>, progress: Arc<Progress>) {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        let mut last = 0;
        loop {
            let step = tokio::select! {
                read = self.read() => read.and_then(|()| self.take_messages(&messages, &mut last, &progress)),
                _ = keep_alive.tick() => self.ping().await,
            };
            if let Err(failure) = step {
                return progress.fail(format!("connection {} after message {last}: {failure}", self.index));
            }
        }
    }

    async fn ping(&mut self) -> Outcome<()> {
        self.socket.write_all(&MASKED_PING).await?;
        Ok(self.socket.flush().await?)
    }

    fn take_messages(&mut self, messages: &Messages, last: &mut u64, progress: &Progress) -> Outcome<()> {
        let (mut count, mut bytes) = (0, 0);
        while let Some(frame) = next_frame(&mut self.received)? {
            match frame.opcode {
                TEXT => {}
                CLOSE => return Err(describe(&frame).into()),
                _ => continue,
            }
            let Some(number) = messages.number(&frame.payload)? else { continue };
            if number != *last + 1 {
                return Err(format!("message {number} came where {} was due", *last + 1).into());
            }
            *last = number;
            count += 1;
            bytes += frame.payload.len() as u64;
        }
        progress.add(count, bytes);
        Ok(())
    }
}

fn describe(frame: &Frame) -> String {
    match (frame.opcode, frame.payload.split_first_chunk::<2>()) {
        (CLOSE, Some((code, reason))) => {
            format!("a close with {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
        }
        (opcode, _) => format!("opcode {opcode}: {}", String::from_utf8_lossy(&frame.payload)),
    }
}
