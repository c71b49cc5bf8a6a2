//! HTTP/2 case by case: what breaks the protocol ends a stream or the connection with an error's code, and what only
//! looks odd passes.
//!
//! A generic code may stand for a more specific one (RFC 9113 §5.4), and a stream's error may end the connection
//! (§5.4): the codes here are those that are sent.
use std::time::Duration;

use lb_userspace::l7::serve::{Limits, Protocol, Settings};

use crate::frames::*;
use crate::messages::{Scripted, Then, ok};
use crate::stand::{DEADLINE, Stand, service};

/// Streams that a client may have open.
const STREAMS_MAX: u32 = 4;

/// Answers at once, or not at all where the path says so.
fn endpoint() -> Scripted {
    Scripted::start(|request| {
        if request.start.contains(" /wait ") {
            std::thread::park_timeout(DEADLINE);
        }
        (ok(&request.start), Then::Stays)
    })
}

fn stand(endpoint: &Scripted) -> Stand {
    let limits = Limits { streams_max: STREAMS_MAX, ..Limits::default() };
    let settings = Settings { threads: 1, limits, ..Settings::default() };
    Stand::of(settings, service(endpoint.address, Protocol::Http))
}

struct Case {
    section: &'static str,
    sent: Vec<u8>,
    outcome: Outcome,
}

fn case(section: &'static str, sent: &[&[u8]], outcome: Outcome) -> Case {
    Case { section, sent: sent.concat(), outcome }
}

