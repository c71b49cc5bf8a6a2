//! Upgrades.
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::*;
use super::*;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Switches, and sends back what it gets.
fn echoing() -> RawEndpoint {
    RawEndpoint::start(|peer| {
        peer.request()?;
        peer.stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: x\r\n\r\nhello",
        )?;
        std::io::copy(&mut peer.reader, &mut peer.stream)?;
        peer.stream.shutdown(std::net::Shutdown::Write)
    })
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let web = echoing();
    let endpoint = web.endpoint();
    let service = BackendService::new("shop/web:80", vec![Arc::clone(&endpoint)]);
    let counters = Arc::clone(&service.counters);
    let stand = Stand::of(one_thread(), service);
    let mut client = stand.client();
    let answer = client.ask(UPGRADE);
    assert_eq!((answer.code(), answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.field("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(answer.field("sec-websocket-accept"), Some("x"));
    assert_eq!(web.last().field("upgrade"), Some("websocket"));
    let mut bytes = [0; 5];
    client.reader.read_exact(&mut bytes).expect("the endpoint's first bytes");
    assert_eq!(&bytes, b"hello");
    // No HTTP: lines end as they like.
    let sent = b"GET / HTTP/1.1\nX: 1\n\n\x00\r\n\r\n";
    client.send(sent);
    let mut bytes = vec![0; sent.len()];
    client.reader.read_exact(&mut bytes).expect("the same bytes");
    assert_eq!(bytes, sent);
    assert_eq!((endpoint.in_flight(), counters.tunnels.load(Ordering::SeqCst)), (1, 1));
    client.stream.shutdown(std::net::Shutdown::Write).expect("a half");
    assert!(client.is_closed());
    eventually("the tunnel is over", || endpoint.in_flight() == 0);
}

#[test]
fn a_request_for_an_upgrade_may_get_an_ordinary_answer() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    for _ in 0..3 {
        assert_eq!(client.ask(UPGRADE).text(), "web GET /chat HTTP/1.1");
        assert_eq!(client.ask(&get("/")).text(), "web GET / HTTP/1.1");
    }
    // What follows is judged again.
    let answer = client.ask("GET / HTTP/1.1\nHost: shop.example\r\n\r\n");
    assert_eq!(answer.code(), 400);
}

#[test]
fn a_request_behind_one_for_an_upgrade_is_refused() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    client.send([UPGRADE, &get("/smuggled")].concat());
    let mut bytes = Vec::new();
    client.reader.read_to_end(&mut bytes).expect("all");
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("smuggled"), "{text}");
    assert!(web.requests.lock().expect("requests").iter().all(|asked| asked.start().contains("/chat")));
}

#[test]
fn a_tunnel_without_a_byte_is_closed_after_its_idle_time() {
    let web = echoing();
    let limits = Limits { tunnel_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let settings = Settings { limits, ..one_thread() };
    let stand = Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]));
    let mut client = stand.client();
    assert_eq!(client.ask(UPGRADE).code(), 101);
    let mut bytes = [0; 5];
    client.reader.read_exact(&mut bytes).expect("the endpoint's first bytes");
    assert!(client.is_closed());
}

#[test]
fn a_tunnel_outlives_the_request_and_idle_timeouts() {
    let web = echoing();
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.request_timeout = Duration::from_millis(200);
    let short = Duration::from_millis(100);
    let limits = Limits { idle_timeout: short, header_timeout: short * 2, ..Limits::default() };
    let stand = Stand::of(Settings { limits, ..one_thread() }, service);
    let mut client = stand.client();
    assert_eq!(client.ask(UPGRADE).code(), 101);
    let mut bytes = [0; 5];
    client.reader.read_exact(&mut bytes).expect("the endpoint's first bytes");
    client.stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let waited = client.reader.read(&mut [0; 1]).expect_err("nothing comes, nothing ends");
    assert_eq!(waited.kind(), std::io::ErrorKind::WouldBlock);
    client.send("x");
    client.reader.read_exact(&mut bytes[..1]).expect("it goes on");
}
