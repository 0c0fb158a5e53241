//! The cluster: where it lies, where its socket lies, and how it is made.

use super::account::{Account, give, make_private_dir, server_account};
use super::binaries::{Binaries, major_version};
use super::error::PostgresError;
use super::process::{Launcher, Process};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The superuser, and the name of the database.
pub(super) const NAME: &str = "herald";
/// Names the socket; nothing listens on the network.
pub(super) const PORT: u16 = 5432;
/// Where clusters lie that Postgres could not reach in the data directory.
const ELSEWHERE: &str = "/var/lib/herald";
/// The longest path of a socket in bytes, on the system that allows least (macOS).
const LONGEST_SOCKET: usize = 103;
/// How the name of a cluster goes on that initdb has not finished.
const UNFINISHED: &str = "new";

/// Where the cluster lies, and who serves it.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Absolute and without links.
    directory: PathBuf,
    /// `postgres` in the data directory: the cluster, or a link to it.
    entry: PathBuf,
    /// The directory of the socket.
    socket: PathBuf,
    /// The user of Postgres, if it is not Herald's.
    account: Option<Account>,
}

impl Cluster {
    /// Finds the cluster of a data directory, or a place for one. `data_dir` is absolute and
    /// without links.
    pub(super) fn locate(data_dir: &Path) -> Result<Self, PostgresError> {
        let entry = data_dir.join("postgres");
        let found = match entry.canonicalize() {
            Ok(directory) => Some(directory),
            Err(_) if entry.is_symlink() => return Err(PostgresError::LostCluster(entry)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(PostgresError::io("read", entry)(error)),
        };
        let metadata = found.as_ref().and_then(|directory| fs::metadata(directory).ok());
        let account = server_account(metadata.as_ref())?;
        let directory = match found {
            Some(directory) => directory,
            None => free_place(data_dir, account)?,
        };
        let socket = socket_dir(&directory);
        Ok(Self { directory, entry, socket, account })
    }

    /// Its directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The lock file that Postgres keeps beside its socket.
    pub(super) fn socket_lock(&self) -> PathBuf {
        self.socket.join(format!(".s.PGSQL.{PORT}.lock"))
    }

    /// The user of Postgres, if it is not Herald's.
    pub(super) fn account(&self) -> Option<Account> {
        self.account
    }

    /// The major version that made it; nothing if it is still to be made.
    pub(super) fn made_by(&self) -> Result<Option<u32>, PostgresError> {
        let path = self.directory.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(version) => Ok(major_version(&version)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PostgresError::io("read", path)(error)),
        }
    }

    /// Makes it, beside its place: it is there as a whole or not at all.
    pub(super) async fn make(
        &self,
        binaries: &Binaries,
        launcher: &Launcher,
    ) -> Result<(), PostgresError> {
        // Each under a name of its own: where there is no setpriv, the initdb of a Herald that was
        // killed goes on for a while, and must not write into this one.
        let moment = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let unfinished = self.directory.with_added_extension(format!("{UNFINISHED}-{moment}"));
        self.remove_unfinished();
        make_private_dir(&unfinished, self.account)?;
        let mut command = launcher.command(&binaries.initdb)?;
        command.arg("-D").arg(&unfinished).args(["-U", NAME, "--encoding=UTF8", "--locale=C"]);
        command.args(["--auth-local=trust", "--auth-host=reject"]);
        let initdb = Process::spawn(command).await;
        if !initdb.map_err(PostgresError::io("run", &binaries.initdb))?.ended().await {
            return Err(PostgresError::Initdb(launcher.log_end()));
        }
        fs::rename(&unfinished, &self.directory)
            .map_err(PostgresError::io("make", &self.directory))?;
        if self.entry != self.directory && !self.entry.is_symlink() {
            symlink(&self.directory, &self.entry)
                .map_err(PostgresError::io("make the link", &self.entry))?;
        }
        self.remove_unfinished();
        [&self.directory, &self.entry].into_iter().try_for_each(|path| sync_parent(path))
    }

