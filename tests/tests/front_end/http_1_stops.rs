//! HTTP/1.1 clients that stop in the middle.
use std::time::{Duration, Instant};

use lb_userspace::l7::serve::{Limits, Protocol, Settings};

use crate::messages::{Client, Scripted};
use crate::stand::{Stand, service};

/// Long enough to be told from "at once", short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

/// A stage at which a client stops, and the code that it gets, if any.
const STAGES: &[(&str, &[u8], Option<u16>)] = &[
    ("before its first byte", b"", None),
    ("in the request line", b"GET /a HT", None),
    ("in a field", b"GET /a HTTP/1.1\r\nHost: shop.ex", None),
    ("before the empty line", b"GET /a HTTP/1.1\r\nHost: shop.example\r\n", None),
    ("before a body", b"POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\n", Some(408)),
    ("in a body", b"POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\nhalf", Some(408)),
    (
        "in a chunk",
        b"POST /a HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        Some(408),
    ),
    (
        "before the last chunk",
        b"POST /a HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        Some(408),
    ),
];

#[test]
fn a_client_that_stops_at_any_stage_is_let_go() {
    let limits = Limits {
        handshake_timeout: SHORT,
        header_timeout: SHORT,
        idle_timeout: SHORT,
        body_idle_timeout: SHORT,
        ..Limits::default()
    };
    let settings = Settings { threads: 1, limits, ..Settings::default() };
    let web = Scripted::telling();
    let stand = Stand::of(settings, service(web.address, Protocol::Http));
    for (stage, sent, code) in STAGES {
        let mut client = Client::dial(stand.plain);
        let began = Instant::now();
        client.send(sent);
        if let Some(code) = code {
            let answer = client.answer("POST").unwrap();
            assert_eq!(answer.code(), *code, "{stage}: {answer:?}");
            assert_eq!(answer.field("connection"), Some("close"), "{stage}");
        }
        assert!(client.is_closed(), "{stage}");
        assert!(began.elapsed() >= SHORT, "{stage}: not before its time");
    }
    // A record of a handshake (RFC 8446 §5.1) that announces more than comes.
    for (stage, sent) in [("before a handshake", &b""[..]), ("in a handshake", b"\x16\x03\x01\x02\x00\x01")] {
        let mut client = Client::dial(stand.secure);
        client.send(sent);
        assert!(client.is_closed(), "{stage}");
    }
    assert!(web.seen().iter().all(|request| request.body.is_empty()), "no half of a body is a whole one");
}
