//! The floor's own process: workers that write what was published to every socket, and nothing else.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream as AcceptedStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{arrive, rest};
use crate::Outcome;
use crate::clients::wire::Wire;
use crate::scenario::FloorOptions;
use crate::servers::certificate::server_config;

/// How long a connection may take for TLS and its first request.
const LONGEST_ARRIVAL: Duration = Duration::from_secs(10);
/// Connections or frames waiting for one worker.
const QUEUE: usize = 1_024;

/// What a worker is given.
pub enum Work {
    /// A connection of its own.
    Accept(AcceptedStream),
    /// A frame for all of its listeners.
    Send(Arc<[u8]>),
}

/// What all workers share.
pub struct Floor {
    /// None behind a proxy.
    pub acceptor: Option<TlsAcceptor>,
    /// The way to each worker.
    pub workers: Vec<Sender<Work>>,
}

/// Serves until standard input ends.
pub fn serve(options: &FloorOptions, workers: usize) -> Outcome<()> {
    let tls = if options.plain { None } else { Some(server_config(&options.certificate, &options.key)?) };
    if options.rest {
        return rest::serve(options, tls, workers);
    }
    let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let listener = TcpListener::bind(options.address)?;
    let (workers, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel(QUEUE)).unzip();
    let floor = Arc::new(Floor { acceptor, workers });
    for receiver in receivers {
        let floor = floor.clone();
        thread::spawn(move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(unconstrained(work(receiver, floor))),
            Err(error) => eprintln!("a worker has no runtime: {error}"),
        });
    }
    thread::spawn(move || accept(&listener, &floor.workers));
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
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

async fn work(mut receiver: Receiver<Work>, floor: Arc<Floor>) {
    let (mut sockets, mut joined) = (Vec::new(), Vec::new());
    let mut arriving = FuturesUnordered::new();
    let arrival = |stream| timeout(LONGEST_ARRIVAL, arrive::arrive(stream, floor.clone()));
    loop {
        tokio::select! {
            Some(socket) = arriving.next(), if !arriving.is_empty() => match socket {
                Ok(Ok(Some(socket))) => sockets.push(socket),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => eprintln!("a connection failed: {error}"),
                Err(_) => eprintln!("a connection took longer than {LONGEST_ARRIVAL:?}"),
            },
            work = receiver.recv() => match work {
                Some(Work::Accept(stream)) => arriving.push(arrival(stream)),
                Some(Work::Send(frame)) => joined.extend_from_slice(&frame),
                None => return,
            },
        }
        while !joined.is_empty() {
            match receiver.try_recv() {
                Ok(Work::Send(frame)) => joined.extend_from_slice(&frame),
                Ok(Work::Accept(stream)) => arriving.push(arrival(stream)),
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
        match arrive::write(socket, frame).await {
            Ok(()) => index += 1,
            Err(error) => {
                eprintln!("a connection is dropped: {error}");
                sockets.swap_remove(index);
            }
        }
    }
}
