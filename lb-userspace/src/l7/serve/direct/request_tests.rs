use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::l7::serve::fixture::{rule, site};
use crate::l7::serve::snapshot::{BackendService, Route, Scheme, Site};
use crate::l7::{HostRule, UrlMap};
use crate::model::ProxyVersion;

const NAMES: u128 = 7;

fn client(is_trusted: bool) -> Client {
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    Client::new(address("192.0.2.1:1234"), address("198.51.100.1:80"), None, is_trusted)
}

fn listener(service: BackendService, plain: Plain) -> Listener {
    Listener {
        scheme: Scheme::Http,
        proxied: None,
        site: site(vec![rule("shop.example", "/", Route::to(service))], plain),
    }
}

fn service() -> BackendService {
    BackendService::new("shop/web:80", Vec::new())
}

fn passed(request: &str, client: &Client, listener: &Listener, limits: &Limits) -> Option<String> {
    let mut out = Vec::new();
    pass(request.as_bytes(), client, listener, limits, || NAMES, &mut out)?;
    Some(String::from_utf8(out).expect("text"))
}

fn is_plain(request: &str) -> bool {
    passed(request, &client(false), &listener(service(), Plain::Served), &Limits::default()).is_some()
}

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: Shop.example\r\nAccept: x\r\n\r\n";

#[test]
fn an_endpoint_gets_the_request_with_what_is_said_of_its_client() {
    let (client, listener, limits) = (client(false), listener(service(), Plain::Served), Limits::default());
    let told = "host: shop.example\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\n\
        x-forwarded-host: shop.example\r\nx-forwarded-port: 80\r\n\
        forwarded: for=192.0.2.1;host=\"shop.example\";proto=http\r\n";
    let rest = "via: 1.1 podway\r\nx-request-id: 00000000000000000000000000000007\r\n\r\n";
    let expected = format!("GET /a?b HTTP/1.1\r\naccept: x\r\n{told}{rest}");
    assert_eq!(passed(GET, &client, &listener, &limits), Some(expected.clone()));
    // What is kept of one request is another's only where the host is the same.
    let other = GET.replace("Shop.example", "shop.example:8080");
    let other = passed(&other, &client, &listener, &limits).expect("a plain request");
    assert_eq!(other, expected.replace("shop.example", "shop.example:8080"));
    assert_eq!(passed(GET, &client, &listener, &limits), Some(expected));
}

#[test]
fn what_needs_a_decision_is_not_plain() {
    assert!(is_plain(GET));
    let fields = [
        "Connection: close, x",
        "Connection: x",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Upgrade: websocket",
        "Host: shop.example",
        "X_Forwarded_For: 192.0.2.9",
        "Content-Type: application/grpc",
        "Content-Length: 5",
    ];
    for field in fields {
        assert!(!is_plain(&GET.replace("Accept: x", field)), "{field}");
    }
    for (twice, is_one) in [("Via: 1.1 a", true), ("Cookie: a=b", true)] {
        assert_eq!(is_plain(&GET.replace("Accept: x", twice)), is_one, "{twice}");
        assert!(!is_plain(&GET.replace("Accept: x", &format!("{twice}\r\n{twice}"))), "{twice}");
    }
    let lines = [
        "GET /a?b HTTP/1.0",
        "OPTIONS /a HTTP/1.1",
        "CONNECT shop.example:80 HTTP/1.1",
        "GET http://shop.example/a HTTP/1.1",
        "GET /a/../b HTTP/1.1",
        "GET //a HTTP/1.1",
        "GET /%61 HTTP/1.1",
        "GET /a?b#c HTTP/1.1",
        "GET /a?<b> HTTP/1.1",
        "GET * HTTP/1.1",
    ];
    for line in lines {
        assert!(!is_plain(&GET.replace("GET /a?b HTTP/1.1", line)), "{line}");
    }
    let hosts = ["other.example", "a b", "shop.example:x", ""];
    for host in hosts {
        assert!(!is_plain(&GET.replace("Shop.example", host)), "{host}");
    }
    assert!(!is_plain("GET / HTTP/1.1\r\nAccept: x\r\n\r\n"), "without a host");
    assert!(!is_plain(&format!("{GET}{GET}")), "two of them");
    assert!(!is_plain(&GET[..GET.len() - 2]), "half of one");
}

