//! Starts the programs of Postgres so that they outlive neither Herald nor their handle.

use super::account::Account;
use super::error::{LogEnd, PostgresError};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use tokio::sync::{oneshot, watch};

/// A log longer than this, in bytes, is begun anew where a program is started.
const LONGEST_LOG: u64 = 10 << 20;
/// How much of the log's end an error looks at, in bytes.
const LOG_END: u64 = 8 << 10;
/// How many lines of the log an error shows.
const LOG_LINES: usize = 12;

/// How programs are started: by whom, and where they write.
#[derive(Debug)]
pub(super) struct Launcher {
    setpriv: Option<PathBuf>,
    account: Option<Account>,
    log: PathBuf,
    /// Where the log ended before Herald was started.
    log_begin: u64,
}

impl Launcher {
    /// Makes ready the log at `log`, which is emptied if it has grown long.
    pub(super) fn new(
        setpriv: Option<PathBuf>,
        account: Option<Account>,
        log: PathBuf,
    ) -> Result<Self, PostgresError> {
        let file = open_log(&log).map_err(PostgresError::io("open", &log))?;
        let log_begin = shorten(&file).map_err(PostgresError::io("empty", &log))?;
        Ok(Self { setpriv, account, log, log_begin })
    }

    /// The command that runs `program`, apart from its arguments.
    pub(super) fn command(&self, program: &Path) -> Result<Command, PostgresError> {
        let log = || open_log(&self.log).map_err(PostgresError::io("open", &self.log));
        shorten(&log()?).map_err(PostgresError::io("empty", &self.log))?;
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        if let Some(account) = self.account {
            // The standard library leaves root's other groups too when root sets a user.
            command.uid(account.user_id).gid(account.group_id);
        }
        // Herald's environment holds secrets and may hold settings of other clusters (PGDATA,
        // PGPORT).
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).current_dir("/");
        // Ctrl-C in the terminal is for Herald, which then stops Postgres in its own time.
        command.process_group(0);
        Ok(command)
    }

    /// The last lines that were logged since Herald was started.
    pub(super) fn log_end(&self) -> LogEnd {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            // It may have been emptied since.
            let log_begin = if length < self.log_begin { 0 } else { self.log_begin };
            let begin = length.saturating_sub(LOG_END).max(log_begin);
            file.seek(SeekFrom::Start(begin))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(text)
        };
        let text = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<String> =
            text.lines().rev().take(LOG_LINES).map(str::to_owned).collect();
        lines.reverse();
        LogEnd { path: self.log.clone(), lines }
    }
}

/// Empties a log that has grown long; its length.
fn shorten(log: &File) -> io::Result<u64> {
    if log.metadata()?.len() > LONGEST_LOG {
        log.set_len(0)?;
    }
    Ok(log.metadata()?.len())
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// A running program; dropping it makes it end at once.
#[derive(Debug)]
pub(super) struct Process {
    id: Pid,
    /// Nothing while it runs, then whether it succeeded.
    outcome: watch::Receiver<Option<bool>>,
}

impl Process {
    /// Starts the command. Errors: the operating system's.
    pub(super) async fn spawn(command: Command) -> io::Result<Self> {
        let (started, start) = oneshot::channel();
        let (ended, outcome) = watch::channel(None);
        // The signal on the parent's death is sent when the thread that forked dies: this one lives
        // as long as its child.
        thread::Builder::new()
            .name("postgres".into())
            .spawn(move || run(command, started, ended))?;
        let id = start.await.map_err(io::Error::other)??;
        Ok(Self { id, outcome })
    }

    /// Its process id.
    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// Sends a signal unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if self.outcome.borrow().is_some() {
            return;
        }
        if let Err(error) = kill_process(self.id, signal) {
            tracing::warn!(process.id = self.id.as_raw_nonzero(), %error, "Postgres cannot be signalled");
        }
    }

    /// Waits for its end and says whether it succeeded.
    pub(super) async fn ended(&mut self) -> bool {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        outcome.is_ok_and(|outcome| *outcome == Some(true))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
    }
}

fn run(
    mut command: Command,
    started: oneshot::Sender<io::Result<Pid>>,
    ended: watch::Sender<Option<bool>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Whoever no longer listens needs no answer.
            let _ = started.send(Err(error));
            return;
        }
    };
    if started.send(Ok(Pid::from_child(&child))).is_err() {
        kill(&mut child);
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    ended.send_replace(Some(succeeded));
}

fn kill(child: &mut Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(process.id = child.id(), %error, "Postgres cannot be killed");
    }
}
