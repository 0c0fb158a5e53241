//! A position in an instance's message order, opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Where in an instance's order something stands: an epoch (one unbroken memory of an instance) and
/// a position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Drawn at random for each instance; a new one whenever memory may have been lost.
    pub epoch: u64,
    /// 0 before the first message, then counted by one.
    pub position: u64,
}

/// The text is not a cursor that Herald wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this service")]
pub struct CursorError;

impl Cursor {
    /// Length of every cursor's text, in bytes.
    pub const TEXT_BYTES: usize = 22;

    /// The text that clients see, always 22 bytes of the URL-safe Base64 alphabet.
    pub fn to_text(self) -> String {
        let mut text = [0; Self::TEXT_BYTES];
        self.write(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The same text where it is to stand.
    pub fn write(self, place: &mut [u8; Self::TEXT_BYTES]) {
        let written = URL_SAFE_NO_PAD.encode_slice(self.to_bytes(), place);
        debug_assert_eq!(written, Ok(Self::TEXT_BYTES));
    }

    fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.epoch) << 64) | u128::from(self.position)).to_be_bytes()
    }

    /// Reads what `to_text` wrote. Errors: `CursorError` for anything else.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let number = u128::from_be_bytes(bytes.try_into().map_err(|_| CursorError)?);
        Ok(Self { epoch: (number >> 64) as u64, position: number as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::Cursor;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_parses() {
        let cursor = Cursor { epoch: u64::MAX - 3, position: 77 };
        let mut place = [0; Cursor::TEXT_BYTES];
        cursor.write(&mut place);
        assert_eq!(cursor.to_text().as_bytes(), place);
        assert_eq!(Cursor::parse(&cursor.to_text()), Ok(cursor));
        for bad in [
            "",
            "0",
            "a b",
            &cursor.to_text()[1..],
            &format!("{}A", cursor.to_text()),
            "ÄÄÄÄÄÄÄÄÄÄÄ",
        ] {
            assert!(Cursor::parse(bad).is_err(), "{bad}");
        }
    }
}
