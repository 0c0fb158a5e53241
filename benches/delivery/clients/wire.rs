//! How a client reaches a server: over TLS, or in plain HTTP as a proxy in front of Herald would.

use std::io;
use std::net::SocketAddr;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use bytes::BytesMut;

use crate::Outcome;
use crate::servers::certificate::SERVER_NAME;

/// The longest head or body of an HTTP answer.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// Room made for each read.
const READ: usize = 4 * 1024;

/// A connected socket, whatever it speaks.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected socket.
pub type Wire = Box<dyn Stream>;

/// The way to one server.
#[derive(Clone)]
pub struct Route {
    /// Where it listens.
    pub address: SocketAddr,
    /// TLS that trusts it; without, this end is a proxy that has ended TLS.
    pub connector: Option<TlsConnector>,
    /// `SO_RCVBUF` in bytes; without, the system's own tuning.
    pub receive_buffer: Option<u32>,
}

impl Route {
    /// Connects, TLS included.
    pub async fn connect(&self) -> Outcome<Wire> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.connector {
            Some(connector) => {
                Ok(Box::new(connector.connect(ServerName::try_from(SERVER_NAME)?, stream).await?))
            }
            None => Ok(Box::new(stream)),
        }
    }

    /// The lines that every request's head has: the host, and what a proxy adds.
    pub fn headers(&self) -> &'static str {
        match self.connector {
            Some(_) => "Host: localhost\r\n",
            None => "Host: localhost\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1\r\n",
        }
    }
}

/// The next head of an answer, up to and with its empty line.
pub async fn read_head(wire: &mut Wire, received: &mut BytesMut) -> Outcome<String> {
    let end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        read_some(wire, received).await?;
    };
    Ok(String::from_utf8_lossy(&received.split_to(end)).into_owned())
}

/// The value of a header, whose name is written in lower case here.
pub fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(wanted).then(|| value.trim())
    })
}

/// The body that follows `head`, as long as its `Content-Length` says.
pub async fn read_body(wire: &mut Wire, received: &mut BytesMut, head: &str) -> Outcome<BytesMut> {
    let length = header(head, "content-length").and_then(|length| length.parse::<usize>().ok());
    let length = length
        .filter(|length| *length <= LONGEST_ANSWER)
        .ok_or("an answer without a usable length")?;
    while received.len() < length {
        read_some(wire, received).await?;
    }
    Ok(received.split_to(length))
}

/// Reads what there is. Errors: the end of the stream, and an answer that grows over
/// `LONGEST_ANSWER`.
pub async fn read_some(wire: &mut Wire, received: &mut BytesMut) -> Outcome<()> {
    if received.len() > LONGEST_ANSWER {
        return Err(format!("more than {LONGEST_ANSWER} bytes without an end").into());
    }
    received.reserve(READ);
    match wire.read_buf(received).await? {
        0 => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
                .into())
        }
        _ => Ok(()),
    }
}
