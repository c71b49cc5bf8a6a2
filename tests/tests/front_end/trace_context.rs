//! The trace that a client's request belongs to (W3C Trace Context) goes on at the endpoint: the front-end is no part of
//! it, so it passes `traceparent` and `tracestate` as they are (§3.2, §3.3: who does not take part passes them on).
use lb_userspace::l7::serve::Protocol;

use crate::frames::{HEADERS, Outcome, Peer, WHOLE, block, frame, pseudo};
use crate::messages::{Client, Message, Scripted};
use crate::stand::Stand;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATES: [&str; 2] = ["one=00f067aa0ba902b7", "two=t61rcWkgMzE"];

/// The values of a field, in their order.
fn values<'a>(message: &'a Message, name: &str) -> Vec<&'a str> {
    message.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn trace_of_an_http_1_request_goes_on_at_the_endpoint() {
    let web = Scripted::telling();
    let stand = Stand::with(web.address, Protocol::Http);
    let fields =
        format!("traceparent: {PARENT}\r\ntracestate: {}\r\nTraceState: {}\r\n", STATES[0], STATES[1]);
    let request = format!("GET /a HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n");
    assert_eq!(Client::dial(stand.plain).ask(&request).code(), 200);
    assert_eq!(values(&web.last(), "traceparent"), [PARENT]);
    assert_eq!(values(&web.last(), "tracestate"), STATES);
}

#[test]
fn trace_of_an_http_2_request_goes_on_at_the_endpoint() {
    let web = Scripted::telling();
    let stand = Stand::with(web.address, Protocol::Http);
    let mut fields = pseudo("GET", "/a");
    fields.push(("traceparent", PARENT));
    fields.extend(STATES.map(|state| ("tracestate", state)));
    let mut peer = Peer::dial(&stand);
    peer.send(&frame(HEADERS, WHOLE, 1, &block(&fields))).unwrap();
    assert_eq!(peer.outcome(), Outcome::Answer(1, 200));
    assert_eq!(values(&web.last(), "traceparent"), [PARENT]);
    assert_eq!(values(&web.last(), "tracestate"), STATES);
}
