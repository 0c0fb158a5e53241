//! The floor's own process: workers that write what was published to every socket, and nothing
//! else.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream as AcceptedStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{FloorOptions, inlet, rest};
use crate::Outcome;
use crate::clients::frames::{accept_key, text_frame};
use crate::clients::wire::{Wire, read_head};
use crate::servers::certificate::server_config;

/// How long a connection may take for TLS and the WebSocket handshake.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections or frames waiting for one worker.
const QUEUE: usize = 1_024;

/// What a worker is given.
pub enum Work {
    /// A listener of its own.
    Accept(AcceptedStream),
    /// A frame for all of them.
    Send(Arc<[u8]>),
}

/// Serves until standard input ends.
pub fn serve(options: &FloorOptions, workers: usize) -> Outcome<()> {
    let tls =
        if options.plain { None } else { Some(server_config(&options.certificate, &options.key)?) };
    if options.rest {
        return rest::serve(options, tls, workers);
    }
    let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let listener = TcpListener::bind(options.address)?;
    let (workers, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel(QUEUE)).unzip();
    for receiver in receivers {
        let acceptor = acceptor.clone();
        on_a_thread(async || {
            unconstrained(work(receiver, acceptor)).await;
            Ok(())
        });
    }
    let (senders, inlet) = (workers.clone(), options.inlet);
    on_a_thread(async move || {
        inlet::serve(tokio::net::TcpListener::bind(inlet).await?, acceptor, senders).await
    });
    thread::spawn(move || accept(&listener, &workers));
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn on_a_thread(work: impl AsyncFnOnce() -> Outcome<()> + Send + 'static) {
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        if let Err(error) = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work()))
        {
            eprintln!("a thread ended: {error}");
        }
    });
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

async fn work(mut receiver: Receiver<Work>, acceptor: Option<TlsAcceptor>) {
    let (mut sockets, mut joined) = (Vec::new(), Vec::new());
    let mut handshakes = FuturesUnordered::new();
    let handshake = |stream| timeout(LONGEST_HANDSHAKE, shake(stream, acceptor.clone()));
    loop {
        tokio::select! {
            Some(socket) = handshakes.next(), if !handshakes.is_empty() => match socket {
                Ok(Ok(socket)) => sockets.push(socket),
                Ok(Err(error)) => eprintln!("a handshake failed: {error}"),
                Err(_) => eprintln!("a handshake took longer than {LONGEST_HANDSHAKE:?}"),
            },
            work = receiver.recv() => match work {
                Some(Work::Accept(stream)) => handshakes.push(handshake(stream)),
                Some(Work::Send(frame)) => joined.extend_from_slice(&frame),
                None => return,
            },
        }
        while !joined.is_empty() {
            match receiver.try_recv() {
                Ok(Work::Send(frame)) => joined.extend_from_slice(&frame),
                Ok(Work::Accept(stream)) => handshakes.push(handshake(stream)),
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

async fn shake(stream: AcceptedStream, acceptor: Option<TlsAcceptor>) -> Outcome<Wire> {
    stream.set_nonblocking(true)?;
    let mut socket = secure(TcpStream::from_std(stream)?, acceptor).await?;
    let request = read_head(&mut socket, &mut BytesMut::with_capacity(1_024)).await?;
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .ok_or("no Sec-WebSocket-Key")?;
    let accept = accept_key(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    write(&mut socket, answer.as_bytes()).await?;
    write(&mut socket, &text_frame(br#"{"type":"CONNECTED"}"#)).await?;
    Ok(socket)
}

/// TLS, if there is any.
pub async fn secure(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Outcome<Wire> {
    stream.set_nodelay(true)?;
    Ok(match acceptor {
        Some(acceptor) => Box::new(acceptor.accept(stream).await?),
        None => Box::new(stream),
    })
}

/// One write.
pub async fn write(socket: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}
