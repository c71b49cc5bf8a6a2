//! Clients that keep the front-end busy with what costs them little: each is let go, and others are served meanwhile.
use std::sync::atomic::Ordering;
use std::time::Duration;

use lb_tests::wait::wait_until;
use lb_userspace::l7::serve::{Limits, Protocol, Settings};

use crate::frames::*;
use crate::messages::{Client, Scripted, Then, ok};
use crate::stand::{DEADLINE, Stand, service};

/// Requests that a client may give up in a second.
const RESETS_MAX: u32 = 20;
/// Frames of a flood, more than any bound.
const FRAMES: u32 = 40_000;

fn endpoint() -> Scripted {
    Scripted::start(|request| {
        if request.start.contains(" /wait ") {
            std::thread::park_timeout(DEADLINE);
        }
        (ok(&request.start), Then::Stays)
    })
}

fn stand(web: &Scripted) -> Stand {
    let limits = Limits {
        resets_per_second_max: RESETS_MAX,
        write_stall_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let settings = Settings { threads: 1, limits, ..Settings::default() };
    Stand::of(settings, service(web.address, Protocol::Http))
}

/// Floods the one thread that serves; what came of it. Another client is served after it.
fn flood(stand: &Stand, first: &[u8], each: impl Fn(u32) -> Vec<u8>) -> Outcome {
    let mut peer = Peer::dial(stand);
    peer.send(first).unwrap();
    for batch in 0..FRAMES / 100 {
        let frames: Vec<u8> = (0..100).flat_map(|number| each(batch * 100 + number)).collect();
        if peer.send(&frames).is_err() {
            break;
        }
    }
    let outcome = peer.outcome();
    let answer = Client::dial(stand.plain).ask("GET /other HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(answer.text(), "GET /other HTTP/1.1");
    outcome
}

/// An error's code may be lost with what the client had still sent.
fn is_over(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Closed | Outcome::Connection(ENHANCE_YOUR_CALM))
}

fn stream_of(number: u32) -> u32 {
    2 * number + 1
}

/// CVE-2023-44487.
#[test]
fn requests_that_are_given_up_at_once() {
    let web = endpoint();
    let stand = stand(&web);
    let outcome = flood(&stand, &[], |number| {
        let stream = stream_of(number);
        [get(stream, "/wait"), frame(RST_STREAM, NONE, stream, &8_u32.to_be_bytes())].concat()
    });
    assert!(is_over(outcome), "{outcome:?}");
    let begun = web.seen().iter().filter(|request| request.start.contains("/wait")).count();
    assert!(begun <= 100, "{begun} requests reached the endpoint");
}

/// CVE-2025-8671: the client breaks its own streams, so that the server resets them.
#[test]
fn requests_that_the_front_end_has_to_give_up() {
    let web = endpoint();
    let stand = stand(&web);
    let fields = [&pseudo("POST", "/wait")[..], &[("content-length", "1")]].concat();
    let head = block(&fields);
    let mut peer = Peer::dial(&stand);
    let mut broken = 0;
    let outcome = loop {
        let stream = stream_of(broken);
        let frames = [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, NONE, stream, b"too much")];
        if peer.send(&frames.concat()).is_err() {
            break peer.outcome();
        }
        match peer.outcome() {
            Outcome::Stream(_, PROTOCOL_ERROR) => broken += 1,
            outcome => break outcome,
        }
        assert!(broken < 2_000, "it goes on");
    };
    assert!(is_over(outcome), "{outcome:?}");
}

/// CVE-2024-27316 and its like.
#[test]
fn a_head_that_never_ends() {
    let web = endpoint();
    let stand = stand(&web);
    let begin = frame(HEADERS, END_STREAM, 1, &block(&pseudo("GET", "/wait")));
    let outcome = flood(&stand, &begin, |_| frame(CONTINUATION, NONE, 1, &block(&[("x", "1")])));
    assert!(is_over(outcome), "{outcome:?}");
}

/// CVE-2019-9518.
#[test]
fn a_body_of_empty_frames() {
    let web = endpoint();
    let stand = stand(&web);
    let outcome = flood(&stand, &post(1, "/wait"), |_| frame(DATA, NONE, 1, &[]));
    assert!(is_over(outcome), "{outcome:?}");
}

/// CVE-2019-9512, by a client that reads none of the answers.
#[test]
fn pings_whose_answers_nobody_takes() {
    let web = endpoint();
    unread(&stand(&web), &frame(PING, NONE, 0, &[0; 8]));
}

/// CVE-2019-9515, by a client that reads none of the answers.
#[test]
fn settings_whose_answers_nobody_takes() {
    let web = endpoint();
    unread(&stand(&web), &frame(SETTINGS, NONE, 0, &setting(3, 1)));
}

/// Sends a frame until the front-end takes no more, and is cut for that.
fn unread(stand: &Stand, each: &[u8]) {
    let mut peer = Peer::dial(stand);
    let many = each.repeat(10_000);
    while peer.send(&many).is_ok() {}
    let answer = Client::dial(stand.plain).ask("GET /other HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(answer.text(), "GET /other HTTP/1.1");
    let totals = stand.front_end.totals();
    let is_cut = || totals.connections.load(Ordering::SeqCst) == 0;
    wait_until(DEADLINE, "the end of both connections", is_cut).unwrap();
}

/// CVE-2019-9513: a tree of priorities that changes without an end is nothing to who keeps none.
#[test]
fn priorities_without_an_end() {
    let web = endpoint();
    let stand = stand(&web);
    let mut peer = Peer::dial(&stand);
    for batch in 0..FRAMES / 100 {
        let frames = (0..100).flat_map(|number| {
            let on = (batch * 100 + number) * 2 + 3;
            frame(PRIORITY, NONE, on, &[&(on - 2).to_be_bytes()[..], &[7]].concat())
        });
        peer.send(&frames.collect::<Vec<u8>>()).unwrap();
    }
    peer.send(&get(1, "/")).unwrap();
    assert_eq!(peer.outcome(), Outcome::Answer(1, 200));
}

/// CVE-2019-9511: a client that takes an answer byte by byte holds a stream, not the thread.
#[test]
fn an_answer_that_is_taken_byte_by_byte() {
    let web = endpoint();
    let short = Duration::from_millis(500);
    let limits = Limits { header_timeout: short, idle_timeout: short, ..Limits::default() };
    let settings = Settings { threads: 1, limits, ..Settings::default() };
    let stand = Stand::of(settings, service(web.address, Protocol::Http));
    let mut peer = Peer::dial(&stand);
    let window = frame(SETTINGS, NONE, 0, &setting(4, 1));
    peer.send(&[window, get(1, "/"), get(3, "/")].concat()).unwrap();
    for _ in 0..2 {
        assert!(matches!(peer.outcome(), Outcome::Answer(1 | 3, 200)));
    }
    let answer = Client::dial(stand.plain).ask("GET /other HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(answer.text(), "GET /other HTTP/1.1");
    // It takes nothing more of what was sent, and asks for nothing more: it is as idle as any other.
    assert_eq!(peer.outcome(), Outcome::Closed);
}
