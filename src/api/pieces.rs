//! An answer's body on its way: given in pieces, so that no more of it is copied than the socket
//! takes.

use super::under_way::Begun;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that are given at once.
const PIECE: usize = 16 << 10;

/// A body whose bytes are shared until they are written, piece by piece.
pub struct Pieces {
    body: BoxBody,
    /// Of what the body gave.
    rest: Bytes,
    /// The answer ends with its body.
    _begun: Begun,
}

impl Pieces {
    /// Of this body, with whose end the request is no longer under way.
    pub fn new(body: BoxBody, begun: Begun) -> Self {
        Self { body, rest: Bytes::new(), _begun: begun }
    }
}

impl MessageBody for Pieces {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) if bytes.len() > PIECE => self.rest = bytes,
                outcome => return outcome,
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[actix_web::test]
    async fn a_body_comes_whole_in_pieces_that_share_its_bytes() {
        for length in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 100_000] {
            let whole: Bytes = (0..length).map(|at| at as u8).collect::<Vec<u8>>().into();
            let mut pieces = Pieces::new(BoxBody::new(whole.clone()), Begun::default());
            assert_eq!(pieces.size(), BodySize::Sized(length as u64));
            let mut at = 0;
            while let Some(piece) = poll_fn(|cx| Pin::new(&mut pieces).poll_next(cx)).await {
                let piece = piece.unwrap();
                assert!(piece.len() <= PIECE && piece == whole[at..at + piece.len()]);
                assert_eq!(piece.as_ptr(), whole[at..].as_ptr());
                at += piece.len();
            }
            assert_eq!(at, length);
        }
    }
}
