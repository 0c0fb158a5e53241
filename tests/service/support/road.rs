//! A way to the database that can be stopped: what is on it stays there, and nobody is told.

use super::proxy::Proxy;
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

#[derive(Clone, Copy, Default)]
struct State {
    is_closed: bool,
    /// How often those on the way were left there.
    stranded: usize,
}

/// A way to one database.
pub struct Road {
    /// The database's URL by this way.
    pub url: String,
    state: watch::Sender<State>,
    /// Dropped when it is needed no more.
    _over: oneshot::Sender<()>,
}

impl Road {
    /// Opens a way to a database of the tests' cluster.
    pub async fn to(database: &str) -> Self {
        let options: PgConnectOptions = database.parse().expect("a URL");
        let folder = options.get_socket().expect("the cluster has a socket");
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        let (sender, state) = watch::channel(State::default());
        let (over, ended) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        // On a thread of its own: a test that waits for a server's end does nothing meanwhile.
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let serve = move |client| pass(client, socket.clone(), state.clone());
                let proxy = Proxy::start(serve).await;
                tell.send(proxy.port).expect("somebody waits");
                drop(ended.await);
            });
        });
        let port = told.await.expect("it is opened");
        let (user, name) = (options.get_username(), options.get_database().expect("a name"));
        let url = format!("postgres://{user}@127.0.0.1:{port}/{name}?sslmode=disable");
        Self { url, state: sender, _over: over }
    }

    /// Nothing passes any more.
    pub fn close(&self) {
        self.state.send_modify(|state| state.is_closed = true);
    }

    /// What is on the way stays there for ever; new connections pass.
    pub fn strand(&self) {
        self.state.send_modify(|state| state.stranded += 1);
    }

    /// New connections pass again; those that were stopped end.
    pub fn open(&self) {
        self.state.send_modify(|state| state.is_closed = false);
    }
}

async fn pass(mut client: TcpStream, socket: PathBuf, mut state: watch::Receiver<State>) {
    let mut server = UnixStream::connect(socket).await.expect("Postgres listens");
    let (begun, mut stopping) = (*state.borrow(), state.clone());
    let is_stopped = |now: &State| now.is_closed || now.stranded != begun.stranded;
    tokio::select! {
        biased;
        _ = stopping.wait_for(is_stopped) => {}
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
    }
    // Both ends are held on to, as when a network is gone.
    let is_over = |now: &State| !now.is_closed && now.stranded == begun.stranded;
    drop(state.wait_for(is_over).await);
}
