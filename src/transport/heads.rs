//! Where the heads of requests end: what is enough to take them one at a time.

use memchr::memchr;

/// Bytes of empty lines before a head that are nothing: some clients send one behind a body. More
/// are the beginning of a head.
const EMPTY_BYTES: usize = 16;

/// Follows the lines of what a client sends. A head ends with an empty line (RFC 9112, section
/// 2.1); a bare line feed counts as a line's end, and empty lines before a head do not count.
#[derive(Debug, Default)]
pub struct Heads {
    line: Line,
    /// Bytes of empty lines since the last head.
    empty_bytes: usize,
    /// Bytes since the last head.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Nothing but line ends came.
    #[default]
    Before,
    /// Within a line.
    Within,
    /// A line has just ended.
    Ended,
    /// The same, and a carriage return came.
    Returned,
}

impl Heads {
    /// Whether a head has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.line != Line::Before || self.empty_bytes > EMPTY_BYTES
    }

    /// Bytes that have come since the last head.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Follows `bytes` up to the end of a head; how many that are, and how long the head was if it
    /// ended.
    pub fn follow(&mut self, bytes: &[u8]) -> (usize, Option<usize>) {
        let (followed, is_end) = self.follow_lines(bytes);
        let length = self.bytes + followed;
        match is_end {
            true => *self = Self::default(),
            false => self.bytes = length,
        }
        (followed, is_end.then_some(length))
    }

    fn follow_lines(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.line == Line::Within {
                let Some(end) = memchr(b'\n', &bytes[at..]) else { return (bytes.len(), false) };
                at += end + 1;
                self.line = Line::Ended;
                continue;
            }
            at += 1;
            self.line = match (self.line, byte) {
                (Line::Before, b'\r' | b'\n') => {
                    self.empty_bytes = self.empty_bytes.saturating_add(1);
                    Line::Before
                }
                (Line::Ended | Line::Returned, b'\n') => return (at, true),
                (Line::Ended, b'\r') => Line::Returned,
                _ => Line::Within,
            };
        }
        (bytes.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &[u8], step: usize) -> Vec<usize> {
        let (mut heads, mut found, mut at) = (Heads::default(), Vec::new(), 0);
        while at < text.len() {
            let (taken, ended) = heads.follow(&text[at..text.len().min(at + step)]);
            at += taken;
            if let Some(length) = ended {
                assert_eq!(length, at - found.last().unwrap_or(&0));
                found.push(at);
            } else {
                assert_eq!(heads.bytes(), at - found.last().unwrap_or(&0));
            }
        }
        found
    }

    #[test]
    fn heads_end_with_an_empty_line_however_they_come() {
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1_000));
        for (text, expected) in [
            ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![18, 36]),
            ("GET / HTTP/1.1\n\nGET / HTTP/1.1\n\r\n", vec![16, 33]),
            ("\r\n\r\n\n\nGET / HTTP/1.1\r\na: b\r\n\r\n", vec![30]),
            ("GET / HTTP/1.1\r\na: b\r\n", vec![]),
            ("\r\n\r\n", vec![]),
            ("GET / HTTP/1.1\r\n\rx\r\n\r\n", vec![22]),
            (long.as_str(), vec![long.len()]),
        ] {
            for step in [1, 2, 3, 7, 64, 5_000] {
                assert_eq!(ends(text.as_bytes(), step), expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn what_has_begun_and_not_ended_is_known() {
        let mut heads = Heads::default();
        for (text, is_within) in
            [("\r\n", false), ("GET /", true), (" HTTP/1.1\r\n", true), ("\r\n", false)]
        {
            heads.follow(text.as_bytes());
            assert_eq!(heads.is_within(), is_within, "{text:?}");
        }
        for (bytes, is_within) in [(EMPTY_BYTES, false), (EMPTY_BYTES + 1, true)] {
            let mut heads = Heads::default();
            heads.follow(&vec![b'\n'; bytes]);
            assert_eq!(heads.is_within(), is_within, "{bytes} line ends");
            heads.follow(b"GET / HTTP/1.1\n\n");
            assert!(!heads.is_within(), "with the head they are past");
        }
    }
}
