//! The windows of all instances as text, so that a graceful stop loses nothing: written at the end,
//! taken up at the start.

use super::head::Head;
use super::ids::ExportedId;
use super::progress::{Counts, Progress};
use super::sealed::{FORM as MESSAGE_FORM, Sealed, SealedError, audience, digest, digest_text};
use super::timeline::{Exported, Timeline};
use super::timelines::Timelines;
use crate::domain::audience::{Audience, Audiences};
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::expression::compiled::{Compiled, Pool};
use crate::domain::instance::InstanceId;
use crate::domain::message::{Author, Exclusion, Reach};
use crate::domain::principal::UserId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Grows with every change of the form; another one is not taken up.
const FORM: u32 = 5;

/// One line of the file. Behind that of a message stand two more: its wire form (`sealed`).
#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Line {
    /// The first.
    Begin { form: u32, message_form: u32, term: String, written_at_ms: i64 },
    /// An instance; its messages and ids follow.
    Instance { id: String, cursor: String, forgotten_to: u64, trimmed: Vec<(String, u64)> },
    /// A message, with how long it is still kept and sent.
    Message { position: u64, kept_ms: u64, expires_ms: u64 },
    /// An id that is remembered, with what became of its message and for how long.
    Id(IdLine),
    /// The last: without it the file is not whole.
    End { lines: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdLine {
    id: String,
    digest: String,
    left_ms: u64,
    position: u64,
    counts: [u64; 4],
    complete: bool,
    audiences: Vec<String>,
    channel: String,
    user: String,
    time_ms: i64,
}

/// Why a file is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// It cannot be read or written.
    #[error("the file cannot be read or written")]
    Io(#[from] io::Error),
    /// It is not of the memory that this node goes on with.
    #[error("another herald may have taken messages since it was written")]
    Term,
    /// It is not whole, or not ours.
    #[error("the file is not whole, or of another version")]
    Form,
}

impl From<SealedError> for WindowError {
    fn from(_: SealedError) -> Self {
        Self::Form
    }
}

/// Writes lines and counts them.
struct Writer<'a, W> {
    target: &'a mut W,
    lines: u64,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.lines += 1;
        serde_json::to_writer(&mut *self.target, line)?;
        self.target.write_all(b"\n")
    }

    fn write_instance(&mut self, timeline: &Timeline, now: Instant) -> io::Result<()> {
        let (cursor, Exported { forgotten_to, entries, trimmed }) = timeline.export();
        let trimmed = trimmed.iter().map(|(audience, to)| (audience.name(), *to)).collect();
        let (id, cursor) = (timeline.instance().to_string(), cursor.to_text());
        self.write(&Line::Instance { id, cursor, forgotten_to, trimmed })?;
        for (frame, kept_until) in entries {
            let Some(head) = frame.head() else { continue };
            let Some(wire) = Sealed::write_placed(&frame, None) else { continue };
            let (position, expires) = (head.cursor.position, head.expires.unwrap_or(now));
            let (kept_ms, expires_ms) = (left_ms(kept_until, now), left_ms(expires, now));
            self.write(&Line::Message { position, kept_ms, expires_ms })?;
            self.target.write_all(&wire)?;
            self.target.write_all(b"\n")?;
        }
        for id in timeline.export_ids() {
            self.write(&Line::Id(IdLine::new(&id, now)))?;
        }
        Ok(())
    }
}

fn left_ms(until: Instant, now: Instant) -> u64 {
    u64::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
}

/// Writes every instance's window and place in its order, with the name of the memory that they are.
/// Errors: those of writing.
pub fn write(timelines: &Timelines, term: &str, target: &mut impl Write) -> io::Result<()> {
    let now = Instant::now();
    let mut writer = Writer { target, lines: 0 };
    let written_at_ms = Utc::now().timestamp_millis();
    let (form, message_form, term) = (FORM, MESSAGE_FORM, term.to_owned());
    writer.write(&Line::Begin { form, message_form, term, written_at_ms })?;
    for timeline in timelines.all() {
        writer.write_instance(&timeline, now)?;
    }
    let lines = writer.lines;
    writer.write(&Line::End { lines })
}

/// The name of the memory that `write` wrote; none where it wrote no such file.
pub fn term(mut source: impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    source.read_until(b'\n', &mut line).ok()?;
    match serde_json::from_slice(&line).ok()? {
        Line::Begin { form: FORM, message_form: MESSAGE_FORM, term, .. } => Some(term),
        _ => None,
    }
}

/// Takes up what `write` wrote of this memory, before anyone is connected; all of it or nothing.
/// Returns how many instances there were. Errors: `WindowError`.
pub fn read(
    timelines: &Timelines,
    term: Option<&str>,
    source: impl BufRead,
    compiled: &Compiled,
) -> Result<usize, WindowError> {
    let mut reading = Reading {
        compiled,
        away: Duration::ZERO,
        now: Instant::now(),
        lines: 0,
        open: None,
        whole: vec![],
    };
    let mut lines = source.split(b'\n');
    let mut is_whole = false;
    while let Some(line) = lines.next().transpose()? {
        if is_whole {
            return Err(WindowError::Form);
        }
        let line = serde_json::from_slice(&line).map_err(|_| WindowError::Form)?;
        if let Line::Begin { form: FORM, message_form: MESSAGE_FORM, term: written, .. } = &line
            && term != Some(written)
        {
            return Err(WindowError::Term);
        }
        is_whole = reading.take(line, &mut lines)?;
    }
    if !is_whole {
        return Err(WindowError::Form);
    }
    let count = reading.whole.len();
    for Instance { instance, cursor, kept, ids, pool: _ } in reading.whole {
        timelines.resume(instance, cursor, kept, ids);
    }
    Ok(count)
}

