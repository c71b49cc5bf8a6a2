//! What a receiver gets to know of requests.
use std::io::Write as _;
use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::fixture::*;
use crate::l7::serve::fixture::*;
use crate::l7::serve::{BackendService, Endpoint, Plain, Route, Scheme};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn get_with(fields: &str) -> String {
    format!("GET /shop/cart HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

fn traced(flags: &str) -> String {
    get_with(&format!("traceparent: 00-{TRACE}-{CALLER}-{flags}\r\ntracestate: a=1\r\n"))
}

fn service(endpoints: Vec<Arc<Endpoint>>) -> BackendService {
    BackendService::new("shop/web:80", endpoints)
}

#[test]
fn a_request_is_a_span_with_its_attempt_below_it() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let rules = vec![rule("shop.example", "/shop", Route::to(service(vec![web.endpoint()])))];
    let stand = Stand::start(collector.settings(1.0), snapshot(Scheme::Http, site(rules, Plain::Served)));
    let mut client = stand.client();
    let answer = client.ask("GET /shop/cart?token=secret HTTP/1.1\r\nHost: shop.example:8080\r\n\r\n");
    let port = client.stream.local_addr().expect("an address").port().to_string();
    drop(client);
    stand.front_end.stop(DEADLINE);

    let [message] = &collector.messages()[..] else { panic!("one message") };
    let [of_resource] = &message.resource_spans[..] else { panic!("one resource") };
    let resource = attributes(&of_resource.resource.as_ref().expect("a resource").attributes);
    assert_eq!(resource["service.name"], "podway");
    assert_eq!(resource["k8s.node.name"], "node-a");
    let [server, attempt] = &collector.spans()[..] else { panic!("two spans") };
    let mut told = attributes(&server.attributes);
    assert_eq!(told.remove("podway.request_id").as_deref(), answer.field("x-request-id"));
    let endpoint = web.address.to_string();
    let expected = [
        ("client.address", "127.0.0.1"),
        ("http.request.method", "GET"),
        ("http.response.body.size", &*answer.body.len().to_string()),
        ("http.response.status_code", "200"),
        ("http.route", "/shop"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", &port),
        ("network.protocol.version", "1.1"),
        ("podway.backend_service", "shop/web:80"),
        ("podway.endpoint", &endpoint),
        ("podway.retries", "0"),
        ("podway.url_map", "shop/web"),
        ("server.address", "shop.example"),
        ("server.port", "8080"),
        ("url.path", "/shop/cart"),
        ("url.scheme", "http"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(told, expected.clone().into());
    assert_eq!((&*server.name, server.parent_span_id.len(), &server.status), ("GET /shop", 0, &None));

    let of_endpoint = attributes(&attempt.attributes);
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", &*web.address.port().to_string()),
        ("network.protocol.version", "1.1"),
        ("server.address", "127.0.0.1"),
        ("server.port", &*web.address.port().to_string()),
        ("url.full", &*format!("http://{endpoint}/shop/cart")),
    ];
    assert_eq!(of_endpoint, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!((&*attempt.name, &attempt.status), ("GET", &None));
    assert_eq!(attempt.parent_span_id, server.span_id);
    assert_eq!(attempt.trace_id, server.trace_id);
    assert_ne!(attempt.span_id, server.span_id);
    let sent = ids(web.last().field("traceparent").expect("a parent"));
    assert_eq!(sent, (hex(&attempt.trace_id), hex(&attempt.span_id), "01".to_owned()));
}

#[test]
fn an_attempt_lies_within_its_request() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let stand = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.expect("a time").as_nanos() as u64
    };
    let before = now();
    stand.ask(&get("/"));
    stand.front_end.stop(DEADLINE);
    let [server, attempt] = &collector.spans()[..] else { panic!("two spans") };
    let times = [
        before,
        server.start_time_unix_nano,
        attempt.start_time_unix_nano,
        attempt.end_time_unix_nano,
        server.end_time_unix_nano,
        now(),
    ];
    assert!(times.is_sorted(), "{times:?}");
    assert!(attempt.start_time_unix_nano < attempt.end_time_unix_nano);
}

#[test]
fn a_trusted_callers_decision_is_followed() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let stand = Stand::of(collector.trusting_settings(0.0), service(vec![web.endpoint()]));
    stand.ask(&traced("01"));
    let (trace_id, parent, flags) = ids(web.last().field("traceparent").expect("a parent"));
    assert_eq!((&*trace_id, &*flags), (TRACE, "01"));
    assert_eq!(web.last().field("tracestate"), Some("a=1"));
    stand.front_end.stop(DEADLINE);
    let [server, attempt] = &collector.spans()[..] else { panic!("two spans") };
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!((&*server.trace_state, &*attempt.trace_state), ("a=1", "a=1"));
    // OTLP: the flags of the context, that it is known whether the parent is elsewhere, and that it is.
    assert_eq!((server.flags, attempt.flags), (0x301, 0x101));
    assert_eq!(hex(&attempt.span_id), parent);

    let collector = Collector::start();
    let stand = Stand::of(collector.trusting_settings(1.0), service(vec![web.endpoint()]));
    stand.ask(&traced("00"));
    let as_it_came = format!("00-{TRACE}-{CALLER}-00");
    assert_eq!(web.last().field("traceparent"), Some(&*as_it_came));
    stand.front_end.stop(DEADLINE);
    assert!(collector.spans().is_empty());
}

#[test]
fn a_strangers_trace_is_gone_on_with_as_the_ratio_decides() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let none = Stand::of(collector.settings(0.0), service(vec![web.endpoint()]));
    none.ask(&traced("01"));
    let as_it_came = format!("00-{TRACE}-{CALLER}-01");
    assert_eq!(web.last().field("traceparent"), Some(&*as_it_came));
    none.front_end.stop(DEADLINE);
    assert!(collector.spans().is_empty());

    let all = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    all.ask(&traced("00"));
    all.front_end.stop(DEADLINE);
    let [server] = &collector.servers()[..] else { panic!("one request") };
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(ids(web.last().field("traceparent").expect("a parent")).2, "01");
}