/// Runs cases, each on a connection of its own, and tells of all that fail.
fn run(cases: &[Case]) {
    let web = endpoint();
    let stand = stand(&web);
    let mut faults = Vec::new();
    for Case { section, sent, outcome } in cases {
        let mut peer = Peer::dial(&stand);
        // A connection that is closed already says why.
        let _ = peer.send(sent);
        let found = peer.outcome();
        if found != *outcome {
            faults.push(format!("{section}: {found:?}, not {outcome:?}"));
            continue;
        }
        // Streams' errors leave the connection as it is; its own end it.
        match found {
            Outcome::Stream(..) | Outcome::Answer(..) if !peer.is_alive() => {
                faults.push(format!("{section}: the connection is over as well"));
            }
            Outcome::Connection(_) if peer.outcome() != Outcome::Closed => {
                faults.push(format!("{section}: the connection goes on"));
            }
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

const BROKEN: Outcome = Outcome::Connection(PROTOCOL_ERROR);
const MALFORMED: Outcome = Outcome::Stream(1, PROTOCOL_ERROR);
const SERVED: Outcome = Outcome::Answer(1, 200);
const REFUSED: Outcome = Outcome::Answer(1, 400);

#[test]
fn frames_and_their_sizes() {
    let long = vec![0; 16_385];
    run(&[
        case("4.1 an unknown type is ignored", &[&frame(0x16, 0xff, 0, b"x"), &get(1, "/")], SERVED),
        case("5.5 PRIORITY_UPDATE is ignored", &[&frame(0x10, NONE, 0, b"xxxxx"), &get(1, "/")], SERVED),
        case("4.1 unknown flags are ignored", &[&frame(PING, 0xf6, 0, &[0; 8]), &get(1, "/")], SERVED),
        case("4.1 the reserved bit is ignored", &[&get(0x8000_0001, "/")], SERVED),
        case(
            "4.2 DATA longer than SETTINGS_MAX_FRAME_SIZE",
            &[&post(1, "/wait"), &frame(DATA, NONE, 1, &long)],
            Outcome::Connection(FRAME_SIZE_ERROR),
        ),
        case(
            "4.2 HEADERS longer",
            &[&frame(HEADERS, WHOLE, 1, &long)],
            Outcome::Connection(FRAME_SIZE_ERROR),
        ),
        case(
            "4.2 an unknown type longer",
            &[&frame(0x16, NONE, 0, &long)],
            Outcome::Connection(FRAME_SIZE_ERROR),
        ),
        case("6.3 PRIORITY of four bytes", &[&frame(PRIORITY, NONE, 1, &[0; 4])], BROKEN),
        case("6.4 RST_STREAM of three", &[&get(1, "/wait"), &frame(RST_STREAM, NONE, 1, &[0; 3])], BROKEN),
        case("6.5 SETTINGS of five", &[&frame(SETTINGS, NONE, 0, &[0; 5])], BROKEN),
        case("6.5 an acknowledgement with a payload", &[&frame(SETTINGS, ACK, 0, &setting(4, 1))], BROKEN),
        case("6.7 PING of seven", &[&frame(PING, NONE, 0, &[0; 7])], BROKEN),
        case("6.9 WINDOW_UPDATE of three", &[&frame(WINDOW_UPDATE, NONE, 0, &[0; 3])], BROKEN),
    ]);
}

#[test]
fn streams_and_their_states() {
    let code = NO_ERROR.to_be_bytes();
    let end = frame(DATA, END_STREAM, 1, b"x");
    let trailers = frame(HEADERS, WHOLE, 1, &block(&[("x", "1")]));
    let four: Vec<u8> = (0..STREAMS_MAX).flat_map(|number| get(2 * number + 1, "/wait")).collect();
    run(&[
        case("5.1 DATA on an idle stream", &[&end], BROKEN),
        case("5.1 RST_STREAM on an idle stream", &[&frame(RST_STREAM, NONE, 1, &code)], BROKEN),
        case("5.1 WINDOW_UPDATE on an idle stream", &[&frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])], BROKEN),
        case("5.1 CONTINUATION on an idle stream", &[&frame(CONTINUATION, END_HEADERS, 1, &[])], BROKEN),
        case(
            "5.1 PRIORITY on an idle stream",
            &[&frame(PRIORITY, NONE, 3, &[0, 0, 0, 0, 1]), &get(1, "/")],
            SERVED,
        ),
        case("5.1 DATA after the request's end", &[&get(1, "/wait"), &end], BROKEN),
        case("5.1 HEADERS after the request's end", &[&get(1, "/wait"), &trailers], BROKEN),
        case(
            "5.1 WINDOW_UPDATE after the request's end",
            &[&get(1, "/"), &frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])],
            SERVED,
        ),
        case(
            "5.1 DATA after a reset",
            &[&post(1, "/wait"), &frame(RST_STREAM, NONE, 1, &code), &end],
            Outcome::Stream(1, STREAM_CLOSED),
        ),
        case("5.1.1 a stream of the server's", &[&get(2, "/")], BROKEN),
        case("5.1.1 a stream below the last", &[&get(5, "/wait"), &get(3, "/")], BROKEN),
        case(
            "5.1.1 a stream far above the last",
            &[&get(0x7fff_ffff, "/")],
            Outcome::Answer(0x7fff_ffff, 200),
        ),
        case("5.1.2 one stream too many", &[&four, &get(9, "/")], Outcome::Stream(9, REFUSED_STREAM)),
        case("6.1 DATA on the connection", &[&frame(DATA, NONE, 0, b"x")], BROKEN),
        case("6.1 padding longer than DATA", &[&post(1, "/wait"), &frame(DATA, PADDED, 1, &[2, 0])], BROKEN),
        case(
            "6.1 DATA of padding alone",
            &[&post(1, "/"), &frame(DATA, PADDED | END_STREAM, 1, &[2, 0, 0])],
            SERVED,
        ),
        case("6.2 HEADERS on the connection", &[&get(0, "/")], BROKEN),
        case("6.2 padding longer than HEADERS", &[&frame(HEADERS, WHOLE | PADDED, 1, &[9, 0])], BROKEN),
        case("6.3 PRIORITY on the connection", &[&frame(PRIORITY, NONE, 0, &[0, 0, 0, 0, 1])], BROKEN),
        case("6.4 RST_STREAM on the connection", &[&frame(RST_STREAM, NONE, 0, &code)], BROKEN),
        case("6.6 PUSH_PROMISE of a client", &[&frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], BROKEN),
        case("6.7 PING on a stream", &[&frame(PING, NONE, 1, &[0; 8])], BROKEN),
    ]);
}

