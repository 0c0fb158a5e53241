//! The floor: what a delivery costs with tokio and rustls alone. This binary runs itself again as that server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as AcceptedStream};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::Outcome;
use crate::clients::frames::{accept_key, text_frame};
use crate::clients::wire::Wire;
use crate::scenario::FloorOptions;
use crate::servers::certificate::{Certificate, server_config};
use crate::servers::process::{Process, free_address};
use crate::servers::rest_floor;

/// How long the floor may take to listen.
const LONGEST_START: Duration = Duration::from_secs(10);
/// How long a connection may take for TLS and the WebSocket handshake.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest request head, and the longest frame on the control pipe.
const LONGEST_REQUEST: usize = 16 * 1024;
const LONGEST_TEXT: u32 = 256 * 1024;
/// Connections or frames waiting for one worker.
const QUEUE: usize = 1_024;

/// What a message frame of Herald's looks like around the data, so that both servers write about the same bytes.
const BEFORE_DATA: &str = r#"{"type":"MESSAGE","id":"0193573c-9f4a-7000-8000-000000000000","channel":"ALL","cursor":"0000000000.0000000000","time":"2026-01-01T00:00:00.000Z","data":"#;

/// A running floor, as the benchmark holds it.
pub struct FloorServer {
    /// The server.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks without TLS.
    pub plain: bool,
    control: Option<ChildStdin>,
}

impl FloorServer {
    /// Starts the floor and waits until it listens.
    pub async fn start(directory: &Path, certificate: &Certificate, workers: usize, kind: Kind) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").arg("--address").arg(address.to_string()).arg("--workers").arg(workers.to_string());
        command.arg("--certificate").arg(&certificate.chain).arg("--key").arg(&certificate.key);
        command.args(kind.plain.then_some("--plain")).args(kind.rest.then_some("--rest"));
        let mut process = Process::start("floor", command, directory)?;
        let control = process.take_stdin();
        let deadline = Instant::now() + LONGEST_START;
        while TcpStream::connect(address).await.is_err() {
            process.check_running().map_err(|failure| process.explain(failure))?;
            if Instant::now() > deadline {
                return Err(process.explain(format!("the floor did not listen within {LONGEST_START:?}").into()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, address, plain: kind.plain, control })
    }

    /// The floor's standard input, once: when it is dropped, the floor ends.
    pub fn control(&mut self) -> Outcome<Control> {
        Ok(Control(self.control.take().ok_or("the floor's standard input is taken")?))
    }
}

/// Which floor it is.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Without TLS, as behind a proxy.
    pub plain: bool,
    /// Bare actix that is posted to, not bare tokio that writes.
    pub rest: bool,
}

/// The floor's standard input.
pub struct Control(ChildStdin);

impl Control {
    /// Has `message` written to every connection, inside the frame that Herald would send.
    pub fn publish(&mut self, message: &str) -> Outcome<()> {
        let text = format!("{BEFORE_DATA}{message}}}");
        let mut packet = Vec::with_capacity(text.len() + 4);
        packet.extend(u32::try_from(text.len())?.to_be_bytes());
        packet.extend(text.as_bytes());
        self.0.write_all(&packet)?;
        Ok(self.0.flush()?)
    }
}

/// Serves until standard input ends. Each length and text on standard input is written to every connection as one frame, one write each.
pub fn serve(options: &FloorOptions, workers: usize) -> Outcome<()> {
    let tls = if options.plain { None } else { Some(server_config(&options.certificate, &options.key)?) };
    if options.rest {
        return rest_floor::serve(options, tls, workers);
    }
    let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let listener = TcpListener::bind(options.address)?;
    let workers = (0..workers).map(|_| start_worker(acceptor.clone())).collect::<Vec<_>>();
    let acceptors = workers.clone();
    thread::spawn(move || accept(&listener, &acceptors));
    let mut control = io::stdin().lock();
    while let Some(text) = read_text(&mut control)? {
        let frame: Arc<[u8]> = text_frame(&text).into();
        for worker in &workers {
            worker.blocking_send(Work::Send(frame.clone()))?;
        }
    }
    Ok(())
}

enum Work {
    Accept(AcceptedStream),
    Send(Arc<[u8]>),
}

fn read_text(control: &mut impl Read) -> Outcome<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match control.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST_TEXT {
        return Err(format!("a text of {length} bytes").into());
    }
    let mut text = vec![0; length as usize];
    control.read_exact(&mut text)?;
    Ok(Some(text))
}

fn accept(listener: &TcpListener, workers: &[Sender<Work>]) {
    for worker in workers.iter().cycle() {
        match listener.accept() {
            Ok((stream, _)) => {
                if worker.blocking_send(Work::Accept(stream)).is_err() {
                    return;
                }
            }
            Err(error) => eprintln!("a connection could not be accepted: {error}"),
        }
    }
}

fn start_worker(acceptor: Option<TlsAcceptor>) -> Sender<Work> {
    let (sender, receiver) = channel(QUEUE);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(unconstrained(work(receiver, acceptor))),
            Err(error) => eprintln!("a worker has no runtime: {error}"),
        }
    });
    sender
}

async fn work(mut receiver: Receiver<Work>, acceptor: Option<TlsAcceptor>) {
    let (mut sockets, mut joined) = (Vec::new(), Vec::new());
    let mut handshakes = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(socket) = handshakes.next(), if !handshakes.is_empty() => match socket {
                Ok(Ok(socket)) => sockets.push(socket),
                Ok(Err(error)) => eprintln!("a handshake failed: {error}"),
                Err(_) => eprintln!("a handshake took longer than {LONGEST_HANDSHAKE:?}"),
            },
            work = receiver.recv() => match work {
                Some(Work::Accept(stream)) => handshakes.push(timeout(LONGEST_HANDSHAKE, shake(stream, acceptor.clone()))),
                Some(Work::Send(frame)) => joined.extend_from_slice(&frame),
                None => return,
            },
        }
        while !joined.is_empty() {
            match receiver.try_recv() {
                Ok(Work::Send(frame)) => joined.extend_from_slice(&frame),
                Ok(Work::Accept(stream)) => {
                    handshakes.push(timeout(LONGEST_HANDSHAKE, shake(stream, acceptor.clone())))
                }
                Err(_) => {
                    send(&mut sockets, &joined).await;
                    joined.clear();
                }
            }
        }
    }
}

/// One write a socket, whatever has been joined.
async fn send(sockets: &mut Vec<Wire>, frame: &[u8]) {
    let mut index = 0;
    while let Some(socket) = sockets.get_mut(index) {
        match write(socket, frame).await {
            Ok(()) => index += 1,
            Err(error) => {
                eprintln!("a connection is dropped: {error}");
                sockets.swap_remove(index);
            }
        }
    }
}

async fn write(socket: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}

async fn shake(stream: AcceptedStream, acceptor: Option<TlsAcceptor>) -> Outcome<Wire> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let mut socket: Wire = match acceptor {
        Some(acceptor) => Box::new(acceptor.accept(stream).await?),
        None => Box::new(stream),
    };
    let mut request = Vec::with_capacity(1_024);
    while !request.ends_with(b"\r\n\r\n") {
        if request.len() > LONGEST_REQUEST || socket.read_buf(&mut request).await? == 0 {
            return Err("the request was too long or cut".into());
        }
    }
    let request = String::from_utf8(request)?;
    let key =
        request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).ok_or("no Sec-WebSocket-Key")?;
    let accept = accept_key(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    write(&mut socket, answer.as_bytes()).await?;
    write(&mut socket, &text_frame(br#"{"type":"CONNECTED"}"#)).await?;
    Ok(socket)
}
