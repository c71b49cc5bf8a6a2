//! HTTP/1.1 from a client to an endpoint and back.
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::fixture::*;
use super::*;

#[test]
fn a_request_goes_where_its_host_and_path_lead() {
    both_ways(|| {
        let (web, api, other) =
            (RawEndpoint::named("web"), RawEndpoint::named("api"), RawEndpoint::named("other"));
        let to =
            |endpoint: &RawEndpoint| Route::to(BackendService::new("shop/web:80", vec![endpoint.endpoint()]));
        let rules = vec![
            rule("shop.example", "/", to(&web)),
            rule("shop.example", "/api", to(&api)),
            rule("other.example", "/", to(&other)),
            rule("gone.example", "/", Route::missing("no Service shop/gone")),
        ];
        let stand = Stand::start(one_thread(), snapshot(Scheme::Http, site(rules, Plain::Served)));
        let mut client = stand.client();
        let mut ask = |host: &str, path: &str| {
            let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            (answer.code(), answer.text(), answer.field("x-podway-reason").map(str::to_owned))
        };
        assert_eq!(ask("shop.example", "/a?b=c"), (200, "web GET /a?b=c HTTP/1.1".to_owned(), None));
        assert_eq!(ask("SHOP.example:80", "/api/1"), (200, "api GET /api/1 HTTP/1.1".to_owned(), None));
        assert_eq!(ask("shop.example", "/x/../api"), (200, "api GET /api HTTP/1.1".to_owned(), None));
        assert_eq!(ask("other.example", "/api"), (200, "other GET /api HTTP/1.1".to_owned(), None));
        let (code, text, reason) = ask("none.example", "/");
        assert_eq!((code, reason.as_deref()), (404, Some("no-rule")));
        assert_eq!(text, "404: no rule takes this host and path\n");
        let (code, _, reason) = ask("gone.example", "/");
        assert_eq!((code, reason.as_deref()), (404, Some("no-backend-service")));
    });
}

#[test]
fn the_reason_can_be_withheld() {
    let settings = Settings { reason_header: ReasonHeader::Withheld, ..one_thread() };
    let stand = Stand::of(settings, BackendService::new("shop/web:80", Vec::new()));
    let answer = stand.ask(&get("/"));
    assert_eq!((answer.code(), answer.field("x-podway-reason")), (503, None));
}

