//! TCP proxies between clients and the server: a plain one, and a bad network that delays, stalls
//! and cuts.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Most bytes that a storm passes on at once.
const MOST_AT_ONCE: u64 = 4_096;
/// Of so many connections one is cut while it is being made: within TLS' handshake, the upgrade or
/// the first frame.
const CUT_EARLY: u64 = 50;
/// Bytes both ways within which those are cut.
const EARLY_BYTES: u64 = 7_000;
/// Bytes both ways within which the others are cut, beyond the early ones.
const LATE_BYTES: u64 = 300_000;
/// The receive buffer towards the server, in bytes: small, so that the server feels a stall.
const RECEIVE_BUFFER: u32 = 8_192;

/// A listener on a port of its own that hands every connection on. Dropping it ends them all.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    _connections: JoinSet<()>,
}

impl Proxy {
    /// Listens, and has each connection served.
    pub async fn start<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client));
            }
        });
        Self { port, _connections: connections }
    }
}

/// Random choices, the same for the same seed (SplitMix64).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// Choices that `seed` repeats.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other choices that the same seed repeats.
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    /// A number from 0 to `end`, without it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }
}

/// A bad network before the server: what passes comes in odd pieces, late, or not at all, and every
/// connection is cut at some byte, wherever in a TLS record or a frame that is.
pub struct Storm {
    /// What clients connect to.
    pub port: u16,
    cuts: watch::Receiver<u32>,
    calm: watch::Sender<bool>,
    _proxy: Proxy,
}

/// What every connection through a storm knows.
#[derive(Clone)]
struct Weather {
    /// Where the server is now.
    server: watch::Receiver<u16>,
    calm: watch::Receiver<bool>,
    cuts: watch::Sender<u32>,
}

/// One connection through a storm.
struct Passage {
    client: TcpStream,
    server: TcpStream,
    calm: watch::Receiver<bool>,
    dice: Dice,
    /// Bytes until it is cut.
    left: usize,
}

impl Storm {
    /// Breaks loose before the server, which may come back on another port.
    pub async fn start(server: watch::Receiver<u16>, mut dice: Dice) -> Self {
        let (calm, is_calm) = watch::channel(false);
        let (cut, cuts) = watch::channel(0);
        let weather = Weather { server, calm: is_calm, cuts: cut };
        let proxy = Proxy::start(move |client| weather.clone().serve(client, dice.fork())).await;
        Self { port: proxy.port, cuts, calm, _proxy: proxy }
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> u32 {
        *self.cuts.borrow()
    }

    /// Waits until so many connections were cut.
    pub async fn has_cut(&mut self, count: u32) {
        while *self.cuts.borrow_and_update() < count {
            super::within("another cut", self.cuts.changed()).await.expect("the storm goes on");
        }
    }

    /// Passes on everything from now on, at once.
    pub fn calm(&self) {
        self.calm.send_replace(true);
    }
}

impl Weather {
    async fn serve(mut self, client: TcpStream, mut dice: Dice) {
        let server = self.reach_server().await;
        let early = dice.one_in(CUT_EARLY);
        let left =
            1 + if early { dice.below(EARLY_BYTES) } else { EARLY_BYTES + dice.below(LATE_BYTES) };
        let mut passage = Passage { client, server, calm: self.calm, dice, left: left as usize };
        if passage.lasts().await {
            self.cuts.send_modify(|cuts| *cuts += 1);
            passage.cut().await;
        }
    }

    /// Waits for a killed server to come back.
    async fn reach_server(&mut self) -> TcpStream {
        loop {
            let port = *self.server.borrow_and_update();
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a buffer");
            match socket.connect(([127, 0, 0, 1], port).into()).await {
                Ok(server) => return server,
                Err(_) => self.server.changed().await.expect("the test goes on"),
            }
        }
    }
}

impl Passage {
    /// Passes bytes on until the cut (true) or the end of either side (false).
    async fn lasts(&mut self) -> bool {
        let (mut asked, mut answered) = ([0; MOST_AT_ONCE as usize], [0; MOST_AT_ONCE as usize]);
        while !*self.calm.borrow() {
            let most = 1 + self.dice.below(MOST_AT_ONCE) as usize;
            let (read, bytes, target) = tokio::select! {
                read = self.client.read(&mut asked[..most]) => (read, &asked, &mut self.server),
                read = self.server.read(&mut answered[..most]) => (read, &answered, &mut self.client),
            };
            let Ok(read @ 1..) = read else { return false };
            dawdle(&mut self.dice).await;
            let passing = read.min(self.left);
            if target.write_all(&bytes[..passing]).await.is_err() {
                return false;
            }
            self.left -= passing;
            if self.left == 0 {
                return true;
            }
        }
        drop(tokio::io::copy_bidirectional(&mut self.client, &mut self.server).await);
        false
    }

    /// Cuts both sides in order or with a reset; one in five leaves the server with a client that
    /// is gone.
    async fn cut(mut self) {
        for side in [&mut self.client, &mut self.server] {
            if self.dice.one_in(2) {
                drop(side.set_zero_linger());
            } else {
                drop(side.shutdown().await);
            }
        }
        let Self { client, server, mut dice, .. } = self;
        drop(client);
        if dice.one_in(5) {
            sleep(dice.milliseconds(100, 3_000)).await;
        }
        drop(server);
    }
}

/// Now and then a delay, seldom a stall.
async fn dawdle(dice: &mut Dice) {
    if dice.one_in(400) {
        sleep(dice.milliseconds(100, 1_500)).await;
    } else if dice.one_in(40) {
        sleep(dice.milliseconds(1, 25)).await;
    }
}
