//! Requests that are passed on as bytes, beside the same ones that hyper parses.
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::*;
use super::*;

/// What is in a request that hyper gets, and in no other.
const PARSED: &str = "X_Parsed: 1\r\n";

/// A message's first line and fields in order of name, without those that differ each time.
fn told(message: &Message) -> (Vec<String>, Vec<u8>) {
    let own = ["x_parsed: ", "x-request-id: ", "date: ", "forwarded: ", "x-forwarded-for: "];
    let mut lines = message.lines.clone();
    lines.retain(|line| !own.iter().any(|own| line.starts_with(own)));
    lines[1..].sort();
    (lines, message.body.clone())
}

fn stand(web: &RawEndpoint) -> Stand {
    // What hyper has served stays with it, and is not parked.
    let limits = Limits { parked_after: Duration::from_secs(600), ..Limits::default() };
    let settings = Settings { limits, ..one_thread() };
    Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]))
}

fn parked(stand: &Stand) -> u64 {
    stand.front_end.totals().parked.load(Ordering::SeqCst)
}

#[test]
fn endpoints_and_clients_see_the_same_either_way() {
    let requests = [
        "GET /a?b=c&d=%2F HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: SHOP.example:80\r\nUser-Agent: x\r\nAccept:  a \r\nAccept: b\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: shop.example\r\nConnection: Keep-Alive\r\nKeep-Alive: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example\r\nTE: trailers\r\nProxy-Connection: a\r\nVia: 1.1 a, 1.0 b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=a\r\nCookie: a=b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example.\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: https\r\nX-Request-Id: a\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: shop.example\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc",
        "PUT /p HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n",
        "DELETE /p HTTP/1.1\r\nHost: shop.example\r\nTrailer: x\r\nX-Empty:\r\n\r\n",
    ];
    let answers: [&[u8]; 10] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: a\r\n\r\nok",
        b"HTTP/1.1 404 Nothing here\r\nContent-Length: 0\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nVia: 1.1 a\r\nUpgrade: b\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nContent-Length: 2\r\nX-Request-Id: a\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 1\r\nX-Bin: \xc3\xa4\r\n\r\n\x00",
    ];
    for answer in answers {
        let web = RawEndpoint::saying(answer);
        let stand = stand(&web);
        for request in requests {
            // A HEAD request's endpoint would say a body's bytes, which belong to no answer.
            if request.starts_with("HEAD") && !answer.ends_with(b"\r\n\r\n") {
                continue;
            }
            let mut client = stand.client();
            let passed = (told(&client.ask(request)), told(&web.last()));
            eventually("it was passed on as it was", || parked(&stand) == 1);
            let (first, rest) = request.split_once("\r\n").expect("a line");
            let parsed = client.ask(&format!("{first}\r\n{PARSED}{rest}"));
            assert_eq!(parked(&stand), 0, "hyper has it");
            let parsed = (told(&parsed), told(&web.last()));
            assert_eq!(passed, parsed, "{request} {}", String::from_utf8_lossy(answer));
        }
    }
}