#[test]
fn connections_on_both_sides_are_kept() {
    both_ways(|| {
        let web = RawEndpoint::named("web");
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        for _ in 0..20 {
            assert_eq!(client.ask(&get("/")).code(), 200);
        }
        assert_eq!(stand.ask(&get("/")).code(), 200);
        assert_eq!(web.accepted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn hop_by_hop_fields_stay_on_their_side() {
    let web = RawEndpoint::saying(
        b"HTTP/1.1 200 OK\r\nConnection: X-Once, keep-alive\r\nX-Once: 1\r\nKeep-Alive: timeout=5\r\n\
          X-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let stand = Stand::with(vec![web.endpoint()]);
    let answer = stand.ask(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\n\
         Keep-Alive: 3\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nX-Kept: 2\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
    );
    let asked = web.last();
    for name in ["connection", "x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(asked.field(name), None, "{name} to the endpoint");
    }
    assert_eq!(asked.field("x-kept"), Some("2"));
    for name in ["x-once", "keep-alive"] {
        assert_eq!(answer.field(name), None, "{name} to the client");
    }
    assert_eq!((answer.field("x-kept"), answer.field("via")), (Some("1"), Some("1.1 podway")));
}

#[test]
fn a_client_cannot_take_out_what_the_front_end_says_of_it() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    stand.ask(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: X-Forwarded-For, Host, Cookie\r\n\
         Cookie: a=1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
    );
    let asked = web.last();
    assert_eq!(asked.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!((asked.field("host"), asked.field("cookie")), (Some("shop.example"), Some("a=1")));
}

#[test]
fn the_endpoint_hears_who_asks() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let answer = stand.ask(
        "GET / HTTP/1.1\r\nHost: shop.example:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\n\
         Forwarded: for=192.0.2.1\r\nX-Request-Id: mine\r\nVia: 1.0 before\r\n\r\n",
    );
    let asked = web.last();
    assert_eq!(asked.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(asked.fields("x-forwarded-proto"), ["http"]);
    assert_eq!(asked.fields("x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(asked.fields("x-forwarded-port"), [stand.address.port().to_string()]);
    assert_eq!(asked.fields("forwarded"), ["for=127.0.0.1;host=\"shop.example:8080\";proto=http"]);
    assert_eq!(asked.fields("via"), ["1.0 before, 1.1 podway"]);
    let id = asked.field("x-request-id").expect("an id");
    assert_eq!(id.len(), 32);
    assert_eq!(answer.field("x-request-id"), Some(id));
}

#[test]
fn a_trusted_proxy_is_believed() {
    let web = RawEndpoint::named("web");
    let trusted = Prefix { address: "127.0.0.0".parse().expect("an address"), length_bits: 8 };
    let settings = Settings { trusted_proxies: vec![trusted], ..one_thread() };
    let stand = Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]));
    stand.ask(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 192.0.2.1\r\n\
         X-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.1\r\n\
         X-Request-Id: mine\r\n\r\n",
    );
    let asked = web.last();
    assert_eq!(asked.fields("x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 127.0.0.1"]);
    assert_eq!(asked.fields("x-forwarded-proto"), ["https"]);
    let element = "for=127.0.0.1;host=\"shop.example\";proto=http";
    assert_eq!(asked.fields("forwarded"), [format!("for=192.0.2.1, {element}")]);
    assert_eq!(asked.fields("x-request-id"), ["mine"]);
}

#[test]
fn bodies_pass_both_ways_with_their_framing() {
    let web = RawEndpoint::start(|peer| {
        while let Some(request) = peer.request()? {
            let text = format!("{:x}\r\n{}\r\n0\r\n\r\n", request.body.len(), request.text());
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            peer.stream.write_all(format!("{head}{text}").as_bytes())?;
        }
        Ok(())
    });
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    let answer = client.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((answer.text(), web.last().field("content-length")), ("hello".to_owned(), Some("5")));
    let answer = client.ask(
        "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!((answer.text(), web.last().field("transfer-encoding")), ("abc".to_owned(), Some("chunked")));
}

#[test]
fn answers_without_a_body_have_none() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            while let Some(request) = peer.request()? {
                peer.stream.write_all(match request.start() {
                    start if start.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                    start if start.contains("/204") => b"HTTP/1.1 204 No Content\r\n\r\n",
                    _ => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n",
                })?;
            }
            Ok(())
        });
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        let answer = client.ask("HEAD / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert_eq!((answer.code(), answer.field("content-length")), (200, Some("1234")));
        let answer = client.ask(&get("/204"));
        assert_eq!((answer.code(), answer.field("transfer-encoding")), (204, None));
        let answer = client.ask(&get("/304"));
        assert_eq!((answer.code(), answer.field("etag")), (304, Some("\"a\"")));
        // An own answer to HEAD has no body either: the next answer would be misread.
        let answer = client.ask("HEAD / HTTP/1.1\r\nHost: none.example\r\n\r\n");
        assert_eq!(answer.code(), 404);
        assert_eq!(client.ask(&get("/204")).code(), 204);
        assert_eq!(web.accepted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn informational_answers_of_an_endpoint_are_passed_over() {
    both_ways(|| {
        let web = RawEndpoint::saying(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        );
        let stand = Stand::with(vec![web.endpoint()]);
        let answer = stand.ask(&get("/"));
        assert_eq!((answer.code(), answer.text(), answer.field("link")), (200, "ok".to_owned(), None));
    });
}

#[test]
fn a_client_that_waits_for_100_gets_it_once_an_endpoint_is_there() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    client.send("PUT / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer(false).start(), "HTTP/1.1 100 Continue");
    client.send("ok");
    assert_eq!(client.answer(false).code(), 200);
    assert_eq!((web.last().text(), web.last().field("expect")), ("ok".to_owned(), None));
    // Without an endpoint the body is never asked for.
    let nowhere = Stand::with(Vec::new());
    let answer = nowhere
        .ask("PUT / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!((answer.code(), answer.field("x-podway-reason")), (503, Some("no-endpoint")));
}

/// More than all buffers between an endpoint and its client hold.
const MUCH_BYTES: usize = 64 * 1024 * 1024;

#[test]
fn an_endpoint_waits_for_a_client_that_reads_slowly() {
    both_ways(|| {
        let held_at = Arc::new(AtomicUsize::new(0));
        let note = Arc::clone(&held_at);
        let web = RawEndpoint::start(move |peer| {
            peer.request()?;
            peer.stream.set_write_timeout(Some(Duration::from_millis(300)))?;
            write!(peer.stream, "HTTP/1.1 200 OK\r\nContent-Length: {MUCH_BYTES}\r\n\r\n")?;
            let piece = [b'x'; 64 * 1024];
            let mut left = MUCH_BYTES;
            while left > 0 {
                match peer.stream.write(&piece[..left.min(piece.len())]) {
                    Ok(length) => left -= length,
                    // Held back: go on once the client reads.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        note.store(MUCH_BYTES - left, Ordering::SeqCst);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        client.send(get("/"));
        eventually("the endpoint is held back", || held_at.load(Ordering::SeqCst) > 0);
        assert_eq!(client.answer(false).body.len(), MUCH_BYTES);
    });
}

#[test]
fn a_request_whose_client_is_gone_is_dropped() {
    both_ways(|| {
        let (sender, dropped) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let web = RawEndpoint::start(move |peer| {
            peer.request()?;
            let gone = peer.reader.read(&mut [0; 1])?;
            let _ = sender.lock().expect("a sender").send(gone);
            Ok(())
        });
        let endpoint = web.endpoint();
        let stand = Stand::with(vec![Arc::clone(&endpoint)]);
        let mut client = stand.client();
        client.send(get("/"));
        eventually("the endpoint has the request", || !web.requests.lock().expect("requests").is_empty());
        assert_eq!(endpoint.in_flight(), 1);
        drop(client);
        assert_eq!(dropped.recv_timeout(DEADLINE), Ok(0));
        eventually("the request is no longer counted", || endpoint.in_flight() == 0);
    });
}

#[test]
fn a_body_that_an_endpoint_cuts_off_is_cut_off_for_the_client() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            peer.request()?;
            peer.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        });
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        client.send(get("/"));
        let mut bytes = Vec::new();
        let _ = client.reader.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nhalf"), "{text}");
    });
}

#[test]
fn a_request_over_http_1_0_is_answered_and_closed() {
    let web = RawEndpoint::start(|peer| {
        while peer.request()?.is_some() {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            peer.stream.write_all(format!("{head}2\r\nok\r\n0\r\n\r\n").as_bytes())?;
        }
        Ok(())
    });
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    client.send("GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n");
    let mut bytes = Vec::new();
    client.reader.read_to_end(&mut bytes).expect("all");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.ends_with("\r\n\r\nok") && !text.to_lowercase().contains("chunked"), "{text}");
    assert_eq!(web.last().start(), "GET / HTTP/1.1");
    assert_eq!(web.last().field("via"), Some("1.0 podway"));
}
