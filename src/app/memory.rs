//! What a graceful stop keeps for the next start: the messages that clients may still resume.

use crate::domain::expression::compiled::Compiled;
use crate::relay::{Relay, WindowError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// In the data directory.
const FILE: &str = "window.jsonl";

/// The name of the memory that the last stop kept here.
pub(super) fn kept(data_dir: &Path) -> Option<String> {
    Relay::term_of_windows(BufReader::new(File::open(data_dir.join(FILE)).ok()?))
}

/// Writes the windows and the name of the memory that they are. A failure costs only that clients
/// are told of a loss after the restart.
pub(super) fn keep(data_dir: &Path, relay: &Relay, name: &str) {
    if let Err(error) = write(data_dir, relay, name) {
        tracing::warn!(%error, "the window could not be kept: clients will be told that messages may be missing");
    }
}

/// Takes up the windows that the last stop kept, if they are the memory of this name. The file is
/// gone before anything is served, so that no later start can mistake it for its own.
pub(super) fn take_up(data_dir: &Path, relay: &Relay, compiled: &Compiled, name: Option<&str>) {
    match read(data_dir, relay, compiled, name) {
        Ok(Some(instances)) => tracing::info!(instances, "the window of the last stop is taken up"),
        Ok(None) => {}
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, error.cause = cause, "the window of the last stop is not taken up");
        }
    }
}

fn write(data_dir: &Path, relay: &Relay, name: &str) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let new = data_dir.join(format!("{FILE}.new"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut target = BufWriter::new(file);
    relay.write_windows(name, &mut target)?;
    target.flush()?;
    target.get_ref().sync_all()?;
    fs::rename(new, data_dir.join(FILE))
}

fn read(
    data_dir: &Path,
    relay: &Relay,
    compiled: &Compiled,
    name: Option<&str>,
) -> Result<Option<usize>, WindowError> {
    let (path, taken) = (data_dir.join(FILE), data_dir.join(format!("{FILE}.taken")));
    match fs::rename(&path, &taken) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome?,
    }
    let read = File::open(&taken)
        .map_err(WindowError::from)
        .and_then(|file| relay.read_windows(name, BufReader::new(file), compiled));
    fs::remove_file(&taken)?;
    read.map(Some)
}