/// An endpoint that says `answers` one after another, and hangs up where they end.
fn in_pieces(answers: &'static [&'static [u8]]) -> RawEndpoint {
    RawEndpoint::start(move |peer| {
        peer.request()?;
        for piece in answers {
            peer.stream.write_all(piece)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })
}

#[test]
fn an_answer_may_come_in_pieces_and_end_with_its_connection() {
    let web =
        in_pieces(&[b"HTTP/1.1 103 E", b"arly\r\n\r\nHTTP/1.0 20", b"0 OK\r\nX: y\r\n", b"\r\nabc", b"def"]);
    let stand = stand(&web);
    let mut client = stand.client();
    let answer = client.ask(&get("/"));
    assert_eq!((answer.code(), answer.text()), (200, "abcdef".to_owned()));
    assert_eq!((answer.field("via"), answer.field("x")), (Some("1.0 podway"), Some("y")));
    eventually("the client's connection goes on", || parked(&stand) == 1);
}

/// Bytes of which each piece differs from those around it.
fn numbered(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(length).collect()
}

/// An endpoint whose answer has a body of so many bytes, which waits for nobody where `together`.
fn long(length: usize, is_chunked: bool, together: bool) -> RawEndpoint {
    RawEndpoint::start(move |peer| {
        while peer.request()?.is_some() {
            let body = numbered(length);
            let (field, body) = if is_chunked {
                let chunk =
                    |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
                let chunks = body.chunks(100_000).flat_map(chunk).chain(*b"0\r\n\r\n");
                ("Transfer-Encoding: chunked".to_owned(), chunks.collect())
            } else {
                (format!("Content-Length: {length}"), body)
            };
            let head = format!("HTTP/1.1 200 OK\r\nServer: a\r\n{field}\r\n\r\n").into_bytes();
            if together {
                peer.stream.write_all(&[head, body].concat())?;
                continue;
            }
            // The head comes in two pieces, the second of them with most of the body.
            let (first, rest) = head.split_at(20);
            peer.stream.write_all(first)?;
            std::thread::sleep(Duration::from_millis(5));
            peer.stream.write_all(&[rest, &body].concat())?;
        }
        Ok(())
    })
}

#[test]
fn long_bodies_arrive_as_they_were_sent() {
    for length in [4_096, 4_097, 60_000, 131_072, 3_000_000] {
        for (is_chunked, together) in [(false, true), (false, false), (true, true), (true, false)] {
            let web = long(length, is_chunked, together);
            let stand = stand(&web);
            let mut client = stand.client();
            for _ in 0..3 {
                client.send(get("/"));
                // What does not go at once waits.
                std::thread::sleep(Duration::from_millis(5));
                let answer = client.answer(false);
                assert_eq!((answer.code(), answer.field("server")), (200, Some("a")));
                assert!(answer.body == numbered(length), "{length} {is_chunked} {together}");
            }
            assert_eq!(web.accepted.load(Ordering::SeqCst), 1, "its connection is kept");
            eventually("it was passed on as it was", || parked(&stand) == 1);
        }
    }
}

#[test]
fn trailers_stay_behind_and_a_chunked_body_that_breaks_off_is_cut() {
    let web = in_pieces(&[
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n2",
        b"\r\nab",
        b"\r",
        b"\n0\r\nA: b\r\n\r\n",
    ]);
    let whole = stand(&web);
    let mut client = whole.client();
    client.send(get("/"));
    let head = read_head(&mut client.reader).expect("a head").expect("an answer");
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    let mut body = [0; 12];
    client.reader.read_exact(&mut body).expect("a body");
    assert_eq!(&body, b"2\r\nab\r\n0\r\n\r\n");

    let bad: [&[&[u8]]; 3] = [
        &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab", b"x"],
        &[
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
        ],
        &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"],
    ];
    for pieces in bad {
        let web = in_pieces(pieces);
        let stand = stand(&web);
        let mut client = stand.client();
        client.send(get("/"));
        let mut all = Vec::new();
        let _ = client.reader.read_to_end(&mut all);
        assert!(all.windows(2).any(|pair| pair == b"ab"), "what came before is sent");
        assert!(!all.ends_with(b"\r\n\r\n"), "it has no end: {}", String::from_utf8_lossy(&all));
    }
}

#[test]
fn an_endpoint_that_says_more_than_its_answer_is_not_asked_again() {
    let web = RawEndpoint::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n");
    let stand = stand(&web);
    let mut client = stand.client();
    for asked in 1..4 {
        assert_eq!(client.ask(&get("/")).text(), "ok");
        assert_eq!(web.accepted.load(Ordering::SeqCst), asked);
    }
    // Nor is one that wants to close.
    let web = RawEndpoint::saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let stand = self::stand(&web);
    let mut client = stand.client();
    for asked in 1..4 {
        assert_eq!(client.ask(&get("/")).code(), 200);
        assert_eq!(web.accepted.load(Ordering::SeqCst), asked);
    }
}

/// Whether the kernel has bytes for the socket between two addresses (proc(5), /proc/net/tcp).
fn has_unread(local: SocketAddr, peer: SocketAddr) -> bool {
    let ports = [format!(":{:04X}", local.port()), format!(":{:04X}", peer.port())];
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let of_socket = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.len() > 4 && columns[1].ends_with(&ports[0]) && columns[2].ends_with(&ports[1])
    };
    let line = table.lines().find(of_socket).expect("the socket's line");
    !line.split_whitespace().nth(4).is_some_and(|queues| queues.ends_with(":00000000"))
}

#[test]
fn a_request_that_comes_before_the_answer_is_next() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let web = RawEndpoint::start(move |peer| {
        while let Some(request) = peer.request()? {
            let _ = wait.lock().expect("a receiver").recv_timeout(DEADLINE);
            peer.answer(request.start())?;
        }
        Ok(())
    });
    let endpoint = web.endpoint();
    let stand = Stand::with(vec![std::sync::Arc::clone(&endpoint)]);
    let mut client = stand.client();
    client.send(get("/1"));
    eventually("the endpoint has the request", || endpoint.in_flight() == 1);
    client.send(get("/2") + &get("/3"));
    let own = client.stream.local_addr().expect("an address");
    eventually("the front-end has read them", || !has_unread(stand.address, own));
    drop(go);
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer(false).text(), format!("GET {path} HTTP/1.1"));
    }
}

#[test]
fn a_client_that_wants_nothing_more_is_left_after_its_answer() {
    let web = RawEndpoint::named("web");
    let stand = stand(&web);
    for _ in 0..2 {
        let mut client = stand.client();
        let answer = client.ask("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        assert_eq!((answer.code(), answer.field("connection")), (200, Some("close")));
        assert!(client.is_closed());
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 1, "the endpoint's connection is kept");
}

#[test]
fn a_request_in_two_pieces_is_served() {
    let web = RawEndpoint::named("web");
    let stand = stand(&web);
    let mut client = stand.client();
    let request = get("/");
    let (head, rest) = request.split_at(9);
    client.send(head);
    eventually("hyper has it", || parked(&stand) == 0);
    client.send(rest);
    assert_eq!(client.answer(false).text(), "web GET / HTTP/1.1");
}
