//! Endpoints that fail, and what becomes of requests to them.
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::*;
use super::*;
use crate::health::Signal;

/// Endpoints at which nobody listens, as long as the first of both lives.
fn three_dead() -> ([Nobody; 3], Vec<Arc<Endpoint>>) {
    let nobodies = [nobody(), nobody(), nobody()];
    let dead = nobodies.iter().map(|nobody| Arc::new(Endpoint::new(nobody.address, 1))).collect();
    (nobodies, dead)
}

#[test]
fn another_endpoint_is_tried_where_none_can_be_connected_to() {
    both_ways(|| {
        let web = RawEndpoint::named("web");
        let nobody = nobody();
        let dead = Arc::new(Endpoint::new(nobody.address, 1));
        let stand = Stand::with(vec![Arc::clone(&dead), web.endpoint()]);
        let mut client = stand.client();
        for _ in 0..30 {
            let answer = client.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody");
            assert_eq!(answer.code(), 200);
            assert_eq!(web.last().text(), "body");
        }
        let signals = stand.front_end.signals();
        assert!(signals.iter().all(|signal| signal.endpoint == dead.address), "{signals:?}");
        assert_eq!(signals[0].signal, Signal::ConnectFailed);
        assert_eq!(&*signals[0].backend_service, "shop/web:80");
    });
}

#[test]
fn without_any_endpoint_to_connect_to_the_answer_is_502() {
    both_ways(|| {
        let (_nobodies, dead) = three_dead();
        let service = BackendService::new("shop/web:80", dead);
        let counters = Arc::clone(&service.counters);
        let stand = Stand::of(one_thread(), service);
        let answer = stand.ask(&get("/"));
        assert_eq!((answer.code(), answer.field("x-podway-reason")), (502, Some("connect-failed")));
        assert_eq!(counters.connects_failed.load(Ordering::SeqCst), 3);
        assert_eq!(counters.retries.load(Ordering::SeqCst), 2);
        assert_eq!(counters.classes(), [0, 0, 0, 0, 1]);
    });
}

/// Answers one request on each connection and closes it when the next one comes, as an endpoint does whose idle time
/// was over at that moment.
fn closing_under_the_second() -> RawEndpoint {
    RawEndpoint::start(|peer| {
        peer.request()?;
        peer.answer("ok")?;
        peer.request()?;
        Ok(())
    })
}

#[test]
fn a_safe_request_is_sent_again_when_a_kept_connection_was_closed_under_it() {
    both_ways(|| {
        let web = closing_under_the_second();
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        for _ in 0..4 {
            assert_eq!(client.ask(&get("/")).code(), 200);
        }
    });
}

#[test]
fn an_unsafe_request_is_not_sent_twice() {
    both_ways(|| {
        let web = closing_under_the_second();
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        assert_eq!(client.ask(&get("/")).code(), 200);
        let answer = client.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((answer.code(), answer.field("x-podway-reason")), (502, Some("protocol")));
        let posts = |requests: &Vec<Message>| {
            requests.iter().filter(|request| request.start().starts_with("POST")).count()
        };
        assert_eq!(posts(&web.requests.lock().expect("requests")), 1);
    });
}

#[test]
fn retries_have_a_budget() {
    both_ways(|| {
        let (_nobodies, dead) = three_dead();
        let service = BackendService::new("shop/web:80", dead);
        let counters = Arc::clone(&service.counters);
        let stand = Stand::of(one_thread(), service);
        let mut client = stand.client();
        for _ in 0..200 {
            assert_eq!(client.ask(&get("/")).code(), 502);
        }
        // The reserve of 100, and 20 of a hundred requests.
        let retries = counters.retries.load(Ordering::SeqCst);
        assert!((100..=140).contains(&retries), "{retries}");
    });
}

#[test]
fn what_is_no_answer_becomes_502() {
    both_ways(|| {
        let answers: [&'static [u8]; 6] = [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        ];
        for bytes in answers {
            let web = RawEndpoint::saying_once(bytes);
            let stand = Stand::with(vec![web.endpoint()]);
            let answer = stand.ask(&get("/"));
            let seen = (answer.code(), answer.field("x-podway-reason"));
            assert_eq!(seen, (502, Some("protocol")), "{}", String::from_utf8_lossy(bytes));
        }
    });
}

#[test]
fn a_request_that_takes_too_long_becomes_504() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            peer.request()?;
            peer.reader.read(&mut [0; 1]).map(|_| ())
        });
        let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
        service.request_timeout = Duration::from_millis(50);
        let stand = Stand::of(one_thread(), service);
        let mut client = stand.client();
        let answer = client.ask(&get("/"));
        assert_eq!((answer.code(), answer.field("x-podway-reason")), (504, Some("timeout")));
        let signals = stand.front_end.signals();
        assert_eq!(signals[0].signal, Signal::TimedOut);
        // The client's connection goes on.
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: none.example\r\n\r\n").code(), 404);
    });
}

#[test]
fn signals_say_how_endpoints_fare() {
    both_ways(|| {
        use Signal::{Answered, ServerError};
        let web = RawEndpoint::start(|peer| {
            while let Some(request) = peer.request()? {
                let code = if request.start().contains("/bad") { 503 } else { 200 };
                write!(peer.stream, "HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n")?;
            }
            Ok(())
        });
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        for path in ["/", "/", "/bad", "/bad", "/", "/", "/bad"] {
            client.ask(&get(path));
        }
        let signals: Vec<_> =
            stand.front_end.signals().iter().map(|signal| (signal.signal, signal.answered)).collect();
        assert_eq!(signals, [(ServerError, 2), (ServerError, 0), (Answered, 1), (ServerError, 1)]);
        assert!(stand.front_end.signals().is_empty());
    });
}

#[test]
fn an_endpoint_without_weight_gets_no_request() {
    both_ways(|| {
        let (web, out) = (RawEndpoint::named("web"), RawEndpoint::named("out"));
        let endpoint = out.endpoint();
        let stand = Stand::with(vec![web.endpoint(), Arc::clone(&endpoint)]);
        endpoint.set_weight(0);
        let mut client = stand.client();
        for _ in 0..30 {
            assert!(client.ask(&get("/")).text().starts_with("web"));
        }
        endpoint.set_weight(1);
        eventually("it is back", || stand.ask(&get("/")).text().starts_with("out"));
    });
}

#[test]
fn a_full_endpoint_gets_no_further_request() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            peer.request()?;
            peer.reader.read(&mut [0; 1]).map(|_| ())
        });
        let endpoint = web.endpoint();
        let mut service = BackendService::new("shop/web:80", vec![Arc::clone(&endpoint)]);
        service.in_flight_max = 1;
        let stand = Stand::of(one_thread(), service);
        let mut first = stand.client();
        first.send(get("/"));
        eventually("the endpoint has the request", || endpoint.in_flight() == 1);
        let answer = stand.ask(&get("/"));
        assert_eq!((answer.code(), answer.field("x-podway-reason")), (503, Some("overload")));
    });
}
