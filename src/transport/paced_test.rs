//! Heads one after another, in time and within their bounds; and who takes nothing.

use super::super::unfinished::UnfinishedBounds;
use super::*;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HEAD: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// A connection of which nothing is known to the system, and its other end.
async fn pair(head: Duration, stall: Duration) -> (Paced, TcpStream) {
    let (wire, peer) = wire().await;
    let settings = PaceSettings { head, stall, ..PaceSettings::of_a_test() };
    (Paced::new(wire, Arc::new(settings), unfinished(), None), peer)
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

#[actix_web::test]
async fn who_takes_nothing_is_cut_whatever_the_system_does() {
    let (mut paced, _peer) = pair(LONG, SHORT).await;
    let error = loop {
        if let Err(error) = paced.write_all(&[0; 65_536]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[actix_web::test]
async fn heads_are_handed_on_two_at_a_time_and_none_while_one_is_answered() {
    let (mut paced, mut peer) = pair(LONG, LONG).await;
    peer.write_all(HEAD.repeat(4).as_bytes()).await.unwrap();
    let mut buffer = [0; 1_024];
    assert_eq!(paced.read(&mut buffer).await.unwrap(), 2 * HEAD.len());
    let exchange = paced.exchange();
    let answering = exchange.answering(AnnouncedBody::None);
    let read = paced.read(&mut buffer);
    let ended = async { drop(answering) };
    let (read, ()) = tokio::join!(read, ended);
    assert_eq!(read.unwrap(), 2 * HEAD.len());
}

#[actix_web::test]
async fn what_comes_while_a_request_is_answered_is_read_ahead_up_to_a_bound() {
    let (mut paced, mut peer) = pair(LONG, LONG).await;
    let exchange = paced.exchange();
    let answering = exchange.answering(AnnouncedBody::None);
    peer.write_all(&[b'x'; 100_000]).await.unwrap();
    while paced.kept.len() < AHEAD {
        assert!(paced.read(&mut [0; 1_024]).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!(paced.read(&mut [0; 1_024]).now_or_never().is_none());
    assert_eq!(paced.kept.len(), AHEAD);
    let reading = exchange.reading_body();
    let mut body = vec![0; 100_000];
    assert_eq!(paced.read_exact(&mut body).await.unwrap(), 100_000);
    drop((reading, answering));
}

/// A wire and its other end.
async fn wire() -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (peer, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Wire::Plain(accepted.unwrap().0), peer.unwrap())
}

/// Several of one client, with 12,000 bytes for unfinished heads; of another, with 30,000 for
/// all.
async fn connection(unfinished: &Unfinished, last: u8) -> (Paced, TcpStream) {
    let (wire, peer) = wire().await;
    let client = Some([192, 0, 2, last].into());
    (Paced::new(wire, Arc::new(PaceSettings::of_a_test()), unfinished.clone(), client), peer)
}

fn unfinished() -> Unfinished {
    Unfinished::new(UnfinishedBounds { process: 30_000, instance: 1, address: 12_000 })
}

/// Reads on until so many bytes are held.
async fn until_held(paced: &mut Paced, unfinished: &Unfinished, bytes: usize) {
    let mut buffer = [0; 4_096];
    while unfinished.bytes() != bytes {
        drop(paced.read(&mut buffer).now_or_never());
        tokio::task::yield_now().await;
    }
}

/// What the peer is told instead of an answer; the server reads the end.
async fn told(mut paced: Paced, mut peer: TcpStream) -> String {
    let mut said = Vec::new();
    let reading = async {
        paced.read_to_end(&mut Vec::new()).await.unwrap();
        drop(paced);
    };
    let hearing = async {
        peer.readable().await.unwrap();
        peer.shutdown().await.unwrap();
        peer.read_to_end(&mut said).await.unwrap();
    };
    tokio::join!(reading, hearing);
    String::from_utf8(said).unwrap()
}

fn head(bytes: usize) -> String {
    let rest = "GET / HTTP/1.1\r\nx: \r\n\r\n".len();
    format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(bytes - rest))
}

#[actix_web::test]
async fn a_head_is_taken_up_to_its_bound_in_one_piece_and_in_several() {
    for pieces in [1, 2, 9] {
        for (bytes, is_taken) in [(8_999, true), (9_000, true), (9_001, false)] {
            let unfinished = unfinished();
            let (mut paced, mut peer) = connection(&unfinished, 1).await;
            let text = head(bytes);
            let mut sent = 0;
            for piece in text.as_bytes().chunks(bytes.div_ceil(pieces)) {
                peer.write_all(piece).await.unwrap();
                sent += piece.len();
                if sent < bytes {
                    until_held(&mut paced, &unfinished, sent).await;
                }
            }
            if is_taken {
                let mut rest = vec![0; 9_000];
                assert!(paced.read(&mut rest).await.unwrap() > 0);
                assert!(!paced.is_over);
            } else {
                assert_eq!(told(paced, peer).await, "large", "{bytes} in {pieces}");
            }
        }
    }
}

#[actix_web::test]
async fn unfinished_heads_are_counted_until_they_end_and_a_whole_one_is_not() {
    let unfinished = unfinished();
    let (mut paced, mut peer) = connection(&unfinished, 1).await;
    peer.write_all(HEAD.as_bytes()).await.unwrap();
    assert_eq!(paced.read(&mut [0; 1_024]).await.unwrap(), HEAD.len());
    assert_eq!(unfinished.bytes(), 0);
    drop(paced.exchange().answering(AnnouncedBody::None));
    peer.write_all(&HEAD.as_bytes()[..9]).await.unwrap();
    until_held(&mut paced, &unfinished, 9).await;
    peer.write_all(&HEAD.as_bytes()[9..]).await.unwrap();
    until_held(&mut paced, &unfinished, 0).await;
    drop(paced.exchange().answering(AnnouncedBody::None));
    peer.write_all(b"GET").await.unwrap();
    until_held(&mut paced, &unfinished, 3).await;
    drop(paced);
    assert_eq!(unfinished.bytes(), 0);
}

#[actix_web::test]
async fn an_address_and_the_process_have_their_bounds_for_unfinished_heads() {
    let unfinished = unfinished();
    let hold = async |last: u8, bytes: usize| {
        let (mut paced, mut peer) = connection(&unfinished, last).await;
        let before = unfinished.bytes();
        peer.write_all(&head(9_000).as_bytes()[..bytes]).await.unwrap();
        until_held(&mut paced, &unfinished, before + bytes).await;
        (paced, peer)
    };
    let tell = async |last: u8, bytes: usize| {
        let (paced, mut peer) = connection(&unfinished, last).await;
        peer.write_all(&head(9_000).as_bytes()[..bytes]).await.unwrap();
        told(paced, peer).await
    };
    let first = hold(1, 8_000).await;
    let second = hold(1, 4_000).await;
    assert_eq!(tell(1, 1).await, "crowded");
    // Nobody takes more of the whole than he leaves free for others.
    let others = [hold(2, 8_500).await, hold(3, 4_900).await];
    assert_eq!(tell(4, 4_700).await, "full");
    drop(hold(4, 2_000).await);
    drop(second);
    drop(hold(1, 500).await);
    drop((first, others));
    assert_eq!(unfinished.bytes(), 0);
}

#[actix_web::test]
async fn a_body_that_nobody_read_is_no_head() {
    let unfinished = unfinished();
    let (mut paced, mut peer) = connection(&unfinished, 1).await;
    let mut buffer = vec![0; 20_000];
    peer.write_all(HEAD.as_bytes()).await.unwrap();
    assert_eq!(paced.read(&mut buffer).await.unwrap(), HEAD.len());
    drop(paced.exchange().answering(AnnouncedBody::Length(15_000)));
    let body = [&vec![b'x'; 15_000], &HEAD.as_bytes()[..9]].concat();
    let send = async { peer.write_all(&body).await.unwrap() };
    let read = async { paced.read_exact(&mut buffer[..body.len()]).await.unwrap() };
    tokio::join!(send, read);
    assert!(!paced.is_over);
    assert_eq!(unfinished.bytes(), 9, "behind it a head is one again");
    peer.write_all(&HEAD.as_bytes()[9..]).await.unwrap();
    until_held(&mut paced, &unfinished, 0).await;
    let (exchange, chunks) = (paced.exchange(), AnnouncedBody::Chunks);
    drop(exchange.answering(chunks));
    peer.write_all(b"5").await.unwrap();
    assert_eq!(paced.read(&mut buffer).await.unwrap(), 1);
    assert_eq!(unfinished.bytes(), 0, "nobody knows where chunks end");
    let answering = exchange.answering(chunks);
    exchange.has_read_body();
    drop(answering);
    peer.write_all(b"G").await.unwrap();
    until_held(&mut paced, &unfinished, 1).await;
}

#[actix_web::test]
async fn what_comes_behind_a_head_is_no_head_before_it_is_asked() {
    let (mut paced, mut peer) = connection(&unfinished(), 1).await;
    let exchange = paced.exchange();
    peer.write_all(HEAD.as_bytes()).await.unwrap();
    let body = vec![b'x'; 20_000];
    let mut buffer = vec![0; 20_000];
    let send = async { peer.write_all(&body).await.unwrap() };
    let read = async {
        let mut read = 0;
        // At most so much is handed on before it is known what it is.
        while read < HEAD.len() + AHEAD {
            read += paced.read(&mut buffer).await.unwrap();
        }
        assert_eq!(read, HEAD.len() + AHEAD);
        let answering = exchange.answering(AnnouncedBody::None);
        let reading = exchange.reading_body();
        paced.read_exact(&mut buffer[AHEAD..]).await.unwrap();
        drop((reading, answering));
    };
    tokio::join!(send, read);
    assert_eq!(buffer[AHEAD..], body[AHEAD..]);
}

#[actix_web::test]
async fn a_head_that_is_late_is_told_so_and_nothing_more_is_read() {
    assert_late(&["\r\n\r\n", "GET /"]).await;
    assert_late(&[&"\r\n".repeat(100)]).await;
}

/// What comes behind an answered request is the beginning of a head that does not end.
async fn assert_late(begun: &[&str]) {
    let (mut paced, mut peer) = pair(SHORT, LONG).await;
    for text in [&[HEAD], begun].concat() {
        peer.write_all(text.as_bytes()).await.unwrap();
    }
    let mut said = Vec::new();
    assert_eq!(paced.read(&mut [0; HEAD.len()]).await.unwrap(), HEAD.len());
    drop(paced.exchange().answering(AnnouncedBody::None));
    paced.read_to_end(&mut said).await.unwrap();
    assert!(said.ends_with(begun.last().unwrap().as_bytes()));
    drop(paced);
    let mut told = Vec::new();
    peer.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, b"late");
}
