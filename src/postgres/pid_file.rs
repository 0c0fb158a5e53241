//! `postmaster.pid`: who serves the cluster, whether it is ready, and the remains of one that was
//! killed.

use super::cluster::Cluster;
use super::error::PostgresError;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the remains of an earlier Postgres have to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an earlier Postgres has to end in order.
const ORDER: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(50);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    /// The postmaster (line 1).
    pub(super) process_id: Pid,
    /// The cluster that it serves (line 2).
    pub(super) directory: PathBuf,
    /// Whether it takes connections (line 8).
    pub(super) is_ready: bool,
}

impl PidFile {
    /// Reads the file of the cluster; nothing if there is none or it is being written.
    pub(super) fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let process_id =
            lines.next()?.trim().parse().ok().filter(|id| *id > 0).and_then(Pid::from_raw)?;
        let directory = PathBuf::from(lines.next()?);
        let is_ready = lines.nth(5).is_some_and(|status| status.trim() == "ready");
        Some(Self { process_id, directory, is_ready })
    }
}

/// Ends what is left of an earlier Postgres whose Herald was killed. Only for the holder of the
/// cluster's lock. Errors: it does not end.
pub(super) async fn end_remains(cluster: &Cluster) -> Result<(), PostgresError> {
    let directory = cluster.directory();
    let begun = Instant::now();
    let mut was_asked = false;
    while let Some(file) = PidFile::read(directory) {
        let remains = remains(directory, &file);
        let Some(first) = remains.first() else {
            forget_foreign(cluster, &file);
            return Ok(());
        };
        if begun.elapsed() > PATIENCE {
            let process_id = first.as_raw_nonzero().get();
            return Err(PostgresError::Lingering { process_id, directory: directory.to_owned() });
        }
        if !remains.contains(&file.process_id) || begun.elapsed() > ORDER {
            // Without their postmaster the others have nothing to wait for.
            remains.iter().for_each(|id| signal(*id, Signal::QUIT));
        } else if !was_asked {
            tracing::warn!(
                process.id = file.process_id.as_raw_nonzero(),
                "ending an earlier Postgres"
            );
            signal(file.process_id, Signal::INT);
            was_asked = true;
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The processes of Postgres that live on the cluster. All of them work in its directory; where
/// `/proc` does not tell, the postmaster of the file is the only one known.
fn remains(directory: &Path, file: &PidFile) -> Vec<Pid> {
    if !knows_processes() {
        let is_remaining = file.directory == directory && is_postgres(file.process_id);
        return is_remaining.then_some(file.process_id).into_iter().collect();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_here = |process: &Path| {
        fs::read_link(process.join("cwd")).is_ok_and(|working| working == directory)
    };
    let is_postgres = |process: &Path| {
        fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"postgres"))
    };
    entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let process = entry.path();
            (works_here(&process) && is_postgres(&process)).then_some(id)
        })
        .collect()
}

/// Postgres refuses to start if the number of its killed postmaster belongs to anyone now, even to
/// a zombie.
fn forget_foreign(cluster: &Cluster, file: &PidFile) {
    if !knows_processes() || test_kill_process(file.process_id).is_err() {
        return;
    }
    for path in [cluster.directory().join("postmaster.pid"), cluster.socket_lock()] {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(file.path = %path.display(), %error, "a stale lock of Postgres is not deleted");
        }
    }
}

fn signal(id: Pid, signal: Signal) {
    if let Err(error) = kill_process(id, signal) {
        tracing::debug!(process.id = id.as_raw_nonzero(), %error, "an earlier Postgres cannot be signalled");
    }
}

fn knows_processes() -> bool {
    Path::new("/proc/self/cwd").is_symlink()
}

fn is_postgres(id: Pid) -> bool {
    let output =
        Command::new("ps").args(["-o", "comm=", "-p", &id.as_raw_nonzero().to_string()]).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with("postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "4711\n/data/postgres\n1700000000\n5432\n/data/postgres\n\n  123456   7\n";

    #[test]
    fn the_file_says_who_serves_what_and_whether_it_is_ready() {
        let expected = |is_ready| PidFile {
            process_id: Pid::from_raw(4711).unwrap(),
            directory: PathBuf::from("/data/postgres"),
            is_ready,
        };
        assert_eq!(PidFile::parse(FILE), Some(expected(false)));
        assert_eq!(PidFile::parse(&format!("{FILE}starting\n")), Some(expected(false)));
        assert_eq!(PidFile::parse(&format!("{FILE}ready   \n")), Some(expected(true)));
    }

    #[test]
    fn a_file_that_is_being_written_or_is_of_a_single_user_says_nothing() {
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("4711"), None);
        assert_eq!(PidFile::parse("-4711\n/data/postgres\n"), None);
    }
}
