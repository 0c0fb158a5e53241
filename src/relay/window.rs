//! The windows of all instances as text, so that a graceful stop loses nothing: written at the end,
//! taken up at the start.

use super::entry::{Entry, Times};
use super::frame::Frame;
use super::history::Exported;
use super::realm::Realm;
use super::repeats::{Fingerprint, Remembered};
use super::shard::Counts;
use super::{Published, Relay};
use crate::domain::audience::{Address, Audience};
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Scope};
use crate::domain::instance::InstanceId;
use crate::domain::message::{Exclusion, Reach};
use crate::domain::principal::UserId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Grows with every change of the form; another one is not taken up.
const FORM: u32 = 3;

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "camelCase")]
enum Line {
    /// The first.
    Begin { form: u32, written_at_ms: i64 },
    /// An instance; its entries follow.
    Instance { id: String, cursor: String, forgotten_to: u64, trimmed: Vec<(String, u64)> },
    /// A message, with how long it is still kept and sent.
    Entry {
        position: u64,
        audiences: Vec<String>,
        without: Vec<String>,
        filter: Option<String>,
        kept_ms: u64,
        expires_ms: u64,
        frame: String,
    },
    /// An id that is remembered, with its first answer and for how long.
    Id {
        id: String,
        same: String,
        left_ms: u64,
        cursor: String,
        counts: [u64; 4],
        complete: bool,
        audiences: Vec<String>,
    },
    /// The last: without it the file is not whole.
    End { lines: u64 },
}

/// Why a file is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// It cannot be read or written.
    #[error("the file cannot be read or written")]
    Io(#[from] io::Error),
    /// It is not whole, or not ours.
    #[error("the file is not whole, or of another version")]
    Form,
}

impl Relay {
    /// Writes every instance's window and place in its order. Errors: those of writing.
    pub fn write_windows(&self, target: &mut impl Write) -> io::Result<()> {
        let now = Instant::now();
        let lines = Cell::new(0);
        let mut write = |line: &Line| {
            lines.set(lines.get() + 1);
            serde_json::to_writer(&mut *target, line)?;
            target.write_all(b"\n")
        };
        write(&Line::Begin { form: FORM, written_at_ms: Utc::now().timestamp_millis() })?;
        for realm in self.all_realms() {
            let (cursor, Exported { forgotten_to, entries, trimmed }) = realm.export();
            let trimmed = trimmed
                .iter()
                .map(|(audience, position)| (audience.to_string(), *position))
                .collect();
            let id = realm.instance.to_string();
            write(&Line::Instance { id, cursor: cursor.to_text(), forgotten_to, trimmed })?;
            for entry in entries {
                write(&entry_line(&entry, now))?;
            }
            for (id, same, remembered, left) in realm.repeats.export(now) {
                let Remembered { published, audiences } = &*remembered;
                let Counts { matched, queued, dropped, replaced } = published.counts;
                write(&Line::Id {
                    id: id.to_string(),
                    same: URL_SAFE_NO_PAD.encode(same),
                    left_ms: left.as_millis() as u64,
                    cursor: published.cursor.to_text(),
                    counts: [matched, queued, dropped, replaced],
                    complete: published.complete,
                    audiences: audiences.clone(),
                })?;
            }
        }
        write(&Line::End { lines: lines.get() })
    }

    /// Takes up what `write_windows` wrote, before anyone is connected; all of it or nothing.
    /// Returns how many instances there were. Errors: `WindowError`.
    pub fn read_windows(&self, source: impl BufRead) -> Result<usize, WindowError> {
        let mut reader = Reading {
            relay: self,
            away: Duration::ZERO,
            now: Instant::now(),
            open: None,
            ids: vec![],
            realms: vec![],
        };
        let mut whole = false;
        for (number, line) in (0..).zip(source.lines()) {
            if whole {
                return Err(WindowError::Form);
            }
            whole = reader
                .take(serde_json::from_str(&line?).map_err(|_| WindowError::Form)?, number)?;
        }
        if !whole {
            return Err(WindowError::Form);
        }
        let realms = reader.realms;
        let count = realms.len();
        let mut known = self.0.realms.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(realms.into_iter().map(|realm| (realm.instance.clone(), Arc::new(realm))));
        Ok(count)
    }
}

fn entry_line(entry: &Entry, now: Instant) -> Line {
    let left = |until: Instant| until.saturating_duration_since(now).as_millis() as u64;
    Line::Entry {
        position: entry.position,
        audiences: entry.reach.audiences.iter().map(ToString::to_string).collect(),
        without: entry.reach.exclude.users.iter().map(ToString::to_string).collect(),
        filter: entry.reach.filter.as_ref().map(ToString::to_string),
        kept_ms: left(entry.kept_until),
        expires_ms: left(entry.expires),
        frame: String::from_utf8_lossy(entry.frame.json()).into_owned(),
    }
}

