//! Requests that stay with one endpoint, through the whole front-end.
use std::sync::Arc;
use std::time::Duration;

use super::fixture::*;
use super::*;

fn stand(affinity: Affinity, webs: &[RawEndpoint]) -> (Stand, Vec<Arc<Endpoint>>) {
    let endpoints: Vec<_> = webs.iter().map(RawEndpoint::endpoint).collect();
    let mut service = BackendService::new("shop/web:80", endpoints.clone());
    service.affinity = affinity;
    (Stand::of(Settings { affinity_key: [7; 32], ..one_thread() }, service), endpoints)
}

fn named() -> Vec<RawEndpoint> {
    ["a", "b", "c", "d"].map(RawEndpoint::named).into()
}

fn with_cookie(cookie: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop.example\r\nCookie: theme=dark; {cookie}; x=y\r\n\r\n")
}

#[test]
fn a_cookie_leads_back_to_its_endpoint() {
    let webs = named();
    let (stand, endpoints) = stand(Affinity::Cookie(Duration::from_secs(3_600)), &webs);
    let first = stand.ask(&get("/"));
    let field = first.field("set-cookie").expect("a cookie").to_owned();
    let (cookie, attributes) = field.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; Max-Age=3600");
    assert_eq!(cookie.len(), "PODWAYLB=".len() + 32);
    for _ in 0..20 {
        let answer = stand.ask(&with_cookie(cookie));
        assert_eq!((answer.text(), answer.field("set-cookie")), (first.text(), None));
    }
    // Where that endpoint is out, another answers, and the client gets its cookie.
    let name = first.text();
    let index = ["a", "b", "c", "d"].iter().position(|own| name.starts_with(own)).expect("one of them");
    endpoints[index].set_weight(0);
    let moved = stand.ask(&with_cookie(cookie));
    assert_ne!(moved.text(), name);
    assert!(moved.field("set-cookie").is_some_and(|field| !field.starts_with(cookie)));
}

#[test]
fn a_cookie_that_was_made_up_is_no_cookie() {
    let webs = named();
    let (stand, _) = stand(Affinity::Cookie(Duration::ZERO), &webs);
    let answer = stand.ask(&with_cookie("PODWAYLB=00112233445566778899aabbccddeeff"));
    let field = answer.field("set-cookie").expect("a new one");
    assert!(field.ends_with("; Path=/; HttpOnly"), "a session's: {field}");
    // Nor does one of another key do.
    let other = Settings { affinity_key: [8; 32], ..one_thread() };
    let mut service = BackendService::new("shop/web:80", webs.iter().map(RawEndpoint::endpoint).collect());
    service.affinity = Affinity::Cookie(Duration::ZERO);
    let elsewhere = Stand::of(other, service);
    let (cookie, _) = field.split_once(';').expect("a cookie");
    assert!(elsewhere.ask(&with_cookie(cookie)).field("set-cookie").is_some());
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let webs = named();
    let (stand, endpoints) = stand(Affinity::ClientIp, &webs);
    let name = stand.ask(&get("/")).text();
    for _ in 0..20 {
        assert_eq!(stand.ask(&get("/")).text(), name);
    }
    let index = ["a", "b", "c", "d"].iter().position(|own| name.starts_with(own)).expect("one of them");
    endpoints[index].set_weight(0);
    let moved = stand.ask(&get("/")).text();
    assert_ne!(moved, name);
    endpoints[index].set_weight(1);
    assert_eq!(stand.ask(&get("/")).text(), name);
}

#[test]
fn custom_headers_reach_both_sides() {
    let web = RawEndpoint::saying(b"HTTP/1.1 200 OK\r\nX-Served-By: pod\r\nContent-Length: 0\r\n\r\n");
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.request_headers = vec![CustomHeader::parse("X-Client:{client_ip_address}").expect("a header")];
    service.response_headers = vec![CustomHeader::parse("X-Served-By:podway").expect("a header")];
    let stand = Stand::of(one_thread(), service);
    let answer = stand.ask("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Client: me\r\n\r\n");
    assert_eq!(web.last().fields("x-client"), ["127.0.0.1"]);
    assert_eq!(answer.fields("x-served-by"), ["podway"]);
}

#[test]
fn a_client_cannot_pass_for_the_front_end_by_an_underscore() {
    let web = RawEndpoint::named("web");
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.request_headers = vec![CustomHeader::parse("X-Client-Region:{client_region}").expect("a header")];
    let stand = Stand::of(one_thread(), service);
    stand.ask(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX_Forwarded-For: 192.0.2.1\r\nX_Client_Region: US\r\n\
         X_Other: kept\r\n\r\n",
    );
    let asked = web.last();
    assert_eq!((asked.field("x_forwarded-for"), asked.field("x_client_region")), (None, None));
    assert_eq!(asked.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(asked.field("x_other"), Some("kept"));
}
