//! Clients that keep others waiting, or are too many.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fixture::*;
use super::*;

/// Long enough to be told from "at once", short enough to wait for.
const SHORT: Duration = Duration::from_millis(200);

fn stand(limits: Limits, web: &RawEndpoint) -> Stand {
    let settings = Settings { limits, ..one_thread() };
    Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]))
}

/// Sends `bytes` and waits to be closed; how long that took.
fn closed_after(stand: &Stand, bytes: &str) -> Duration {
    let mut client = stand.client();
    let began = Instant::now();
    client.send(bytes);
    assert!(client.is_closed());
    began.elapsed()
}

#[test]
fn a_client_that_never_asks_is_closed() {
    let stand = stand(Limits { header_timeout: SHORT, ..Limits::default() }, &RawEndpoint::named("web"));
    assert!(closed_after(&stand, "") >= SHORT);
}

#[test]
fn a_client_that_never_ends_its_head_is_closed_however_it_drips() {
    let stand = stand(Limits { header_timeout: SHORT, ..Limits::default() }, &RawEndpoint::named("web"));
    assert!(closed_after(&stand, "GET / HTTP/1.1\r\nHost: sho") >= SHORT);
    let mut client = stand.client();
    client.stream.set_nonblocking(true).expect("a flag");
    client.send("GET / HTTP/1.1\r\nX: ");
    let began = Instant::now();
    // One byte after another: each is progress, none is an end.
    eventually("the connection is closed", || {
        use std::io::{ErrorKind, Read as _, Write as _};
        let _ = (&client.stream).write(b"a");
        match (&client.stream).read(&mut [0; 1]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    });
    assert!(began.elapsed() < DEADLINE / 2);
}

#[test]
fn a_connection_without_a_request_is_closed_after_the_idle_time() {
    both_ways(|| {
        let limits = Limits { idle_timeout: SHORT, ..Limits::default() };
        let stand = stand(limits, &RawEndpoint::named("web"));
        let mut client = stand.client();
        assert_eq!(client.ask(&get("/")).code(), 200);
        let began = Instant::now();
        assert!(client.is_closed());
        assert!(began.elapsed() >= SHORT / 2);
    });
}

#[test]
fn a_request_may_take_longer_than_the_idle_time() {
    both_ways(|| {
        let (go, wait) = std::sync::mpsc::channel();
        let wait = std::sync::Mutex::new(wait);
        let web = RawEndpoint::start(move |peer| {
            peer.request()?;
            let _ = wait.lock().expect("a receiver").recv_timeout(SHORT * 3);
            peer.answer("late")
        });
        let limits = Limits { idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() };
        let stand = stand(limits, &web);
        assert_eq!(stand.ask(&get("/")).text(), "late");
        drop::<std::sync::mpsc::Sender<()>>(go);
    });
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let limits = Limits { body_idle_timeout: SHORT, ..Limits::default() };
    let web = RawEndpoint::named("web");
    let stand = stand(limits, &web);
    let answer = stand.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!((answer.code(), answer.field("x-podway-reason")), (408, Some("body-timeout")));
    assert!(stand.front_end.signals().is_empty(), "the endpoint is not to blame");
}

#[test]
fn a_client_that_takes_nothing_is_closed() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            peer.request()?;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            std::io::Write::write_all(&mut peer.stream, head.as_bytes())?;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            // Ends when the front-end gives the request up.
            loop {
                std::io::Write::write_all(&mut peer.stream, chunk.as_bytes())?;
            }
        });
        let endpoint = web.endpoint();
        let limits = Limits { write_stall_timeout: SHORT, ..Limits::default() };
        let service = BackendService::new("shop/web:80", vec![Arc::clone(&endpoint)]);
        let stand = Stand::of(Settings { limits, ..one_thread() }, service);
        let mut client = stand.client();
        client.send(get("/"));
        eventually("the request is under way", || endpoint.in_flight() == 1);
        eventually("it is given up", || endpoint.in_flight() == 0);
        let totals = stand.front_end.totals();
        eventually("the connection is closed", || totals.connections.load(Ordering::SeqCst) == 0);
    });
}

#[test]
fn connections_are_bounded_for_each_client_and_in_all() {
    let web = RawEndpoint::named("web");
    let per_client = stand(Limits { connections_per_client_max: 2, ..Limits::default() }, &web);
    let totals = per_client.front_end.totals();
    let mut held: Vec<Client> = (0..2).map(|_| per_client.client()).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.ask(&get("/")).code(), 200));
    assert!(per_client.client().is_closed());
    assert_eq!(totals.client_connections_refused.load(Ordering::SeqCst), 1);
    held.clear();
    eventually("their places are free", || totals.connections.load(Ordering::SeqCst) == 0);
    assert_eq!(per_client.ask(&get("/")).code(), 200);

    let in_all = stand(Limits { connections_max: 1, ..Limits::default() }, &web);
    let mut first = in_all.client();
    assert_eq!(first.ask(&get("/")).code(), 200);
    assert!(in_all.client().is_closed());
    assert_eq!(in_all.front_end.totals().connections_refused.load(Ordering::SeqCst), 1);
}

#[test]
fn a_trusted_proxy_may_have_more_connections() {
    let web = RawEndpoint::named("web");
    let trusted = Prefix { address: "127.0.0.1".parse().expect("an address"), length_bits: 32 };
    let limits = Limits { connections_per_client_max: 1, ..Limits::default() };
    let settings = Settings { limits, trusted_proxies: vec![trusted], ..one_thread() };
    let stand = Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]));
    let mut held: Vec<Client> = (0..3).map(|_| stand.client()).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.ask(&get("/")).code(), 200));
}

#[test]
fn unused_connections_to_endpoints_are_closed_in_time() {
    both_ways(|| {
        let (sender, closed) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let web = RawEndpoint::start(move |peer| {
            while peer.request()?.is_some() {
                peer.answer("ok")?;
            }
            let _ = sender.lock().expect("a sender").send(());
            Ok(())
        });
        let stand = stand(Limits { kept_timeout: SHORT, ..Limits::default() }, &web);
        assert_eq!(stand.ask(&get("/")).code(), 200);
        assert_eq!(closed.recv_timeout(DEADLINE), Ok(()));
    });
}