/// What has been read so far.
struct Reading<'a> {
    relay: &'a Relay,
    /// How long ago the file was written: the window went on meanwhile.
    away: Duration,
    now: Instant,
    /// The instance whose entries are being read.
    open: Option<(InstanceId, Cursor, Exported<Entry>)>,
    /// Its ids.
    ids: Vec<(String, Fingerprint, Remembered, Instant)>,
    realms: Vec<Realm>,
}

impl Reading<'_> {
    /// True for the last line.
    fn take(&mut self, line: Line, lines: u64) -> Result<bool, WindowError> {
        match line {
            Line::Begin { form: FORM, written_at_ms } if lines == 0 => {
                let away = Utc::now().timestamp_millis().saturating_sub(written_at_ms);
                self.away =
                    Duration::from_millis(u64::try_from(away).map_err(|_| WindowError::Form)?);
            }
            _ if lines == 0 => return Err(WindowError::Form),
            Line::Begin { .. } => return Err(WindowError::Form),
            Line::Instance { id, cursor, forgotten_to, trimmed } => {
                self.close();
                let id = InstanceId::new(id).map_err(|_| WindowError::Form)?;
                let cursor = Cursor::parse(&cursor).map_err(|_| WindowError::Form)?;
                let trimmed =
                    trimmed.iter().map(|(name, position)| Ok((audience(name)?, *position)));
                let trimmed = trimmed.collect::<Result<_, WindowError>>()?;
                self.open = Some((id, cursor, Exported { forgotten_to, entries: vec![], trimmed }));
            }
            Line::Entry { position, audiences, without, filter, kept_ms, expires_ms, frame } => {
                let audiences =
                    audiences.iter().map(|name| audience(name)).collect::<Result<_, _>>()?;
                let without = without.iter().map(UserId::new).collect::<Result<Vec<_>, _>>();
                let users = without.map_err(|_| WindowError::Form)?;
                let filter =
                    filter.map(|filter| Expression::parse(&filter, Scope::Filter)).transpose();
                let filter = filter.map_err(|_| WindowError::Form)?;
                let exclude = Exclusion { users, ..Exclusion::default() };
                let reach = Arc::new(Reach { audiences, exclude, filter });
                let left = |ms: u64| self.now + Duration::from_millis(ms).saturating_sub(self.away);
                let times = Times { kept_until: left(kept_ms), expires: left(expires_ms) };
                let Some((_, cursor, exported)) = &mut self.open else {
                    return Err(WindowError::Form);
                };
                let before = exported.entries.last().map_or(0, |entry| entry.position);
                if position <= before || position > cursor.position {
                    return Err(WindowError::Form);
                }
                let frame = Frame::of_json(frame.as_bytes());
                exported.entries.push(Entry::new(position, frame, reach, times));
            }
            Line::Id { id, same, left_ms, cursor, counts, complete, audiences } => {
                let same = URL_SAFE_NO_PAD.decode(same).ok().and_then(|same| same.try_into().ok());
                let cursor = Cursor::parse(&cursor).map_err(|_| WindowError::Form)?;
                let [matched, queued, dropped, replaced] = counts;
                let published = Published {
                    cursor,
                    counts: Counts { matched, queued, dropped, replaced },
                    complete,
                };
                let until = self.now + Duration::from_millis(left_ms).saturating_sub(self.away);
                let remembered = Remembered { published, audiences };
                self.ids.push((id, same.ok_or(WindowError::Form)?, remembered, until));
            }
            Line::End { lines: written } => {
                self.close();
                return if written == lines { Ok(true) } else { Err(WindowError::Form) };
            }
        }
        Ok(false)
    }

    fn close(&mut self) {
        if let Some((id, cursor, exported)) = self.open.take() {
            let realm = Realm::resumed(id, cursor, self.relay.memory(), exported);
            for (id, same, remembered, until) in self.ids.drain(..) {
                realm.repeats.import(&id, same, remembered, until);
            }
            self.realms.push(realm);
        }
    }
}

/// Reads a canonical name.
fn audience(name: &str) -> Result<Audience, WindowError> {
    match Address::parse(name) {
        Ok(
            address @ (Address::All | Address::User(_) | Address::Group(_) | Address::Channel(_)),
        ) => address.audiences().pop().ok_or(WindowError::Form),
        _ => Err(WindowError::Form),
    }
}
