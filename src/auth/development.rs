//! The development key in the data directory, and tokens signed with it: a first look without an
//! identity provider.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the key lies in the data directory.
const FILE: &str = "development.key";
/// Random bytes in a key; written as twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;

/// An HS256 secret that Herald made for itself. Never printed.
pub struct DevelopmentKey(String);

impl DevelopmentKey {
    /// Reads the key of a data directory; makes it, readable for its owner only, if there is none.
    /// Errors: those of the file system.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read.map(|text| Self(text.trim().into())),
        }
        fs::create_dir_all(data_dir)?;
        let new = data_dir.join(format!("{FILE}.{}", std::process::id()));
        write_new(&new)?;
        // Of two that make it at once one wins, and both read the winner's.
        let linked = fs::hard_link(&new, &path);
        fs::remove_file(&new)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::read_to_string(&path).map(|text| Self(text.trim().into())),
        }
    }

    /// The bytes that tokens are signed with.
    pub fn secret(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether the data directory holds exactly this secret: a key that everyone with the directory
    /// knows.
    pub fn is_stored_as(data_dir: &Path, secret: &[u8]) -> bool {
        fs::read_to_string(data_dir.join(FILE)).is_ok_and(|text| text.trim().as_bytes() == secret)
    }
}

fn write_new(path: &PathBuf) -> io::Result<()> {
    let mut random = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A token with these claims, signed with HS256 (RFC 7515, appendix A.1).
pub fn mint(secret: &[u8], claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        let key = DevelopmentKey::open(&data_dir).unwrap();
        assert_eq!(key.secret().len(), 2 * KEY_BYTES);
        assert_eq!(DevelopmentKey::open(&data_dir).unwrap().secret(), key.secret());
        assert_eq!(fs::metadata(data_dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(DevelopmentKey::is_stored_as(&data_dir, key.secret()));
        assert!(!DevelopmentKey::is_stored_as(&data_dir, b"another"));
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1);
    }
}
