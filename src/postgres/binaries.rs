//! Finds the programs of an installed PostgreSQL server.

use super::error::PostgresError;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{cmp, env, fs};
use tokio::process::Command;

/// The programs of one installation.
#[derive(Debug)]
pub(super) struct Binaries {
    /// Makes a cluster.
    pub(super) initdb: PathBuf,
    /// Serves it.
    pub(super) postgres: PathBuf,
}

/// Finds the programs: in `bin_dir` alone if it is given, else in PATH and in the usual places.
/// `made_by` is the major version that made the cluster, if there is one. Errors: none found, or
/// none of that version.
pub(super) async fn find_binaries(
    bin_dir: Option<&Path>,
    made_by: Option<u32>,
) -> Result<Binaries, PostgresError> {
    let places = match bin_dir {
        Some(dir) if holds_server(dir) => {
            vec![std::path::absolute(dir).map_err(PostgresError::io("resolve", dir))?]
        }
        Some(dir) => return Err(PostgresError::NoBinariesIn(dir.to_owned())),
        None => usual_places(Some(&search_path()), Path::new("/")),
    };
    let mut other = None;
    for place in places {
        let binaries = Binaries { initdb: place.join("initdb"), postgres: place.join("postgres") };
        let Some(made) = made_by else { return Ok(binaries) };
        let installed = installed_version(&binaries.postgres).await?;
        if made == installed {
            return Ok(binaries);
        }
        other.get_or_insert(PostgresError::OtherVersion { made, installed });
    }
    Err(other.unwrap_or(PostgresError::NoBinaries))
}

/// Finds util-linux's setpriv, which has Postgres killed when Herald is; other systems and busybox
/// have none.
pub(super) async fn find_setpriv() -> Option<PathBuf> {
    let path = search_path();
    let usual = ["/usr/bin", "/bin"].map(PathBuf::from);
    let dir = env::split_paths(&path)
        .chain(usual)
        .find(|dir| dir.is_absolute() && dir.join("setpriv").is_file())?;
    let setpriv = dir.join("setpriv");
    let help = Command::new(&setpriv).arg("--help").output().await.ok()?;
    String::from_utf8_lossy(&help.stdout).contains("--pdeathsig").then_some(setpriv)
}

#[expect(
    clippy::disallowed_methods,
    reason = "where a system keeps its programs is no setting of Herald"
)]
fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

/// Reads the major version at the start of `text`, such as 15 in "15.13 (Debian)", "15" or
/// "15beta1".
pub(super) fn major_version(text: &str) -> Option<u32> {
    let text = text.trim_start();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

async fn installed_version(postgres: &Path) -> Result<u32, PostgresError> {
    let output = Command::new(postgres).arg("--version").output().await;
    let output = output.map_err(PostgresError::io("run", postgres))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_once("(PostgreSQL)").and_then(|(_, version)| major_version(version));
    version.ok_or_else(|| PostgresError::NoVersion(postgres.to_owned()))
}

/// The directories that hold a server, the preferred ones first. `root` is `/` but in tests.
fn usual_places(path: Option<&OsStr>, root: &Path) -> Vec<PathBuf> {
    let path = path.map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    path.into_iter()
        .filter(|dir| dir.is_absolute())
        .chain(newest_first(&root.join("usr/lib/postgresql"), ""))
        .chain(newest_first(&root.join("opt/homebrew/opt"), "postgresql"))
        .chain(newest_first(&root.join("usr/local/opt"), "postgresql"))
        .filter(|dir| holds_server(dir))
        .collect()
}

/// The `bin` directories of the versions in `parent`, whose names begin with `prefix`: `15` or
/// `postgresql@15`.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.trim_start_matches('@');
            Some((major_version(version).unwrap_or(0), entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| cmp::Reverse(*version));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

fn holds_server(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, dir: &str) -> PathBuf {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("initdb"), "").unwrap();
        fs::write(dir.join("postgres"), "").unwrap();
        dir
    }

    #[test]
    fn the_path_comes_first_then_the_newest_of_debian_then_homebrew() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let brew = install(root, "opt/homebrew/opt/postgresql@17/bin");
        let old = install(root, "usr/lib/postgresql/9.6/bin");
        let nine = install(root, "usr/lib/postgresql/9/bin");
        let new = install(root, "usr/lib/postgresql/16/bin");
        let own = install(root, "own/bin");
        fs::create_dir_all(root.join("usr/lib/postgresql/18/bin")).unwrap();
        let path = env::join_paths([root.join("empty"), own.clone()]).unwrap();
        let mut places = usual_places(Some(&path), root);
        places[2..4].sort();
        assert_eq!(places, [own, new, nine, old, brew]);
    }

    #[test]
    fn the_major_version_is_read_from_the_program_and_from_the_cluster() {
        assert_eq!(major_version(" 15.13 (Debian 15.13-0+deb12u1)"), Some(15));
        assert_eq!(major_version("15\n"), Some(15));
        assert_eq!(major_version("18beta1"), Some(18));
        assert_eq!(major_version("devel"), None);
    }

    #[tokio::test]
    async fn a_configured_directory_without_a_server_is_named() {
        let error = find_binaries(Some(Path::new("/nowhere")), None).await.unwrap_err();
        assert!(error.to_string().starts_with("HERALD_PG_BIN is /nowhere"), "{error}");
    }
}
