//! What a client may send: a bound on frames and bytes that holds before anything is buffered.

use std::time::Instant;

/// Largest message of a client, in bytes, fragments added up (contract, "Receiving"; an `AUTH`
/// frame fits).
pub(super) const MAX_MESSAGE_BYTES: usize = 20 * 1_024;
/// Frames a client may send at once.
const FRAME_BURST: u32 = 60;
/// Frames a second after that.
const FRAMES_A_SECOND: f64 = 10.0;
/// Longest header of a client's frame (RFC 6455 section 5.2): 2 bytes, 8 of length, 4 of mask.
const MAX_HEADER_BYTES: usize = 14;

/// Why the rest of what a client sends is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InboundRefusal {
    /// A message over 20 KiB was announced: 1009.
    #[error("a message over {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// Too many frames: 4429.
    #[error("too many frames")]
    TooManyFrames,
}

/// Follows the frames of a byte stream by their headers alone, and says stop as soon as one
/// announces too much. The codec behind it would look at the length only once the whole frame is in
/// memory.
pub(super) struct Meter {
    /// The header under way.
    header: [u8; MAX_HEADER_BYTES],
    /// How much of it has come.
    header_bytes: usize,
    /// What is left of the frame's payload.
    body_left: u64,
    /// Bytes of the fragmented message under way.
    message_bytes: u64,
    /// Frames that may come at once, refilled with time.
    frames_left: f64,
    refilled: Instant,
}

impl Meter {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Self {
        let frames_left = f64::from(FRAME_BURST);
        Self {
            header: [0; MAX_HEADER_BYTES],
            header_bytes: 0,
            body_left: 0,
            message_bytes: 0,
            frames_left,
            refilled: now,
        }
    }

    /// Looks at what was read. Errors: `InboundRefusal`.
    pub fn read(&mut self, mut chunk: &[u8], now: Instant) -> Result<(), InboundRefusal> {
        while !chunk.is_empty() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(chunk.len() as u64);
                self.body_left -= skipped;
                chunk = &chunk[skipped as usize..];
                continue;
            }
            self.header[self.header_bytes] = chunk[0];
            self.header_bytes += 1;
            chunk = &chunk[1..];
            if self.header_bytes == header_length(&self.header, self.header_bytes) {
                self.begin_frame(now)?;
                self.header_bytes = 0;
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, now: Instant) -> Result<(), InboundRefusal> {
        let refill = now.duration_since(self.refilled).as_secs_f64() * FRAMES_A_SECOND;
        self.frames_left = (self.frames_left + refill).min(f64::from(FRAME_BURST));
        self.refilled = now;
        if self.frames_left < 1.0 {
            return Err(InboundRefusal::TooManyFrames);
        }
        self.frames_left -= 1.0;
        let (is_control, is_final) = (self.header[0] & 0x08 != 0, self.header[0] & 0x80 != 0);
        let length = payload_length(&self.header);
        let message_bytes =
            if is_control { length } else { self.message_bytes.saturating_add(length) };
        if message_bytes > MAX_MESSAGE_BYTES as u64 {
            return Err(InboundRefusal::TooLarge);
        }
        if !is_control {
            self.message_bytes = if is_final { 0 } else { message_bytes };
        }
        self.body_left = length;
        Ok(())
    }
}

/// How long the header is, as far as its first bytes tell. Too short to tell: the two that tell it.
fn header_length(header: &[u8; MAX_HEADER_BYTES], known: usize) -> usize {
    if known < 2 {
        return 2;
    }
    let mask = if header[1] & 0x80 != 0 { 4 } else { 0 };
    mask + match header[1] & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

fn payload_length(header: &[u8; MAX_HEADER_BYTES]) -> u64 {
    match header[1] & 0x7F {
        126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
        127 => header[2..10].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        length => u64::from(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(0x80 | length as u8),
            126..=0xFFFF => {
                bytes.extend([[0xFE].as_slice(), &(length as u16).to_be_bytes()].concat())
            }
            _ => bytes.extend([[0xFF].as_slice(), &(length as u64).to_be_bytes()].concat()),
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.resize(bytes.len() + length.min(30_000), 0x55);
        bytes
    }

    fn read(pieces: &[Vec<u8>]) -> Result<(), InboundRefusal> {
        let now = Instant::now();
        let (mut whole, mut single) = (Meter::new(now), Meter::new(now));
        let bytes = pieces.concat();
        let by_byte = bytes.iter().try_for_each(|byte| single.read(&[*byte], now));
        assert_eq!(whole.read(&bytes, now), by_byte, "the cut of the stream must not matter");
        by_byte
    }

    #[test]
    fn a_message_of_20_kib_passes_and_one_byte_more_does_not() {
        assert_eq!(
            read(&[frame(0x81, MAX_MESSAGE_BYTES - 1), frame(0x81, MAX_MESSAGE_BYTES)]),
            Ok(())
        );
        assert_eq!(read(&[frame(0x81, MAX_MESSAGE_BYTES + 1)]), Err(InboundRefusal::TooLarge));
        assert_eq!(read(&[frame(0x82, 1 << 30)[..14].to_vec()]), Err(InboundRefusal::TooLarge));
    }

    #[test]
    fn fragments_are_added_up_and_control_frames_between_them_are_not() {
        let halves = [frame(0x01, 10_240), frame(0x89, 100), frame(0x00, 10_239), frame(0x80, 1)];
        assert_eq!(read(&halves), Ok(()));
        assert_eq!(read(&[halves.as_slice(), &halves].concat()), Ok(()));
        assert_eq!(
            read(&[frame(0x01, 10_240), frame(0x00, 10_240), frame(0x80, 1)]),
            Err(InboundRefusal::TooLarge)
        );
    }

    #[test]
    fn sixty_frames_at_once_pass_and_then_ten_a_second() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        for _ in 0..60 {
            assert_eq!(meter.read(&frame(0x89, 0), now), Ok(()));
        }
        assert_eq!(meter.read(&frame(0x89, 0), now), Err(InboundRefusal::TooManyFrames));
        let mut meter = Meter::new(now);
        assert_eq!(read(&vec![frame(0x80, 0); 61]), Err(InboundRefusal::TooManyFrames));
        (0..60).for_each(|_| meter.read(&frame(0x89, 0), now).unwrap());
        let later = now + Duration::from_secs(1);
        (0..10).for_each(|_| meter.read(&frame(0x89, 0), later).unwrap());
        assert_eq!(meter.read(&frame(0x89, 0), later), Err(InboundRefusal::TooManyFrames));
    }
}
