//! One TLS session as bytes in and bytes out: rustls' state machine without its buffers.

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};

/// A session of the server's side. It holds no buffer between two calls.
pub struct Session {
    connection: Box<UnbufferedServerConnection>,
    /// Whether the other side was told that nothing more comes.
    is_closed: bool,
}

/// What became of received bytes.
pub struct Drained {
    /// So many of the first bytes are dealt with; the rest is no whole record.
    pub used: usize,
    /// The other side has said that it sends nothing more.
    pub is_over: bool,
}

impl Session {
    /// A session on which nothing was exchanged.
    pub fn new(connection: UnbufferedServerConnection) -> Self {
        Self { connection: Box::new(connection), is_closed: false }
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes ciphertext; hands what it says to `plaintext`, in order, and appends what the session
    /// answers by itself to `answer`. Errors: rustls' own, for which `answer` holds the alert.
    pub fn receive(
        &mut self,
        ciphertext: &mut [u8],
        mut plaintext: impl FnMut(&[u8]),
        answer: &mut Vec<u8>,
    ) -> Result<Drained, rustls::Error> {
        let (mut used, mut is_over) = (0, false);
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut ciphertext[used..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(answer, |room| data.encode(room))?
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => is_over = true,
                Ok(_) => return Ok(Drained { used: used + discard, is_over }),
                Err(error) => {
                    self.give_out(&mut ciphertext[used..], answer)?;
                    return Err(error);
                }
            }
            used += discard;
            if is_over {
                return Ok(Drained { used, is_over });
            }
        }
    }

    /// Appends what the session still has to say, the alert among it. What is broken would be
    /// looked at again after that.
    fn give_out(
        &mut self,
        ciphertext: &mut [u8],
        answer: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(ciphertext).state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(answer, |room| data.encode(room))?
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Encrypts `plaintext` into `ciphertext` from its beginning, and returns how long that is.
    /// `ciphertext` grows as needed and never shrinks. `incomplete` is what the last `receive`
    /// left: where it is a part of a handshake message, rustls counts on seeing it. Errors:
    /// rustls', before the handshake is done and after `close`.
    pub fn encrypt(
        &mut self,
        plaintext: &[u8],
        incomplete: &mut [u8],
        ciphertext: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        let mut before = 0;
        loop {
            match self.connection.process_tls_records(incomplete).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let room = ciphertext.len().max(before);
                    ciphertext.resize(room, 0);
                    return match traffic.encrypt(plaintext, &mut ciphertext[before..]) {
                        Ok(length) => Ok(before + length),
                        Err(EncryptError::InsufficientSize(InsufficientSizeError {
                            required_size,
                        })) => {
                            ciphertext.resize(before + required_size, 0);
                            let length = traffic.encrypt(plaintext, &mut ciphertext[before..]);
                            Ok(before + length.map_err(|_| rustls::Error::EncryptError)?)
                        }
                        Err(EncryptError::EncryptExhausted) => Err(rustls::Error::EncryptError),
                    };
                }
                // An answer that has not been given out yet goes first.
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut answer = Vec::new();
                    append(&mut answer, |room| data.encode(room))?;
                    let room = ciphertext.len().max(before + answer.len());
                    ciphertext.resize(room, 0);
                    ciphertext[before..before + answer.len()].copy_from_slice(&answer);
                    before += answer.len();
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Err(rustls::Error::HandshakeNotComplete),
            }
        }
    }

    /// Appends the word that nothing more comes (RFC 8446 section 6.1), once. `incomplete` as for
    /// `encrypt`.
    pub fn close(&mut self, incomplete: &mut [u8], answer: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(incomplete).state
        {
            let start = answer.len();
            answer.resize(start + CLOSE_BYTES, 0);
            let length = traffic.queue_close_notify(&mut answer[start..]).unwrap_or(0);
            answer.truncate(start + length);
        }
    }
}

/// More than an encrypted alert takes in any cipher suite.
const CLOSE_BYTES: usize = 128;

/// Appends what `encode` writes.
fn append(
    answer: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = answer.len();
    let length = match encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            answer.resize(start + required_size, 0);
            encode(&mut answer[start..])
        }
        outcome => outcome,
    };
    answer.truncate(start + length.as_ref().map_or(0, |length| *length));
    length.map(drop).map_err(|_| rustls::Error::EncryptError)
}