/// RFC 9113 §6.8.
#[test]
fn a_client_that_goes_has_its_answers_first() {
    let web = endpoint();
    let stand = stand(&web);
    let mut peer = Peer::dial(&stand);
    peer.send(&[get(1, "/"), frame(GOAWAY, NONE, 0, &[0; 8])].concat()).unwrap();
    assert_eq!(peer.outcome(), SERVED);
    assert_eq!(peer.outcome(), Outcome::Closed);
}

#[test]
fn settings_and_windows() {
    let most = 0x7fff_ffff_u32;
    let update = |stream, by: u32| frame(WINDOW_UPDATE, NONE, stream, &by.to_be_bytes());
    let set = |identifier, value| frame(SETTINGS, NONE, 0, &setting(identifier, value));
    run(&[
        case("6.5 SETTINGS on a stream", &[&frame(SETTINGS, NONE, 1, &setting(3, 1))], BROKEN),
        case("6.5.2 SETTINGS_ENABLE_PUSH of two", &[&set(2, 2)], BROKEN),
        case("6.5.2 SETTINGS_INITIAL_WINDOW_SIZE beyond its end", &[&set(4, most + 1)], BROKEN),
        case("6.5.2 SETTINGS_MAX_FRAME_SIZE below its begin", &[&set(5, 16_383)], BROKEN),
        case("6.5.2 SETTINGS_MAX_FRAME_SIZE beyond its end", &[&set(5, 1 << 24)], BROKEN),
        case("6.5.2 an unknown setting", &[&set(0xf00, 1), &get(1, "/")], SERVED),
        case("6.5.3 an acknowledgement of nothing", &[&frame(SETTINGS, ACK, 0, &[])], BROKEN),
        case("6.9 a window larger by nothing", &[&update(0, 0)], BROKEN),
        case("6.9 a stream's larger by nothing", &[&get(1, "/wait"), &update(1, 0)], BROKEN),
        case("6.9.1 a window beyond its end", &[&update(0, most)], Outcome::Connection(FLOW_CONTROL_ERROR)),
        case(
            "6.9.1 a stream's beyond its end",
            &[&get(1, "/wait"), &update(1, most)],
            Outcome::Stream(1, FLOW_CONTROL_ERROR),
        ),
        case(
            "6.9.2 a stream's beyond its end by a setting",
            &[&get(1, "/wait"), &update(1, most - 65_535), &set(4, 65_536)],
            Outcome::Connection(FLOW_CONTROL_ERROR),
        ),
        case(
            "6.9.2 a window of nothing, and then of something",
            &[&set(4, 0), &set(4, 100), &get(1, "/")],
            SERVED,
        ),
    ]);
}

