//! Whose processors are whose, where clients are to take none of the server's.

use std::fs;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;

/// The processors that this process may use, in two halves. Dropping it lets all its threads use
/// all of them again.
pub struct Processors {
    all: CpuSet,
    servers: CpuSet,
    clients: CpuSet,
}

impl Processors {
    /// Halves them, the smaller half for the server; none where there is only one.
    pub fn halved() -> Outcome<Option<Self>> {
        let all = sched_getaffinity(None)?;
        let (mut servers, mut clients) = (CpuSet::new(), CpuSet::new());
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)) {
            let half = if servers.count() < all.count() / 2 { &mut servers } else { &mut clients };
            half.set(processor);
        }
        Ok((servers.count() > 0).then_some(Self { all, servers, clients }))
    }

    /// From now on what this process starts has only the server's half: threads and processes
    /// inherit it.
    pub fn become_the_servers(&self) -> Outcome<()> {
        confine(&self.servers)
    }

    /// From now on this process has only the clients' half.
    pub fn become_the_clients(&self) -> Outcome<()> {
        confine(&self.clients)
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        if let Err(failure) = confine(&self.all) {
            eprintln!("this process keeps the processors of its clients: {failure}");
        }
    }
}

/// Lets all threads of this process use these processors only.
fn confine(processors: &CpuSet) -> Outcome<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        let id = thread?.file_name().to_string_lossy().parse()?;
        match sched_setaffinity(Pid::from_raw(id), processors) {
            // It has ended meanwhile.
            Err(Errno::SRCH) => {}
            result => result?,
        }
    }
    Ok(())
}
