//! PROXY headers: of connections that others pass on, and of those to endpoints.
use std::io::{BufRead as _, Read as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::*;
use super::tls_fixture::https;
use super::*;
use crate::health::tls::{self, HTTP_1};
use crate::l7::proxy_protocol::header;
use crate::model::{ProxyVersion, ProxyVersions};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.9 203.0.113.80 40000 8443\r\n";

fn from_loopback() -> Settings {
    let prefix = Prefix { address: IpAddr::from([127, 0, 0, 0]), length_bits: 8 };
    Settings { proxy_protocol_from: vec![prefix], ..one_thread() }
}

/// A front-end to which connections are passed on.
fn stand(settings: Settings, scheme: Scheme, versions: ProxyVersions, web: &RawEndpoint) -> Stand {
    let service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    let site = site(vec![rule("shop.example", "/", Route::to(service))], Plain::Served);
    let listener = Listener { scheme, proxied: Some(versions), site };
    Stand::start(settings, Arc::new(Snapshot { listeners: [(anywhere(), listener)].into() }))
}

fn binary() -> Vec<u8> {
    let place = |text: &str| text.parse().expect("an address");
    header(ProxyVersion::V2, place("[2001:db8::9]:40000"), place("[2001:db8::80]:8443"))
}

#[test]
fn a_passed_on_connection_is_its_clients() {
    let web = RawEndpoint::named("web");
    let stand = stand(from_loopback(), Scheme::Http, ProxyVersions::Any, &web);
    for (header, address) in [(LINE.to_vec(), "192.0.2.9"), (binary(), "2001:db8::9")] {
        let mut client = stand.client();
        // The header comes in pieces, and with the request right behind it.
        client.send(&header[..5]);
        client.send(&header[5..header.len() - 1]);
        client.send([&header[header.len() - 1..], get("/").as_bytes()].concat());
        assert_eq!(client.answer(false).code(), 200);
        assert_eq!(web.last().field("x-forwarded-for"), Some(address));
        assert_eq!(web.last().field("x-forwarded-port"), Some("8443"));
        assert_eq!(client.ask(&get("/again")).code(), 200, "one header for all requests");
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let web = RawEndpoint::named("web");
    let versions = ProxyVersions::One(ProxyVersion::V2);
    let stand = stand(from_loopback(), https(&["shop.example"]), versions, &web);
    let mut stream = tokio::net::TcpStream::connect(stand.address).await.expect("a connection");
    stream.write_all(&binary()).await.expect("sent");
    let mut stream = tls::connect(stream, Some("shop.example"), HTTP_1).await.expect("a handshake");
    let request = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // A close without TLS's own end is as good here.
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(web.last().field("x-forwarded-for"), Some("2001:db8::9"));
}

#[test]
fn a_header_of_the_sender_itself_leaves_its_own_address() {
    let web = RawEndpoint::named("web");
    let stand = stand(from_loopback(), Scheme::Http, ProxyVersions::Any, &web);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let mut client = stand.client();
        client.send(header);
        assert_eq!(client.ask(&get("/")).code(), 200);
        assert_eq!(web.last().field("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn a_connection_without_a_good_header_is_closed_without_a_word() {
    let web = RawEndpoint::named("web");
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let settings = Settings { limits, ..from_loopback() };
    let stand = stand(settings, Scheme::Http, ProxyVersions::One(ProxyVersion::V1), &web);
    let long = [b"PROXY UNKNOWN ", &[b'x'; 94][..]].concat();
    let cases =
        [get("/").into_bytes(), binary(), long, b"PROXY TCP4 nonsense\r\n".to_vec(), LINE[..20].to_vec()];
    for (number, case) in (1..).zip(cases) {
        let mut client = stand.client();
        client.send(&case);
        assert!(client.is_closed(), "{number}");
        assert_eq!(stand.front_end.totals().proxy_headers_refused.load(Ordering::SeqCst), number);
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn only_peers_that_are_named_pass_connections_on() {
    let web = RawEndpoint::named("web");
    let elsewhere = Prefix { address: IpAddr::from([192, 0, 2, 0]), length_bits: 24 };
    let settings = Settings { proxy_protocol_from: vec![elsewhere], ..one_thread() };
    let stand = stand(settings, Scheme::Http, ProxyVersions::Any, &web);
    let mut client = stand.client();
    // It may be closed before all of this is sent.
    let _ = std::io::Write::write_all(&mut client.stream, &[LINE, get("/").as_bytes()].concat());
    assert!(client.is_closed());
    assert_eq!(stand.front_end.totals().proxy_headers_refused.load(Ordering::SeqCst), 1);
    assert_eq!(web.accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn connections_are_counted_for_the_client_that_is_told() {
    let web = RawEndpoint::named("web");
    let limits = Limits { connections_per_client_max: 1, ..Limits::default() };
    let stand = stand(Settings { limits, ..from_loopback() }, Scheme::Http, ProxyVersions::Any, &web);
    let open = |header: &[u8]| {
        let mut client = stand.client();
        client.send(header);
        client
    };
    let mut first = open(LINE);
    assert_eq!(first.ask(&get("/")).code(), 200);
    assert!(open(LINE).is_closed());
    assert_eq!(stand.front_end.totals().client_connections_refused.load(Ordering::SeqCst), 1);
    assert_eq!(open(&binary()).ask(&get("/")).code(), 200);
    drop(first);
    eventually("the place of the first", || stand.front_end.totals().connections.load(Ordering::SeqCst) == 0);
    assert_eq!(open(LINE).ask(&get("/")).code(), 200);
}

#[test]
fn an_endpoint_hears_of_the_client_first_and_of_one_on_each_connection() {
    let web = RawEndpoint::start(|peer| {
        let mut line = String::new();
        peer.reader.read_line(&mut line)?;
        while peer.request()?.is_some() {
            peer.answer(line.trim_end())?;
        }
        Ok(())
    });
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.proxy_protocol = Some(ProxyVersion::V1);
    let stand = Stand::of(one_thread(), service);
    let (mut one, mut other) = (stand.client(), stand.client());
    let told = |client: &Client| {
        let from = client.stream.local_addr().expect("an address").port();
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {}", stand.address.port())
    };
    for _ in 0..2 {
        assert_eq!(one.ask(&get("/")).text(), told(&one));
        assert_eq!(other.ask(&get("/")).text(), told(&other));
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 2, "each client's is kept for it");
}

#[test]
fn the_binary_header_goes_before_tls_too() {
    let web = RawEndpoint::start(|peer| {
        let mut first = [0; 28 + 1];
        peer.reader.read_exact(&mut first)?;
        let (proxy, tls) = first.split_at(28);
        // 22 is the type of a TLS handshake's record.
        let is_whole = proxy.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c") && tls == [22];
        peer.seen_raw(if is_whole { "whole" } else { "broken" });
        Ok(())
    });
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.proxy_protocol = Some(ProxyVersion::V2);
    service.protocol = Protocol::Https;
    let stand = Stand::of(one_thread(), service);
    assert_eq!(stand.ask(&get("/")).code(), 502);
    assert_eq!(web.last().start(), "whole");
}