#[test]
fn field_blocks() {
    let whole = block(&pseudo("GET", "/"));
    let (first, rest) = whole.split_at(7);
    let of = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[whole.as_slice(), bytes].concat());
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let mut bomb = whole.clone();
    // One field that enters the table (RFC 7541 §6.2.1), and is named two thousand times.
    bomb.extend([0x40, 1, b'x']);
    put_string(&mut bomb, &[b'a'; 4_000]);
    bomb.extend([0xbe; 2_000]);
    let mut empty = whole.clone();
    (0..1_200).for_each(|_| empty.extend([0, 1, b'x', 0]));
    run(&[
        case(
            "6.10 a block in three frames",
            &[
                &begun,
                &frame(CONTINUATION, NONE, 1, &rest[..1]),
                &frame(CONTINUATION, END_HEADERS, 1, &rest[1..]),
            ],
            SERVED,
        ),
        case("4.3 another frame within a block", &[&begun, &frame(PING, NONE, 0, &[0; 8])], BROKEN),
        case("4.3 another stream's HEADERS within a block", &[&begun, &get(3, "/")], BROKEN),
        case(
            "6.10 another stream's CONTINUATION",
            &[&begun, &frame(CONTINUATION, END_HEADERS, 3, rest)],
            BROKEN,
        ),
        case("4.3 (RFC 7541 6.1) an index of zero", &[&of(&[0x80])], BROKEN),
        case("4.3 (RFC 7541 2.3.3) an index beyond both tables", &[&of(&[0xff, 0xff, 0x03])], BROKEN),
        case("4.3 (RFC 7541 4.2) a change of size behind a field", &[&of(&[0x20])], BROKEN),
        case(
            "4.3 (RFC 7541 6.3) a size beyond the setting",
            &[&frame(HEADERS, WHOLE, 1, &[0x3f, 0xff, 0xff, 0x03])],
            BROKEN,
        ),
        case(
            "4.3 (RFC 7541 5.1) an endless integer",
            &[&of(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
            BROKEN,
        ),
        case(
            "4.3 (RFC 7541 5.2) the code for the end",
            &[&of(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'a'])],
            BROKEN,
        ),
        case("4.3 (RFC 7541 5.2) padding of zeros", &[&of(&[0, 0x81, 0x18, 1, b'a'])], BROKEN),
        case("4.3 a block that ends within a string", &[&of(&[0, 5, b'x'])], BROKEN),
        case(
            "10.5.1 a small block of megabytes",
            &[&frame(HEADERS, WHOLE, 1, &bomb)],
            Outcome::Connection(ENHANCE_YOUR_CALM),
        ),
        case(
            "10.5.1 a thousand fields without a value",
            &[&frame(HEADERS, WHOLE, 1, &empty)],
            Outcome::Answer(1, 431),
        ),
    ]);
}

#[test]
fn requests_and_their_fields() {
    let with = |further: &[(&str, &str)]| {
        frame(HEADERS, WHOLE, 1, &block(&[&pseudo("GET", "/")[..], further].concat()))
    };
    let without = |name: &str| {
        let fields: Vec<_> = pseudo("GET", "/").into_iter().filter(|(field, _)| *field != name).collect();
        fields
    };
    let only = |fields: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &block(fields));
    let long = block(&[&pseudo("POST", "/")[..], &[("content-length", "5")]].concat());
    let body =
        |text: &[u8]| [frame(HEADERS, END_HEADERS, 1, &long), frame(DATA, END_STREAM, 1, text)].concat();
    let host = ("host", "shop.example");
    run(&[
        case("8.2 a name in upper case", &[&with(&[("X-Name", "1")])], BROKEN),
        case("8.2.1 a name with a space", &[&with(&[("x name", "1")])], BROKEN),
        case("8.2.1 a name with a colon", &[&with(&[("x:name", "1")])], BROKEN),
        case("8.2.1 no name", &[&with(&[("", "1")])], BROKEN),
        case("8.2.1 a value with a line's end", &[&with(&[("x", "1\r\ny: 2")])], BROKEN),
        case("8.2.1 a value with a zero", &[&with(&[("x", "1\0")])], BROKEN),
        case("8.2.2 Connection", &[&with(&[("connection", "close")])], MALFORMED),
        case("8.2.2 Keep-Alive", &[&with(&[("keep-alive", "5")])], MALFORMED),
        case("8.2.2 Proxy-Connection", &[&with(&[("proxy-connection", "close")])], MALFORMED),
        case("8.2.2 Transfer-Encoding", &[&with(&[("transfer-encoding", "chunked")])], MALFORMED),
        case("8.2.2 Upgrade", &[&with(&[("upgrade", "websocket")])], MALFORMED),
        case("8.2.2 TE other than trailers", &[&with(&[("te", "gzip")])], MALFORMED),
        case("8.2.2 TE of trailers", &[&with(&[("te", "trailers")])], SERVED),
        case("8.3 an unknown pseudo-field", &[&with(&[(":name", "1")])], BROKEN),
        case("8.3 an answer's pseudo-field", &[&with(&[(":status", "200")])], MALFORMED),
        case(
            "8.3 a pseudo-field behind a field",
            &[&only(&[&[("x", "1")][..], &pseudo("GET", "/")].concat())],
            MALFORMED,
        ),
        // It goes no further: the library drops it.
        case(
            "8.1 a pseudo-field in trailers",
            &[&post(1, "/"), &frame(HEADERS, WHOLE, 1, &block(&[(":path", "/other")]))],
            SERVED,
        ),
        case(
            "8.1 trailers that are not the end",
            &[&post(1, "/wait"), &frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")]))],
            MALFORMED,
        ),
        case("8.3.1 no method", &[&only(&without(":method"))], MALFORMED),
        case("8.3.1 no scheme", &[&only(&without(":scheme"))], MALFORMED),
        case("8.3.1 no path", &[&only(&without(":path"))], MALFORMED),
        case("8.3.1 an empty path", &[&only(&pseudo("GET", ""))], MALFORMED),
        case("8.3.1 two paths", &[&with(&[(":path", "/other")])], MALFORMED),
        case(
            "8.3.1 a Host in place of an authority",
            &[&only(&[&without(":authority")[..], &[host]].concat())],
            SERVED,
        ),
        case("8.3.1 neither", &[&only(&without(":authority"))], REFUSED),
        case("8.3.1 a Host that is another", &[&with(&[("host", "other.example")])], REFUSED),
        case(
            "8.3.1 a user before the host",
            &[&only(&[&without(":authority")[..], &[("host", "me@shop.example")]].concat())],
            REFUSED,
        ),
        case("8.3.1 OPTIONS of everything", &[&only(&pseudo("OPTIONS", "*"))], REFUSED),
        case("8.1.1 less than Content-Length", &[&body(b"four")], MALFORMED),
        case("8.1.1 more than Content-Length", &[&body(b"sixsix")], MALFORMED),
        case("8.1.1 Content-Length without a body", &[&frame(HEADERS, WHOLE, 1, &long)], MALFORMED),
        case("8.1.1 as long as Content-Length", &[&body(b"fives")], SERVED),
        case("8.1.1 two lengths", &[&with(&[("content-length", "0"), ("content-length", "1")])], MALFORMED),
        case("8.2.3 cookies in several fields", &[&with(&[("cookie", "a=1"), ("cookie", "b=2")])], SERVED),
        case(
            "8.5 CONNECT has no endpoint",
            &[&only(&[(":method", "CONNECT"), (":authority", "shop.example:443")])],
            REFUSED,
        ),
    ]);
}

