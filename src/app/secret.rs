//! Secrets that lie in files.

use crate::config::SecretSource;
use std::{fs, io};

/// The secret's bytes; of a file all but one line feed at its end. Errors: those of reading the
/// file.
pub(super) fn read_secret(source: &SecretSource) -> io::Result<Vec<u8>> {
    match source {
        SecretSource::Given(secret) => Ok(secret.reveal().as_bytes().to_vec()),
        SecretSource::File(path) => {
            let mut bytes = fs::read(path)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_one_line_feed_at_the_end_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (content, secret) in
            [("s", "s"), ("s\n", "s"), ("s\n\n", "s\n"), ("s\r\n", "s\r"), (" s ", " s "), ("", "")]
        {
            fs::write(&path, content).unwrap();
            let read = read_secret(&SecretSource::File(path.clone())).unwrap();
            assert_eq!(read, secret.as_bytes(), "{content:?}");
        }
    }
}