    /// Deletes what initdbs left that did not come to their end. They are in nobody's way.
    fn remove_unfinished(&self) {
        let (Some(place), Some(name)) = (self.directory.parent(), self.directory.file_name())
        else {
            return;
        };
        let begin = [name.as_bytes(), b".", UNFINISHED.as_bytes()].concat();
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if !entry.file_name().as_bytes().starts_with(&begin) {
                continue;
            }
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(
                    cluster.path = %entry.path().display(), %error,
                    "an unfinished cluster cannot be deleted; it is not used"
                );
            }
        }
    }

    /// Makes the socket's directory if it is not the cluster's. Errors: it is there, but somebody
    /// else's.
    pub(super) fn make_socket_dir(&self) -> Result<(), PostgresError> {
        if self.socket == self.directory {
            return Ok(());
        }
        if !self.socket.is_symlink() && !self.socket.exists() {
            return make_private_dir(&self.socket, self.account);
        }
        let own = rustix::process::geteuid().as_raw();
        let metadata =
            fs::symlink_metadata(&self.socket).map_err(PostgresError::io("read", &self.socket))?;
        let is_own = metadata.uid() == own
            || self.account.is_some_and(|account| account.user_id == metadata.uid());
        if !metadata.is_dir() || !is_own || metadata.mode() & 0o077 != 0 {
            return Err(PostgresError::ForeignSocketDirectory(self.socket.clone()));
        }
        give(&self.socket, self.account)
    }
}

/// A place for a new cluster: in the data directory, unless the user of Postgres does not come
/// there.
fn free_place(data_dir: &Path, account: Option<Account>) -> Result<PathBuf, PostgresError> {
    let Some(account) = account else { return Ok(data_dir.join("postgres")) };
    if data_dir.parent().is_none_or(|parent| account.reaches(parent)) {
        account.let_through(data_dir)?;
    }
    if account.reaches(data_dir) {
        return Ok(data_dir.join("postgres"));
    }
    fs::create_dir_all(ELSEWHERE).map_err(PostgresError::io("make the directory", ELSEWHERE))?;
    let place = Path::new(ELSEWHERE).join(digest(data_dir));
    if place.exists() {
        // Its data directory was deleted: a new one begins empty, but deleting the data is not for
        // Herald to decide.
        let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let aside = place.with_added_extension(seconds.to_string());
        fs::rename(&place, &aside).map_err(PostgresError::io("move aside", &place))?;
        tracing::warn!(cluster.path = %aside.display(), "kept the cluster of a data directory that was deleted");
    }
    Ok(place)
}

/// The cluster's own directory, or a short one if the socket's path would be too long there or
/// could not be written in the list that the setting `unix_socket_directories` is.
fn socket_dir(cluster: &Path) -> PathBuf {
    let bytes = cluster.as_os_str().as_bytes();
    let length = bytes.len() + format!("/.s.PGSQL.{PORT}").len();
    if length <= LONGEST_SOCKET && !bytes.iter().any(|byte| b",\"".contains(byte)) {
        return cluster.to_owned();
    }
    Path::new("/tmp").join(format!("herald-{}", digest(cluster)))
}

/// A short name for a path, the same in every version of Herald (FNV-1a).
fn digest(path: &Path) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

fn sync_parent(path: &Path) -> Result<(), PostgresError> {
    let parent = path.parent().unwrap_or(path);
    let sync = || -> io::Result<()> { File::open(parent)?.sync_all() };
    sync().map_err(PostgresError::io("write", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_lies_in_the_cluster_unless_its_path_is_too_long() {
        assert_eq!(socket_dir(Path::new("/data/postgres")), Path::new("/data/postgres"));
        for cluster in [format!("/{}", "long".repeat(30)), "/data,more/postgres".into()] {
            let dir = socket_dir(Path::new(&cluster));
            assert!(dir.starts_with("/tmp") && dir.as_os_str().len() < 40, "{}", dir.display());
        }
    }

    #[test]
    fn the_digest_of_a_path_never_changes() {
        assert_eq!(digest(Path::new("")), "cbf29ce484222325");
        assert_eq!(digest(Path::new("a")), "af63dc4c8601ec8c");
    }
}
