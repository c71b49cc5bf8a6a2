//! Connections that are silent for a moment.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::*;
use super::tls_fixture::*;
use super::*;
use crate::health::tls::HTTP_1;

/// Short, since it is waited for.
const PARKED_AFTER: Duration = Duration::from_millis(20);

fn limits() -> Limits {
    Limits { parked_after: PARKED_AFTER, last_request_timeout: PARKED_AFTER, ..Limits::default() }
}

fn stand(limits: Limits, web: &RawEndpoint) -> Stand {
    let settings = Settings { limits, ..one_thread() };
    Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]))
}

fn until_parked(stand: &Stand, count: u64) {
    let totals = stand.front_end.totals();
    eventually("connections are parked", || totals.parked.load(Ordering::SeqCst) == count);
    assert_eq!(totals.connections.load(Ordering::SeqCst), count, "a parked connection is open");
}

#[test]
fn a_parked_connection_is_asked_like_any_other() {
    let web = RawEndpoint::named("web");
    let stand = stand(limits(), &web);
    let mut client = stand.client();
    // One that has never asked is parked too.
    until_parked(&stand, 1);
    for path in ["/a", "/b"] {
        assert_eq!(client.ask(&get(path)).text(), format!("web GET {path} HTTP/1.1"));
        until_parked(&stand, 1);
    }
    client.send(get("/1") + &get("/2"));
    assert_eq!(client.answer(false).text(), "web GET /1 HTTP/1.1");
    assert_eq!(client.answer(false).text(), "web GET /2 HTTP/1.1");
    assert_eq!(web.accepted.load(Ordering::SeqCst), 1, "the endpoint's connection is kept");
}

#[test]
fn bytes_are_watched_on_a_connection_that_was_parked() {
    let stand = stand(limits(), &RawEndpoint::named("web"));
    let mut client = stand.client();
    assert_eq!(client.ask(&get("/")).code(), 200);
    until_parked(&stand, 1);
    let answer = client.ask("GET / HTTP/1.1\r\nHost: shop.example\n\r\n");
    assert_eq!(answer.code(), 400);
    assert!(client.is_closed());
}

#[test]
fn a_connection_with_half_a_head_or_a_request_under_way_is_not_parked() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let web = RawEndpoint::start(move |peer| {
        peer.request()?;
        let _ = wait.lock().expect("a receiver").recv_timeout(DEADLINE);
        peer.answer("late")
    });
    let stand = stand(limits(), &web);
    let mut asking = stand.client();
    asking.send("GET / HTTP/1.1\r\nHost: shop.exa");
    let mut waiting = stand.client();
    waiting.send(get("/"));
    // A third one is parked: they would be as well by then.
    let _silent = stand.client();
    let totals = stand.front_end.totals();
    eventually("the silent one is parked", || totals.parked.load(Ordering::SeqCst) > 0);
    std::thread::sleep(PARKED_AFTER * 5);
    assert_eq!(totals.parked.load(Ordering::SeqCst), 1);
    go.send(()).expect("the endpoint");
    assert_eq!(waiting.answer(false).text(), "late");
    go.send(()).expect("the endpoint");
    asking.send("mple\r\n\r\n");
    assert_eq!(asking.answer(false).text(), "late");
}

#[test]
fn a_parked_connection_is_closed_when_its_time_is_over() {
    let idle_timeout = PARKED_AFTER * 10;
    let stand = stand(Limits { idle_timeout, ..limits() }, &RawEndpoint::named("web"));
    let mut client = stand.client();
    assert_eq!(client.ask(&get("/")).code(), 200);
    let began = Instant::now();
    until_parked(&stand, 1);
    assert!(client.is_closed());
    assert!(began.elapsed() >= idle_timeout / 2);
    let header_timeout = PARKED_AFTER * 10;
    let stand = self::stand(Limits { header_timeout, ..limits() }, &RawEndpoint::named("web"));
    let mut silent = stand.client();
    until_parked(&stand, 1);
    assert!(silent.is_closed());
}

#[test]
fn a_parked_connection_is_closed_at_the_stop() {
    let stand = stand(limits(), &RawEndpoint::named("web"));
    let mut client = stand.client();
    assert_eq!(client.ask(&get("/")).code(), 200);
    until_parked(&stand, 1);
    let began = Instant::now();
    assert_eq!(stand.front_end.stop(DEADLINE), 0);
    assert!(began.elapsed() < DEADLINE);
    assert!(client.is_closed());
}

#[tokio::test]
async fn a_parked_connection_keeps_its_tls() {
    let web = RawEndpoint::named("web");
    let rules =
        vec![rule("shop.example", "/", Route::to(BackendService::new("shop/web:80", vec![web.endpoint()])))];
    let settings = Settings { limits: limits(), ..one_thread() };
    let stand = Stand::start(settings, snapshot(https(&["shop.example"]), site(rules, Plain::Served)));
    let mut stream = dial(&stand, "shop.example", HTTP_1).await;
    let totals: Arc<Totals> = stand.front_end.totals();
    for _ in 0..2 {
        eventually("it is parked", || totals.parked.load(Ordering::SeqCst) == 1);
        stream.write_all(get("/").as_bytes()).await.expect("bytes sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"web GET / HTTP/1.1") {
            assert_ne!(stream.read_buf(&mut answer).await.expect("bytes"), 0, "the answer's end");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}