#[test]
fn a_request_without_a_place_begins_a_trace_without_a_state() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let stand = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    stand.ask(&get_with("traceparent: 00-0-0-01\r\ntracestate: a=1\r\n"));
    assert_eq!(web.last().field("tracestate"), None);
    assert_eq!(web.last().fields("traceparent").len(), 1);
    stand.ask(&get_with(""));
    stand.front_end.stop(DEADLINE);
    let servers = collector.servers();
    assert_eq!(servers.len(), 2);
    assert_ne!(servers[0].trace_id, servers[1].trace_id);
    assert!(servers.iter().all(|span| span.trace_state.is_empty() && span.flags == 0x101));
}

#[test]
fn a_share_of_requests_is_recorded() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let stand = Stand::of(collector.settings(0.25), service(vec![web.endpoint()]));
    let mut client = stand.client();
    for _ in 0..1_000 {
        client.ask(&get("/"));
    }
    drop(client);
    stand.front_end.stop(DEADLINE);
    let recorded = collector.servers().len();
    assert!((170..=330).contains(&recorded), "{recorded} of 1000");
    let ids: std::collections::BTreeSet<_> = collector.spans().into_iter().map(|span| span.span_id).collect();
    assert_eq!(ids.len(), 2 * recorded, "an id of its own for each span");
    let requests = web.requests.lock().expect("requests");
    assert_eq!(requests.iter().filter(|request| request.field("traceparent").is_some()).count(), recorded);
}

