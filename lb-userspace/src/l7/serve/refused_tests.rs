//! Requests that two readers could take for different ones: each is answered with an error and the connection closed,
//! and no endpoint sees any of it.
use std::io::Read as _;
use std::sync::atomic::Ordering;

use super::fixture::*;
use super::settings::HEAD_BUFFER_BYTES;
use super::*;

/// What a client that sends these bytes gets, until the front-end closes.
fn all_answers(stand: &Stand, bytes: &[u8]) -> String {
    let mut client = stand.client();
    client.send(bytes);
    let mut answers = Vec::new();
    client.reader.read_to_end(&mut answers).expect("the connection's end");
    String::from_utf8_lossy(&answers).into_owned()
}

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let cases: [(u16, &[u8]); 46] = [
        // Lengths.
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3,3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: +3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0x3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3 3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length:\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 18446744073709551616\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length : 3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\n Content-Length: 3\r\n\r\nabc"),
        // Codings.
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        // Lines.
        (400, b"GET / HTTP/1.1\nHost: shop.example\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\nX: 1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: a\rY: b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: a\r\n b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: a\r\n\tb\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n X: a\r\nHost: shop.example\r\n\r\n"),
        (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        // Names and values.
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX Y: 1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\n: 1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX\x00: 1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: a\x00b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nX\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\n(X): 1\r\n\r\n"),
        // Request lines.
        (400, b"GET  / HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        (400, b"GET / HTTP/1.1 \r\nHost: shop.example\r\n\r\n"),
        (400, b"GET /a b HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        (400, b"GET /\r\nHost: shop.example\r\n\r\n"),
        (400, b"GET / HTTP/1.2\r\nHost: shop.example\r\n\r\n"),
        (400, b"G\"T / HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        // Hosts and targets.
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example\r\nHost: shop.example\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: shop.example/x\r\n\r\n"),
        (400, b"GET http://other.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        (400, b"GET /%2e%2e%2fadmin HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        (400, b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n"),
    ];
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    for (code, bytes) in cases {
        // What was smuggled would be the second request.
        let bytes = [bytes, b"GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n"].concat();
        let shown = String::from_utf8_lossy(&bytes);
        let answers = all_answers(&stand, &bytes);
        assert!(answers.starts_with(&format!("HTTP/1.1 {code} ")), "{shown:?}: {answers:?}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{shown:?}: {answers:?}");
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn badly_framed_bodies_are_cut_off() {
    let cases: [&[u8]; 7] = [
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc",
        b"0\r\nContent-Length: 3\r\n\r\n",
    ];
    for body in cases {
        let web = RawEndpoint::named("web");
        let stand = Stand::with(vec![web.endpoint()]);
        let head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let rest = b"GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        let answers = all_answers(&stand, &[head, body, rest].concat());
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 0, "{shown:?}: {answers:?}");
        assert!(web.requests.lock().expect("requests").is_empty(), "{shown:?}");
    }
}

#[test]
fn requests_before_a_refused_one_are_answered() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let bytes = [get("/first").as_bytes(), b"GET /second HTTP/1.1\nHost: shop.example\r\n\r\n"].concat();
    let answers = all_answers(&stand, &bytes);
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
    assert_eq!(stand.front_end.totals().bytes_refused.load(Ordering::SeqCst), 1);
}

#[test]
fn an_absolute_target_that_agrees_with_its_host_is_served() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let answer = stand.ask("GET http://shop.example/a HTTP/1.1\r\nHost: SHOP.example:80\r\n\r\n");
    assert_eq!((answer.code(), answer.text()), (200, "web GET /a HTTP/1.1".to_owned()));
    assert_eq!(web.last().field("host"), Some("shop.example"));
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    client.send([get("/1"), get("/2"), get("/3")].concat());
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer(false).text(), format!("web GET {path} HTTP/1.1"));
    }
}

/// A front-end that takes ten bytes of a body.
fn with_short_bodies(web: &RawEndpoint) -> Stand {
    let limits = Limits { body_bytes_max: Some(10), ..Limits::default() };
    let settings = Settings { limits, ..one_thread() };
    Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]))
}

#[test]
fn a_body_that_is_too_long_is_413() {
    let web = RawEndpoint::named("web");
    let stand = with_short_bodies(&web);
    let head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 11\r\n\r\n";
    let answers = all_answers(&stand, &[&head[..], b"0123456789a"].concat());
    assert!(answers.starts_with("HTTP/1.1 413"), "{answers}");
    // A body without a length shows it on the way.
    let head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answers = all_answers(&stand, &[&head[..], b"b\r\n0123456789a\r\n0\r\n\r\n"].concat());
    assert!(answers.starts_with("HTTP/1.1 413"), "{answers}");
    assert!(web.requests.lock().expect("requests").is_empty());
    let head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: 10\r\n\r\n";
    let answers = all_answers(&stand, &[&head[..], b"0123456789"].concat());
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
}

#[test]
fn a_refused_client_may_send_on_for_a_while() {
    let web = RawEndpoint::named("web");
    let stand = with_short_bodies(&web);
    let mut client = stand.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 200000\r\n\r\n");
    assert_eq!(client.answer(false).code(), 413);
    // A closed socket would answer with a reset, which may overtake the answer on its way to a client.
    for _ in 0..20 {
        client.send([b'x'; 10_000]);
    }
    assert!(client.is_closed());
}

#[test]
fn heads_have_bounds() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let cases = [
        (414, get(&format!("/{}", "a".repeat(URI_BYTES_MAX)))),
        (200, get(&format!("/{}", "a".repeat(URI_BYTES_MAX - 1)))),
        (431, format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX))),
        (200, format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX - 1))),
        (431, format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX))),
        (431, format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX: {}", "a".repeat(2 * HEAD_BUFFER_BYTES))),
    ];
    for (code, request) in cases {
        let answer = stand.ask(&request);
        assert_eq!(answer.code(), code, "{}… of {} bytes", &request[..40], request.len());
    }
}