/// What has been read so far.
struct Reading<'c> {
    /// Where filters are compiled.
    compiled: &'c Compiled,
    /// How long ago the file was written: the window went on meanwhile.
    away: Duration,
    now: Instant,
    /// Lines so far, those of messages' wire forms left out.
    lines: u64,
    /// The instance whose messages and ids are being read.
    open: Option<Instance>,
    whole: Vec<Instance>,
}

/// What the file says of one instance.
struct Instance {
    instance: InstanceId,
    cursor: Cursor,
    kept: Exported,
    ids: Vec<ExportedId>,
    /// Where its filters are compiled.
    pool: Pool,
}

impl Reading<'_> {
    /// True for the last line. The wire form of a message is taken off `rest`.
    fn take(
        &mut self,
        line: Line,
        rest: &mut impl Iterator<Item = io::Result<Vec<u8>>>,
    ) -> Result<bool, WindowError> {
        let before = self.lines;
        self.lines += 1;
        match line {
            Line::Begin { form: FORM, message_form: MESSAGE_FORM, written_at_ms, .. }
                if before == 0 =>
            {
                let away = Utc::now().timestamp_millis().saturating_sub(written_at_ms);
                let away = u64::try_from(away).map_err(|_| WindowError::Form)?;
                self.away = Duration::from_millis(away);
            }
            _ if before == 0 => return Err(WindowError::Form),
            Line::Begin { .. } => return Err(WindowError::Form),
            Line::Instance { id, cursor, forgotten_to, trimmed } => {
                self.close();
                let instance = InstanceId::new(id).map_err(|_| WindowError::Form)?;
                let cursor = Cursor::parse(&cursor).map_err(|_| WindowError::Form)?;
                let trimmed = trimmed.iter().map(|(name, to)| Ok((audience(name)?, *to)));
                let trimmed = trimmed.collect::<Result<_, WindowError>>()?;
                let kept = Exported { forgotten_to, entries: vec![], trimmed };
                let pool = self.compiled.pool(&instance);
                self.open = Some(Instance { instance, cursor, kept, ids: vec![], pool });
            }
            Line::Message { position, kept_ms, expires_ms } => {
                let mut next = || rest.next().unwrap_or(Ok(vec![]));
                let wire = [next()?, next()?].join(&b'\n');
                let (kept_until, expires) = (self.left(kept_ms), self.left(expires_ms));
                let Some(open) = &mut self.open else { return Err(WindowError::Form) };
                open.take_message(position, &wire, kept_until, expires)?;
            }
            Line::Id(line) => {
                let until = self.left(line.left_ms);
                let Some(open) = &mut self.open else { return Err(WindowError::Form) };
                open.ids.push(line.into_id(open.cursor.epoch, until)?);
            }
            Line::End { lines } => {
                self.close();
                return if lines == before { Ok(true) } else { Err(WindowError::Form) };
            }
        }
        Ok(false)
    }

    fn left(&self, ms: u64) -> Instant {
        self.now + Duration::from_millis(ms).saturating_sub(self.away)
    }

    fn close(&mut self) {
        self.whole.extend(self.open.take());
    }
}

impl Instance {
    fn take_message(
        &mut self,
        position: u64,
        wire: &[u8],
        kept_until: Instant,
        expires: Instant,
    ) -> Result<(), WindowError> {
        let newest = self.kept.entries.last().and_then(|(frame, _)| frame.head());
        let before = newest.map_or(0, |head| head.cursor.position);
        let sealed = Sealed::read(wire, &self.pool)?;
        let sealed = match newest {
            Some(newest) => sealed.sharing_with(newest),
            None => sealed,
        };
        if position <= before || position > self.cursor.position {
            return Err(WindowError::Form);
        }
        let cursor = Cursor { position, ..self.cursor };
        let (_, frame) = sealed.place(cursor, Some(expires), 0);
        self.kept.entries.push((frame, kept_until));
        Ok(())
    }
}

impl IdLine {
    fn new(id: &ExportedId, now: Instant) -> Self {
        let ExportedId { head, digest, until } = id;
        let Counts { matched, queued, dropped, replaced } = head.progress.counts();
        Self {
            id: head.id.to_string(),
            digest: digest_text(digest),
            left_ms: left_ms(*until, now),
            position: head.cursor.position,
            counts: [matched, queued, dropped, replaced],
            complete: head.progress.is_complete(),
            audiences: head.reach.audiences.iter().map(Audience::name).collect(),
            channel: head.address.to_string(),
            user: head.author.user.to_string(),
            time_ms: head.time.timestamp_millis(),
        }
    }

    /// What a repeated request is answered from: whom it was for, its place and its counts.
    fn into_id(self, epoch: u64, until: Instant) -> Result<ExportedId, WindowError> {
        let audiences = self.audiences.iter().map(|name| audience(name));
        let audiences = audiences.collect::<Result<Audiences, _>>()?;
        let user = UserId::new(self.user).map_err(|_| WindowError::Form)?;
        let [matched, queued, dropped, replaced] = self.counts;
        let counts = Counts { matched, queued, dropped, replaced };
        let head = Head {
            id: self.id.into(),
            author: Arc::new(Author { user, component: None }),
            address: self.channel.into(),
            reach: Arc::new(Reach { audiences, exclude: Exclusion::default(), filter: None }),
            policy: Slow::Disconnect,
            time: DateTime::from_timestamp_millis(self.time_ms).ok_or(WindowError::Form)?,
            ttl: None,
            cursor: Cursor { epoch, position: self.position },
            expires: None,
            progress: Progress::counted_before(counts, self.complete),
        };
        Ok(ExportedId { head: Arc::new(head), digest: digest(&self.digest)?, until })
    }
}
