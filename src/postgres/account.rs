//! The user as whom Postgres runs when Herald is root, which Postgres refuses to be.

use super::error::PostgresError;
use rustix::process::geteuid;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// A user that is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// The user id.
    pub(super) user_id: u32,
    /// The id of the user's group.
    pub(super) group_id: u32,
}

/// Chooses the user for Postgres: none if Herald is not root, else the owner of the cluster if
/// there is one, else `postgres`, else `nobody`. Errors: there is no such user.
pub(super) fn server_account(cluster: Option<&Metadata>) -> Result<Option<Account>, PostgresError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Some(owner) = cluster.filter(|cluster| cluster.uid() != 0) {
        return Ok(Some(Account { user_id: owner.uid(), group_id: owner.gid() }));
    }
    let passwd =
        fs::read_to_string("/etc/passwd").map_err(PostgresError::io("read", "/etc/passwd"))?;
    let account =
        ["postgres", "_postgres", "nobody"].iter().find_map(|name| account_named(name, &passwd));
    account.map(Some).ok_or(PostgresError::NoAccount)
}

/// Makes a directory that only Postgres enters.
pub(super) fn make_private_dir(dir: &Path, account: Option<Account>) -> Result<(), PostgresError> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    made.map_err(PostgresError::io("make the directory", dir))?;
    give(dir, account)
}

/// Makes Postgres the owner of a directory. Without an account it is the owner already.
pub(super) fn give(dir: &Path, account: Option<Account>) -> Result<(), PostgresError> {
    let Some(account) = account else { return Ok(()) };
    let given = lchown(dir, Some(account.user_id), Some(account.group_id));
    given.map_err(PostgresError::io("give to the user of Postgres the directory", dir))
}

impl Account {
    /// Lets the user through a directory that is closed to all but root: through, but not to list
    /// it.
    pub(super) fn let_through(self, dir: &Path) -> Result<(), PostgresError> {
        let metadata = fs::metadata(dir).map_err(PostgresError::io("read", dir))?;
        if metadata.uid() != 0 || metadata.mode() & 0o077 != 0 {
            return Ok(());
        }
        lchown(dir, None, Some(self.group_id))
            .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o710)))
            .map_err(PostgresError::io("open to the user of Postgres the directory", dir))
    }

    /// Whether the user comes through this directory and all above it.
    pub(super) fn reaches(self, dir: &Path) -> bool {
        dir.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|metadata| self.passes(&metadata)))
    }

    fn passes(self, dir: &Metadata) -> bool {
        let bit = match (dir.uid() == self.user_id, dir.gid() == self.group_id) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        dir.mode() & bit != 0
    }
}

fn account_named(name: &str, passwd: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let (user_id, group_id) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (user_id != 0).then_some(Account { user_id, group_id })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_is_never_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(
            account_named("postgres", passwd),
            Some(Account { user_id: 101, group_id: 104 })
        );
        assert_eq!(account_named("root", passwd), None);
        assert_eq!(account_named("nobody", passwd), None);
    }
}