#[test]
fn policies_that_look_at_fields_are_not_plain() {
    let is_plain = |change: &dyn Fn(&mut BackendService), plain| {
        let mut service = service();
        change(&mut service);
        passed(GET, &client(false), &listener(service, plain), &Limits::default()).is_some()
    };
    assert!(is_plain(&|_| {}, Plain::Served));
    assert!(!is_plain(&|_| {}, Plain::Refused));
    assert!(!is_plain(&|service| service.protocol = Protocol::H2c, Plain::Served));
    assert!(!is_plain(&|service| service.proxy_protocol = Some(ProxyVersion::V1), Plain::Served));
    assert!(!is_plain(&|service| service.affinity = Affinity::ClientIp, Plain::Served));
    assert!(!is_plain(&|service| service.affinity = Affinity::Cookie(Duration::ZERO), Plain::Served));
    let limits = Limits::default();
    let served = listener(service(), Plain::Served);
    assert_eq!(passed(GET, &client(true), &served, &limits), None, "what a trusted client says is joined");
    let missing: HostRule<Route> = rule("shop.example", "/", Route::missing("gone"));
    let mut nowhere = listener(service(), Plain::Served);
    nowhere.site = Arc::new(Site {
        name: "shop/web".into(),
        url_map: UrlMap::new(vec![missing], None),
        counters: Arc::default(),
    });
    assert_eq!(passed(GET, &client(false), &nowhere, &limits), None);
}

#[test]
fn a_client_that_wants_nothing_more_is_told_from_one_that_does() {
    let served = listener(service(), Plain::Served);
    let is_last = |field: &str| {
        let mut out = Vec::new();
        let request = GET.replace("Accept: x", field);
        let asked = pass(request.as_bytes(), &client(false), &served, &Limits::default(), || NAMES, &mut out);
        let is_last = asked.expect("a plain request").is_last;
        assert!(!String::from_utf8(out).expect("text").contains("connection"), "it is for this connection");
        is_last
    };
    assert!(is_last("Connection: Close"));
    assert!(!is_last("Connection: Keep-Alive"));
    assert!(!is_last("Accept: close"));
}

#[test]
fn bounds_hold() {
    let served = listener(service(), Plain::Served);
    let post = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nabcde";
    let is_plain =
        |request: &str, limits: &Limits| passed(request, &client(false), &served, limits).is_some();
    assert!(is_plain(post, &Limits { body_bytes_max: Some(5), ..Limits::default() }));
    assert!(!is_plain(post, &Limits { body_bytes_max: Some(4), ..Limits::default() }));
    assert!(!is_plain(&post[..post.len() - 1], &Limits::default()), "a part of the body");
    assert!(is_plain(GET, &Limits { headers_max: 2, uri_bytes_max: 4, ..Limits::default() }));
    assert!(!is_plain(GET, &Limits { headers_max: 1, ..Limits::default() }));
    assert!(!is_plain(GET, &Limits { uri_bytes_max: 3, ..Limits::default() }));
    assert!(is_plain(GET, &Limits { head_bytes_max: GET.len(), ..Limits::default() }));
    assert!(!is_plain(GET, &Limits { head_bytes_max: GET.len() - 1, ..Limits::default() }));
}

#[test]
fn requests_without_a_body_and_without_effect_may_be_sent_again() {
    let served = listener(service(), Plain::Served);
    let is_repeatable = |request: &str| {
        let mut out = Vec::new();
        let asked = pass(request.as_bytes(), &client(false), &served, &Limits::default(), || NAMES, &mut out);
        asked.expect("a plain request").is_repeatable
    };
    assert!(is_repeatable(GET));
    assert!(is_repeatable(&GET.replace("GET", "HEAD")));
    assert!(!is_repeatable(&GET.replace("GET", "DELETE")));
    assert!(!is_repeatable(&GET.replace("Accept: x\r\n\r\n", "Content-Length: 1\r\n\r\na")));
}