#[test]
fn what_is_no_preface_is_closed() {
    let web = endpoint();
    let stand = stand(&web);
    for sent in
        [&b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"[..], &[0; 64], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"]
    {
        let mut peer = Peer::silent(&stand);
        let _ = peer.send(sent);
        assert!(matches!(peer.outcome(), Outcome::Closed | BROKEN), "{}", String::from_utf8_lossy(sent));
    }
    assert!(web.seen().is_empty());
}

#[test]
fn a_client_that_stops_at_any_stage_is_let_go() {
    let short = Duration::from_millis(300);
    let limits =
        Limits { header_timeout: short, idle_timeout: short, body_idle_timeout: short, ..Limits::default() };
    let web = endpoint();
    let settings = Settings { threads: 1, limits, ..Settings::default() };
    let stand = Stand::of(settings, service(web.address, Protocol::Http));
    let half = &get(1, "/")[..12];
    let begun = frame(HEADERS, END_STREAM, 1, &block(&pseudo("GET", "/"))[..7]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM";
    let mut silent = Peer::silent(&stand);
    silent.send(preface).unwrap();
    assert!(matches!(silent.outcome(), Outcome::Closed | BROKEN), "in the preface");
    for (stage, sent) in [("without a request", &b""[..]), ("in a frame", half), ("in a field block", &begun)]
    {
        let mut peer = Peer::dial(&stand);
        peer.send(sent).unwrap();
        assert_eq!(peer.outcome(), Outcome::Closed, "{stage}");
    }
    let mut peer = Peer::dial(&stand);
    peer.send(&[post(1, "/"), frame(DATA, NONE, 1, b"half")].concat()).unwrap();
    assert_eq!(peer.outcome(), Outcome::Answer(1, 408), "in a body");
    assert!(web.seen().is_empty());
}