#[test]
fn each_attempt_is_a_span() {
    let (collector, nobodies) = (Collector::start(), [nobody(), nobody(), nobody()]);
    let dead = nobodies.iter().map(|nobody| Arc::new(Endpoint::new(nobody.address, 1))).collect();
    let stand = Stand::of(collector.settings(1.0), service(dead));
    assert_eq!(stand.ask(&get("/")).code(), 502);
    stand.front_end.stop(DEADLINE);
    let [server] = &collector.servers()[..] else { panic!("one request") };
    let told = |key| attribute(server, key).unwrap_or_default();
    assert_eq!(told("http.response.status_code"), "502");
    assert_eq!(
        (told("podway.reason"), told("error.type")),
        ("connect-failed".into(), "connect-failed".into())
    );
    assert_eq!(told("podway.retries"), "2");
    assert_eq!(server.status.as_ref().map(Status::code), Some(StatusCode::Error));
    let attempts = collector.clients();
    assert_eq!(attempts.len(), 3);
    let mut addresses: Vec<_> =
        attempts.iter().filter_map(|attempt| attribute(attempt, "server.port")).collect();
    addresses.sort();
    let mut expected = nobodies.each_ref().map(|nobody| nobody.address.port().to_string());
    expected.sort();
    assert_eq!(addresses, expected);
    let number = |attempt| attribute(attempt, "http.request.resend_count");
    assert_eq!(
        attempts.iter().map(number).collect::<Vec<_>>(),
        [None, Some("1".to_owned()), Some("2".to_owned())]
    );
    for attempt in &attempts {
        assert_eq!(attribute(attempt, "error.type").as_deref(), Some("connect-failed"));
        assert_eq!(attempt.parent_span_id, server.span_id);
        assert_eq!(attempt.status.as_ref().map(Status::code), Some(StatusCode::Error));
    }
}

#[test]
fn an_endpoints_error_is_its_attempts_too() {
    let collector = Collector::start();
    let web = RawEndpoint::start(|peer| {
        while let Some(request) = peer.request()? {
            let code = request.start()[5..8].to_owned();
            write!(peer.stream, "HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n")?;
        }
        Ok(())
    });
    let stand = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    let mut client = stand.client();
    for path in ["/404", "/500"] {
        client.ask(&get(path));
    }
    drop(client);
    stand.front_end.stop(DEADLINE);
    // A client's error is none of who serves.
    let errors = |spans: Vec<_>| spans.iter().map(|span| attribute(span, "error.type")).collect::<Vec<_>>();
    assert_eq!(errors(collector.servers()), [None, Some("500".to_owned())]);
    assert_eq!(errors(collector.clients()), [Some("404".to_owned()), Some("500".to_owned())]);
}

#[test]
fn an_answer_that_is_cut_off_is_an_error_of_both() {
    let collector = Collector::start();
    let web = RawEndpoint::start(|peer| {
        peer.request()?;
        peer.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    });
    let stand = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    let mut client = stand.client();
    client.send(get("/"));
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.reader, &mut rest);
    drop(client);
    stand.front_end.stop(DEADLINE);
    let spans = collector.spans();
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert_eq!(attribute(span, "error.type").as_deref(), Some("cut-by-endpoint"));
        assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some("200"));
    }
}

#[test]
fn a_request_that_no_rule_takes_is_recorded_with_its_reason() {
    let (collector, web) = (Collector::start(), RawEndpoint::named("web"));
    let stand = Stand::of(collector.settings(1.0), service(vec![web.endpoint()]));
    stand.ask("GET /a HTTP/1.1\r\nHost: none.example\r\n\r\n");
    stand.ask("BREW /%2e%2e%2fa HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    stand.front_end.stop(DEADLINE);
    let [unknown, refused] = &collector.spans()[..] else { panic!("no attempts") };
    assert_eq!(attribute(unknown, "podway.reason").as_deref(), Some("no-rule"));
    assert_eq!(attribute(unknown, "server.address").as_deref(), Some("none.example"));
    assert_eq!(attribute(unknown, "http.response.status_code").as_deref(), Some("404"));
    assert_eq!((&*unknown.name, &unknown.status), ("GET", &None));
    assert_eq!(attribute(refused, "podway.reason").as_deref(), Some("path"));
    assert_eq!(attribute(refused, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(attribute(refused, "http.request.method_original").as_deref(), Some("BREW"));
    assert_eq!(refused.name, "HTTP");
}

#[test]
fn without_a_receiver_requests_pass_as_they_came() {
    let web = RawEndpoint::named("web");
    let stand = Stand::of(one_thread(), service(vec![web.endpoint()]));
    stand.ask(&get("/"));
    assert_eq!(web.last().field("traceparent"), None);
    stand.ask(&traced("01"));
    assert_eq!(web.last().field("traceparent"), Some(&*format!("00-{TRACE}-{CALLER}-01")));
}
