use std::io::Write as _;
use std::sync::atomic::Ordering;

use http::StatusCode;

use super::{read_head, *};
use crate::l7::serve::fixture::{self, RawEndpoint, Stand};

/// A request that hyper reads, so that its answer is read here.
const PARSED: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\nX_Parsed: 1\r\n\r\n";

/// The fields of a request.
fn asked() -> HeaderMap {
    let fields = [("host", "shop.example"), ("content-length", "0"), ("set-cookie", "of the request")];
    fields
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// What is read of an answer's head, with what came with it of its body.
fn read(answer: &str) -> Option<(Response<()>, Head)> {
    read_head(answer.as_bytes(), false, &mut asked()).ok().flatten()
}

/// Data and trailers of a body in chunks that comes in pieces of so many bytes; none where it is broken.
fn data(body: &str, piece: usize) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let mut chunks = Chunks { scanner: Scanner::of_chunks(), trailers: Vec::new() };
    let (mut read, mut data) = (BytesMut::new(), Vec::new());
    for piece in body.as_bytes().chunks(piece) {
        read.extend_from_slice(piece);
        loop {
            let length = chunks.skip_to_data(&mut read).ok()?;
            if length == 0 {
                break;
            }
            data.extend_from_slice(&read.split_to(length));
        }
    }
    let is_whole = chunks.scanner.stage() == Stage::Between && read.is_empty();
    is_whole.then(|| chunks.trailers().ok()).flatten().map(|trailers| (data, trailers))
}

#[test]
fn heads_are_read_after_interim_ones_and_without_what_is_for_one_connection() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    let head = "HTTP/1.1 404 Nothing here\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nSet-Cookie: a=b\r\n\
                Set-Cookie:  c=d \r\nX-Bin: \u{e4}\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n";
    let whole = format!("{interim}{head}body");
    let (response, head) = read(&whole).expect("a head");
    assert_eq!((response.status(), response.version()), (StatusCode::NOT_FOUND, Version::HTTP_11));
    let reason = response.extensions().get::<ReasonPhrase>();
    assert_eq!(reason.map(ReasonPhrase::as_bytes), Some(&b"Nothing here"[..]));
    let fields: Vec<(&str, &[u8])> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let expected: [(&str, &[u8]); 4] = [
        ("set-cookie", b"a=b"),
        ("set-cookie", b"c=d"),
        ("x-bin", "\u{e4}".as_bytes()),
        ("content-length", b"4"),
    ];
    assert_eq!(fields, expected);
    assert_eq!((head.end, head.is_kept, &head.body[..]), (End::Length(4), true, &b"body"[..]));
    for length in 0..whole.len() - 4 {
        let mut fields = asked();
        let read = read_head(&whole.as_bytes()[..length], false, &mut fields);
        assert!(matches!(read, Ok(None)), "{length} bytes of it");
        assert_eq!(fields, asked(), "the request is whole after {length} bytes");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for head in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nna me: x\r\n\r\n",
        "SSH-2.0-server\r\n",
    ] {
        assert!(read_head(head.as_bytes(), false, &mut asked()).is_err(), "{head}");
    }
}

#[test]
fn a_length_is_told_as_numbers_are_written() {
    for (sent, told) in [("7", "7"), ("0", "0"), ("007", "7"), ("00", "0"), ("10", "10")] {
        let (response, _) =
            read(&format!("HTTP/1.1 200 OK\r\nContent-Length: {sent}\r\n\r\n")).expect("a head");
        let lengths: Vec<_> = response.headers().get_all(CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, [told], "{sent}");
    }
    for head in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let (response, _) = read(head).expect("a head");
        assert_eq!(response.headers().get(CONTENT_LENGTH), None, "{head}");
    }
}

#[test]
fn chunks_are_taken_apart_wherever_their_bytes_are_cut() {
    let body = "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 7\r\nConnection: a\r\n\r\n";
    for piece in 1..=body.len() {
        let (bytes, trailers) = data(body, piece).expect("a body");
        assert_eq!(bytes, b"abc0123456789", "in pieces of {piece}");
        let trailers = trailers.expect("trailers");
        assert_eq!((trailers.len(), trailers.get("x-sum").map(HeaderValue::as_bytes)), (1, Some(&b"7"[..])));
        assert_eq!(data("0\r\n\r\n", piece), Some((Vec::new(), None)));
    }
    for broken in [
        "x\r\n",
        "3\r\nabcd\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "0\r\na b: c\r\n\r\n",
    ] {
        assert_eq!(data(broken, broken.len()), None, "{broken}");
    }
}

#[test]
fn a_connection_is_kept_after_an_answer_that_ended_where_it_said() {
    let answers: [(&'static [u8], usize); 6] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: b\r\n\r\n", 1),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 1),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 3),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok beyond", 3),
    ];
    for (answer, connections) in answers {
        let web = RawEndpoint::saying(answer);
        let stand = Stand::with(vec![web.endpoint()]);
        for _ in 0..3 {
            assert_eq!(stand.client().ask(PARSED).text(), "ok", "{}", String::from_utf8_lossy(answer));
        }
        let accepted = web.accepted.load(Ordering::SeqCst);
        assert_eq!(accepted, connections, "{}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_whole() {
    let web = RawEndpoint::start(|peer| {
        peer.request()?;
        peer.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall ")?;
        peer.stream.write_all(&[b'x'; 200_000])
    });
    let stand = Stand::with(vec![web.endpoint()]);
    let answer = stand.client().ask(PARSED);
    assert_eq!((answer.code(), answer.body.len()), (200, 200_004));
    assert!(answer.body.starts_with(b"all x"));
}

#[test]
fn a_body_that_is_cut_off_cuts_its_client_off() {
    let cut: [&'static [u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf+",
    ];
    for said in cut {
        let web = RawEndpoint::saying_once(said);
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        client.send(PARSED);
        let mut answer = fixture::read_head(&mut client.reader).expect("a connection").expect("a head");
        assert_eq!(answer.code(), 200);
        let body = fixture::read_body(&mut client.reader, &mut answer);
        assert!(body.is_err(), "{}", String::from_utf8_lossy(said));
    }
}
