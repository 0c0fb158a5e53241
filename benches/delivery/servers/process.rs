//! Server processes: starting them, reading what they use from `/proc`, and ending them whatever
//! happens.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setpriority_process, setrlimit,
};

use tokio::time::sleep;

use crate::{Failure, Outcome};

/// How long a server may take to end after SIGTERM before it is killed.
const LONGEST_END: Duration = Duration::from_secs(15);

/// How often the memory is looked at whose peak is wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running server. Dropping it ends the process: SIGTERM first, SIGKILL after `LONGEST_END`.
pub struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both of its outputs in `directory/name.log`.
    pub fn start(name: &'static str, mut command: Command, directory: &Path) -> Outcome<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        Ok(Self { child, name, log })
    }

    /// The way to the process' standard input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Tells it to end (SIGTERM), and waits until it has.
    pub async fn end(&mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + LONGEST_END;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(
                    format!("{} did not end within {LONGEST_END:?} of SIGTERM", self.name).into()
                );
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Outcome<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Errors when the process has ended by itself.
    pub fn check_running(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended by itself: {status}", self.name).into()),
        }
    }

    /// `failure`, followed by the last lines that the server wrote.
    pub fn explain(&self, failure: Failure) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n  ");
        format!("{failure}\nThe last lines of {}:\n  {last}", self.name).into()
    }

    /// User and system CPU seconds of all its threads since the process started.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Gives all its threads this nice value, -20 to 19; raising it needs no privilege.
    pub fn lower_priority(&self, nice: i32) -> Outcome<()> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let id = thread?.file_name().to_string_lossy().parse()?;
            setpriority_process(Pid::from_raw(id), nice)?;
        }
        Ok(())
    }

    /// KiB that it holds in memory now: `VmRSS`.
    pub fn resident(&self) -> Outcome<f64> {
        resident(self.child.id())
    }

    /// Begins to look again and again how much it holds in memory.
    pub fn watch_memory(&self) -> Peak {
        let id = self.child.id();
        let (stop, stopped) = sync_channel(0);
        let looking = thread::spawn(move || {
            let mut peak: f64 = 0.0;
            loop {
                peak = peak.max(resident(id)?);
                if stopped.recv_timeout(LOOK_AGAIN) != Err(RecvTimeoutError::Timeout) {
                    return Ok(peak);
                }
            }
        });
        Peak { stop, looking }
    }

    /// What the process holds in memory now.
    pub fn memory(&self) -> Outcome<Memory> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let proportional = kibibytes(&rollup, "Pss:").ok_or("/proc/PID/smaps_rollup has no Pss")?;
        Ok(Memory { resident: self.resident()?, proportional })
    }
}

/// A thread that looks how much a process holds in memory; it ends with this.
pub struct Peak {
    stop: SyncSender<()>,
    looking: JoinHandle<Outcome<f64>>,
}

impl Peak {
    /// The most that was seen, in KiB.
    pub fn end(self) -> Outcome<f64> {
        drop(self.stop);
        self.looking.join().map_err(|_| "the thread that looks at the memory panicked")?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        let deadline = Instant::now() + LONGEST_END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!(
                    "{} did not end within {LONGEST_END:?} of SIGTERM and is killed",
                    self.name
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn resident(process: u32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(kibibytes(&status, "VmRSS:").ok_or("/proc/PID/status has no VmRSS")?)
}

/// How busy the machine was in the last minute, as `/proc/loadavg` says it.
pub fn load_average() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// User and system CPU seconds of this process: listeners and publishers.
pub fn own_cpu_seconds() -> Outcome<f64> {
    cpu_seconds("self")
}

fn cpu_seconds(process: &str) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = ticks_used(&text).ok_or("/proc/PID/stat has an unknown form")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// KiB that the kernel holds for its own objects and in socket buffers, of the whole machine.
pub fn kernel_memory() -> Outcome<f64> {
    let slab = kibibytes(&fs::read_to_string("/proc/meminfo")?, "Slab:")
        .ok_or("/proc/meminfo has no Slab")?;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let pages = sockets
        .lines()
        .find_map(|line| line.strip_prefix("TCP:")?.split_once(" mem ")?.1.trim().parse().ok());
    let pages: f64 = pages.ok_or("/proc/net/sockstat has no TCP mem")?;
    Ok(slab + pages * (rustix::param::page_size() / 1_024) as f64)
}

/// Memory of one process in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// `VmRSS`.
    pub resident: f64,
    /// `Pss`: pages shared with other processes count in part.
    pub proportional: f64,
}

/// A directory of its own under the system's temporary one, removed when dropped.
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Makes the directory; others may pass through it, because a private Postgres may run as
    /// another user.
    pub fn create() -> Outcome<Self> {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let path =
            std::env::temp_dir().join(format!("herald-bench-{}-{nanoseconds}", std::process::id()));
        fs::create_dir(&path)?;
        let directory = Self(path);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(directory)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// A loopback address that nothing listened on a moment ago.
pub fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Raises the soft limit on open files to the hard one, for this process and those it starts.
/// Errors when even that is less than `needed`.
pub fn raise_file_limit(needed: u64) -> Outcome<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    match limit.maximum {
        Some(most) if most < needed => {
            Err(format!("{needed} open files are needed; `ulimit -Hn` is {most}").into())
        }
        _ => Ok(()),
    }
}

/// utime + stime (fields 14 and 15 of `proc_pid_stat(5)`); the name before them may contain
/// anything but ends with `)`.
fn ticks_used(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kibibytes(text: &str, label: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}
