//! How many connections the limit on open files leaves room for.

use super::error::StartError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most files that are kept for everything but clients.
const MOST_KEPT: u64 = 256;
/// What is open in any case or may be at any time: standard streams, listeners, the runtimes of the
/// process, its pool of connections to Postgres, the one that listens and the lease's, certificates, key sets,
/// [`METRICS_CONNECTIONS`] and [`METRICS_UNSEEN`].
const KEPT: u64 = 64;
/// What each worker has open.
const KEPT_PER_WORKER: u64 = 4;
/// Connections of the metrics listener, which is for operators alone.
pub(super) const METRICS_CONNECTIONS: usize = 16;
/// Connections of that listener which are accepted beyond those, and are being looked at.
pub(super) const METRICS_UNSEEN: usize = 4;
/// Fewer connections than this are not worth a start.
const WORTH_IT: usize = 16;
/// A limit on open files below which the start warns.
const FEW_FILES: u64 = 1_024;

/// What the limit on open files is shared out to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Connections of clients.
    pub connections: usize,
    /// Beyond those, for being told that there is no place.
    pub spare: usize,
    /// Beyond those, for what is accepted and not looked at yet.
    pub unseen: usize,
}

impl Room {
    /// As much as was asked for (0 for as much as there is) and as the limit on open files leaves.
    /// Raises the soft limit to the hard one first. Errors: `StartError`, where that is too little.
    pub fn find(asked: usize, workers: usize) -> Result<Self, StartError> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit on open files stays as it is");
        }
        let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        let room = Self::of(files, asked, workers)?;
        let connections = room.connections;
        if asked > connections {
            tracing::warn!(
                limit.files = files,
                connections,
                "HERALD_MAX_CONNECTIONS is beyond the limit on open files"
            );
        } else if files < FEW_FILES {
            tracing::warn!(limit.files = files, connections, "few files may be open");
        }
        tracing::info!(limit.files = files, connections, "there is room for so many connections");
        Ok(room)
    }

    fn of(files: u64, asked: usize, workers: usize) -> Result<Self, StartError> {
        let needed = KEPT + KEPT_PER_WORKER * workers as u64;
        let kept = (files / 4).min(MOST_KEPT).max(needed);
        // What actix counts is counted by worker, hence rounded up to a multiple of them.
        let left = files.saturating_sub(kept) as usize;
        let left = left.saturating_sub(workers);
        let spare = |connections: usize| (connections / 16).clamp(8, 64).min(connections);
        let most = left.saturating_sub(spare(left) + (left / 8).clamp(8, 256));
        let connections = if asked == 0 { most } else { asked.min(most) };
        if connections < WORTH_IT && (asked == 0 || connections < asked) {
            return Err(StartError(format!(
                "the limit on open files is {files}, which leaves room for {connections} \
                 connections: raise it to {} at least, better to 4096 (ulimit -n)",
                needed as usize + workers + 2 * 8 + WORTH_IT
            )));
        }
        let spare = spare(connections);
        let unseen = left.saturating_sub(connections + spare).min(256);
        Ok(Self { connections, spare, unseen })
    }

    /// Connections that one of so many workers may have open, whoever they are.
    pub fn of_a_worker(&self, workers: usize) -> usize {
        (self.connections + self.spare + self.unseen).div_ceil(workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_are_kept_are_kept_whatever_the_limit_and_the_workers() {
        for workers in [1, 2, 8, 64] {
            for files in (64..5_000).chain([20_000, 1 << 20]) {
                for asked in [0, 1, 16, 300, 10_000_000] {
                    let Ok(room) = Room::of(files, asked, workers) else { continue };
                    let accepted = room.of_a_worker(workers) * workers;
                    let kept = files - accepted as u64;
                    let needed = KEPT + KEPT_PER_WORKER * workers as u64;
                    assert!(kept >= needed.max((files / 4).min(MOST_KEPT)), "{files}: {room:?}");
                    let spare = room.connections.min(8);
                    assert!(room.unseen >= 8 && room.spare >= spare, "{files}: {room:?}");
                    assert!(asked == 0 || room.connections <= asked, "{files}: {room:?}");
                }
            }
        }
    }

    #[test]
    fn a_start_with_too_few_files_names_the_least_that_would_do() {
        let least = 64 + 4 * 2 + 2 + 16 + 16;
        for files in [64, 96, least - 1] {
            let sentence = Room::of(files, 0, 2).unwrap_err().to_string();
            assert!(sentence.contains(&format!("{files}, which leaves room for ")), "{sentence}");
            assert!(sentence.contains(&format!("to {least} at least")), "{sentence}");
        }
        assert_eq!(Room::of(least, 0, 2).unwrap().connections, WORTH_IT);
    }

    #[test]
    fn what_was_asked_for_is_given_as_far_as_there_are_files() {
        let all = Room::of(1_024, 0, 2).unwrap().connections;
        for (asked, given) in [(1, 1), (all - 1, all - 1), (all, all), (all + 1, all)] {
            assert_eq!(Room::of(1_024, asked, 2).unwrap().connections, given);
        }
    }
}
