//! What a front-end holds for those who do not take what they are sent: a bounded amount for each request.
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::alone::Alone;
use crate::frames::{NONE, Peer, SETTINGS, WINDOW_UPDATE, frame, get, setting};
use crate::stand::{DEADLINE, HOST};

/// Requests at a time, fewer than the streams that a connection may have.
const REQUESTS: u32 = 100;
/// KiB that a request may hold, both of its sides together: `docs/front-end.md`, "What is held".
const HELD_KIB_MAX: u64 = 576;
/// The settings and the largest window (RFC 9113 §6.5.2, §6.9.1).
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// Window of a connection before anybody raises it, bytes (RFC 9113 §6.9.2).
const WINDOW_BYTES_BEFORE: u32 = 65_535;
/// Time without a further byte after which nothing more comes.
const STILL: Duration = Duration::from_millis(700);
/// Bytes that are written or given at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// Waits until bytes have come, and no more do; how many there are.
fn once_still(bytes: &AtomicU64) -> u64 {
    let (began, mut seen, mut since) = (Instant::now(), 0, Instant::now());
    while seen == 0 || since.elapsed() < STILL {
        assert!(began.elapsed() < DEADLINE, "bytes come without an end, or none: {seen}");
        let now = bytes.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    seen
}

/// What a kernel keeps of two sockets on the way of a connection, bytes: what the sender's and what the receiver's may.
fn socket_bytes_max() -> u64 {
    let largest = |file: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")).unwrap();
        text.split_whitespace().next_back().and_then(|bytes| bytes.parse().ok()).unwrap()
    };
    largest("tcp_wmem") + largest("tcp_rmem")
}

/// Answers with a body that has no end, as fast as it is taken; counts its bytes.
fn endless() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&sent);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let sent = Arc::clone(&counted);
            thread::spawn(move || {
                let mut head = [0; PIECE_BYTES];
                if stream.read(&mut head).is_err() || stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_err() {
                    return;
                }
                // A cut connection is this test's end.
                while let Ok(bytes) = stream.write(&[b'x'; PIECE_BYTES]) {
                    sent.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            });
        }
    });
    (address, sent)
}

#[test]
fn a_client_that_does_not_read_makes_the_front_end_hold_a_bounded_amount() {
    let (endpoint, sent) = endless();
    let front_end = Alone::start(endpoint, &["--tls"]);
    let window = setting(INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX);
    let mut client = Peer::open(front_end.dial_http_2_blocking(), &window);
    let more = (WINDOW_BYTES_MAX - WINDOW_BYTES_BEFORE).to_be_bytes();
    client.send(&frame(WINDOW_UPDATE, NONE, 0, &more)).unwrap();
    let before_kib = front_end.memory_kib("VmRSS");
    for number in 0..REQUESTS {
        client.send(&get(2 * number + 1, "/")).unwrap();
    }
    let taken = once_still(&sent);
    let held_kib = front_end.memory_kib("VmHWM").saturating_sub(before_kib);
    let held_kib_max = u64::from(REQUESTS) * HELD_KIB_MAX;
    assert!(held_kib < held_kib_max, "{held_kib} KiB are held for {REQUESTS} requests");
    // Each request has a connection to the endpoint, and all have one to the client.
    let bytes_max = held_kib_max * 1024 + (u64::from(REQUESTS) + 1) * socket_bytes_max();
    assert!(taken < bytes_max, "{taken} bytes were taken from the endpoint");
    front_end.finish();
}

/// Speaks HTTP/2, lets its peer send as much as it likes, and reads none of it.
fn deaf() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let settings = frame(SETTINGS, NONE, 0, &setting(INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX));
            let more = (WINDOW_BYTES_MAX - WINDOW_BYTES_BEFORE).to_be_bytes();
            let window = frame(WINDOW_UPDATE, NONE, 0, &more);
            stream.write_all(&[settings, window].concat()).unwrap();
            kept.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_does_not_read_makes_the_front_end_hold_a_bounded_amount() {
    let front_end = Alone::start(deaf(), &["--tls", "--h2c"]);
    let stream = TokioIo::new(front_end.dial_http_2().await);
    let builder = http2::Builder::new(TokioExecutor::new());
    let (mut client, connection) = builder.handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    let before_kib = front_end.memory_kib("VmRSS");
    let given = Arc::<AtomicU64>::default();
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        let given = Arc::clone(&given);
        let piece = Bytes::from_static(&[b'x'; PIECE_BYTES]);
        let pieces = stream::repeat_with(move || {
            given.fetch_add(PIECE_BYTES as u64, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(piece.clone()))
        });
        let request =
            Request::post(format!("https://{HOST}/")).body(StreamBody::new(pieces.boxed())).unwrap();
        answers.push(tokio::spawn(client.send_request(request)));
    }
    let counted = Arc::clone(&given);
    let taken = tokio::task::spawn_blocking(move || once_still(&counted)).await.unwrap();
    let held_kib = front_end.memory_kib("VmHWM").saturating_sub(before_kib);
    let held_kib_max = u64::from(REQUESTS) * HELD_KIB_MAX;
    assert!(held_kib < held_kib_max, "{held_kib} KiB are held for {REQUESTS} requests");
    // One connection on each side.
    let bytes_max = held_kib_max * 1024 + 2 * socket_bytes_max();
    assert!(taken < bytes_max, "{taken} bytes were taken from the client");
    assert!(answers.iter().all(|answer| !answer.is_finished()), "nobody has answered");
    answers.iter().for_each(tokio::task::JoinHandle::abort);
    running.abort();
    front_end.finish();
}
