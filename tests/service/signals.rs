//! Signals: which ask Herald to go away in order, and when SIGHUP does.

use crate::command_line::{
    ANYWHERE, Client, Herald, ca, data_directory, development_token, herald_by,
};
use crate::support::{postgres, within};
use futures_util::StreamExt;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::protocol::Message;

const RELOADS: &str = "asked to read certificate and keys again";

/// Starts a process in a session of its own, without a terminal, as service managers do.
const SERVICE: &[&str] = &["setsid"];
/// Starts it with standard input as the terminal of its session, as a login does.
const FROM_TERMINAL: &[&str] = &["setsid", "--ctty"];
/// The same by `nohup`.
const NOHUP: &[&str] = &["setsid", "--ctty", "nohup"];

/// A terminal: the end that a terminal emulator holds, which closes it, and the end of programs.
fn terminal() -> (OwnedFd, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let emulator = openpt(flags).expect("a terminal");
    grantpt(&emulator).expect("it is ours");
    unlockpt(&emulator).expect("it is ours");
    let name = ptsname(&emulator, Vec::new()).expect("it has a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let programs = open(&*name, flags, Mode::empty()).expect("it is open");
    (emulator, programs.into())
}

/// A Herald with one open socket.
struct Served {
    data: TempDir,
    herald: Herald,
    alice: Client,
}

impl Served {
    async fn start(launcher: &[&str], input: impl Into<Stdio>) -> Self {
        let data = data_directory();
        let mut command = herald_by(launcher, &ANYWHERE);
        command.arg(data.path()).env("DATABASE_URL", postgres::database().await).stdin(input);
        let herald = Herald::greeted(&mut command).await;
        let alice = development_token(data.path(), &["--user", "alice"]).await;
        let alice = herald.connect(&ca(&data), &alice).await;
        Self { data, herald, alice }
    }

    /// Reads its files again and goes on.
    async fn reloads(&mut self) {
        self.herald.logs(RELOADS).await;
        self.alice.send("PING").await;
        assert_eq!(self.alice.frame().await["type"], "PONG");
    }

    /// Goes away as it should: the client is told when to come back, and the window is kept.
    async fn drains(self) {
        let Self { data, herald, mut alice } = self;
        assert_eq!(alice.frame().await["type"], "RECONNECT");
        let close = within("the close", alice.0.next()).await;
        let is_told = matches!(&close, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1012);
        assert!(is_told, "{close:?}");
        drop(alice);
        assert_eq!(herald.ended().await, Some(0));
        assert!(has_window(data.path()));
    }
}

fn has_window(data: &Path) -> bool {
    data.join("window.jsonl").exists()
}

#[actix_web::test]
async fn sigterm_sigint_and_sigquit_send_everyone_away_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let served = Served::start(SERVICE, Stdio::null()).await;
        served.herald.signal(signal);
        served.drains().await;
    }
}

#[actix_web::test]
async fn a_second_signal_to_go_away_ends_at_once_and_a_sighup_does_not() {
    for second in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut served = Served::start(SERVICE, Stdio::null()).await;
        served.herald.signal(Signal::TERM);
        assert_eq!(served.alice.frame().await["type"], "RECONNECT");
        served.herald.signal(second);
        assert_eq!(served.herald.ended().await, Some(1));
        assert!(!has_window(served.data.path()), "it did not end at once");
    }
    let served = Served::start(SERVICE, Stdio::null()).await;
    for signal in [Signal::TERM, Signal::HUP, Signal::HUP] {
        served.herald.signal(signal);
    }
    served.drains().await;
}

#[actix_web::test]
async fn sighup_has_a_service_read_its_files_again_and_cuts_nobody() {
    let mut served = Served::start(SERVICE, Stdio::null()).await;
    for _ in 0..2 {
        served.herald.signal(Signal::HUP);
        served.reloads().await;
    }
    served.herald.signal(Signal::TERM);
    served.drains().await;
}

#[actix_web::test]
async fn sighup_drains_once_the_terminal_is_closed_and_not_before() {
    let (emulator, programs) = terminal();
    let mut served = Served::start(FROM_TERMINAL, programs).await;
    served.herald.signal(Signal::HUP);
    served.reloads().await;
    drop(emulator);
    served.drains().await;
}

#[actix_web::test]
async fn under_nohup_a_closed_terminal_ends_nothing() {
    let (emulator, programs) = terminal();
    let mut served = Served::start(NOHUP, programs).await;
    drop(emulator);
    served.reloads().await;
    served.herald.signal(Signal::HUP);
    served.reloads().await;
    served.herald.signal(Signal::QUIT);
    served.drains().await;
}
