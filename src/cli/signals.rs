//! What the signals of the process ask for: to go away, or to read files again.

use rustix::io::Errno;
use rustix::process::Signal as Number;
use std::fs::{self, File};
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// How often it is looked whether the terminal is gone: the kernel sends SIGHUP a moment before it
/// takes the terminal away.
const LOOKS: u32 = 5;
/// How long it waits between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What an operator asks for by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Go away in order.
    End,
    /// Read certificates and keys again.
    Reload,
}

/// The signals that Herald listens to.
struct Signals {
    /// Those that always ask it to go away.
    endings: Endings,
    /// SIGHUP, which may ask for either.
    hangup: Signal,
    /// Whether a SIGHUP means that the terminal was closed: Herald was started from one, and not
    /// by `nohup`.
    follows_terminal: bool,
}

/// The signals that always ask to go away.
struct Endings {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// Listens from now on. The first part resolves at the first signal that asks Herald to go away; a
/// second one, SIGHUP apart, ends the process at once. The other part gets word of each wish to
/// read files again. Must be called inside a tokio runtime. Errors: the operating system's.
pub(super) fn listen() -> io::Result<(impl Future<Output = ()>, mpsc::Receiver<()>)> {
    let follows_terminal = !is_ignored(Number::HUP) && File::open("/dev/tty").is_ok();
    let endings = Endings {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        quit: signal(SignalKind::quit())?,
    };
    let signals = Signals { endings, hangup: signal(SignalKind::hangup())?, follows_terminal };
    let (end, ended) = oneshot::channel::<()>();
    // While one wish waits, another one is the same.
    let (reload, reloads) = mpsc::channel(1);
    tokio::spawn(signals.follow(end, reload));
    Ok((async { drop(ended.await) }, reloads))
}

impl Signals {
    async fn follow(mut self, end: oneshot::Sender<()>, reload: mpsc::Sender<()>) {
        while self.next().await == Wish::Reload {
            let _ = reload.try_send(());
        }
        drop(end);
        // A closed terminal may send SIGHUP twice: only the others end what is going away.
        self.endings.next().await;
        std::process::exit(1);
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            () = self.endings.next() => return Wish::End,
            _ = self.hangup.recv() => {}
        }
        for _ in 0..LOOKS {
            if !self.follows_terminal {
                break;
            }
            if is_terminal_gone() {
                tracing::info!("the terminal is closed");
                return Wish::End;
            }
            sleep(LOOK).await;
        }
        Wish::Reload
    }
}

impl Endings {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Whether the process has no controlling terminal any more. That it cannot be opened for another
/// reason says nothing.
fn is_terminal_gone() -> bool {
    let opened = File::open("/dev/tty");
    opened.is_err_and(|error| error.raw_os_error() == Some(Errno::NXIO.raw_os_error()))
}

/// Whether whoever started the process has it ignore a signal, as `nohup` does; never where the
/// system does not tell.
fn is_ignored(number: Number) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, number)
}

/// Reads the line `SigIgn` of a process's status (proc(5)): one bit a signal, the first one's lowest.
fn ignores(status: &str, number: Number) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read_bit_by_bit() {
        for (status, hup, int) in [
            ("Name:\therald\nSigIgn:\t0000000000001001\nSigCgt:\t0\n", true, false),
            ("SigIgn:\t0000000000000002\n", false, true),
            ("SigIgn:\t0000000000001000\n", false, false),
            ("SigIgn: none of it\n", false, false),
            ("", false, false),
        ] {
            let read = (ignores(status, Number::HUP), ignores(status, Number::INT));
            assert_eq!(read, (hup, int), "{status}");
        }
    }
}
