//! Spans in the form of OTLP, with the names of OpenTelemetry's conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). What they have no name for begins with `podway.`.
use std::time::Duration;

use http::Version;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};

use super::span::{AttemptSpan, RequestSpan, nanoseconds};
use crate::l7::serve::snapshot::Protocol;

const NAME: &str = "podway";

/// The name of a span, and the method's value, where the method is none that is known.
const OTHER_NAME: &str = "HTTP";
const OTHER_METHOD: &str = "_OTHER";

/// Who sends: the front-end of a node.
pub(super) fn resource(node_name: &str) -> Resource {
    let attributes = vec![
        text("service.name", NAME),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", node_name),
        text("k8s.node.name", node_name),
    ];
    Resource { attributes, ..Resource::default() }
}

/// The message that brings these requests to a receiver.
pub(super) fn message(resource: &Resource, requests: &[RequestSpan]) -> ExportTraceServiceRequest {
    let mut spans = Vec::new();
    for request in requests {
        spans.push(server(request));
        let attempts = request.attempts.borrow();
        spans.extend((0..).zip(&*attempts).map(|(number, attempt)| client(request, attempt, number)));
    }
    let scope = InstrumentationScope {
        name: NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let of_resource =
        ResourceSpans { resource: Some(resource.clone()), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

fn server(request: &RequestSpan) -> Span {
    let mut attributes = method(request);
    attributes.extend([
        text("url.scheme", request.scheme),
        text("url.path", &request.path),
        text("network.protocol.version", version(request.version)),
        text("client.address", &request.client.to_string()),
        text("network.peer.address", &request.peer.ip().to_string()),
        number("network.peer.port", request.peer.port()),
        number("http.response.status_code", request.code),
        number("http.response.body.size", i64::try_from(request.answer_bytes).unwrap_or(i64::MAX)),
        text("podway.url_map", &request.url_map),
        number("podway.retries", request.retries.get()),
    ]);
    if let Some((host, port)) = &request.host {
        let own = if request.scheme == "https" { 443 } else { 80 };
        attributes.extend([text("server.address", host), number("server.port", port.unwrap_or(own))]);
    }
    let endpoint = request.attempts.borrow().last().map(|attempt| attempt.endpoint.to_string());
    let request_id = Some(&*request.request_id).filter(|id| !id.is_empty());
    let told = [
        ("http.route", request.route.as_deref()),
        ("podway.backend_service", request.backend_service.as_deref()),
        ("podway.endpoint", endpoint.as_deref()),
        ("podway.request_id", request_id),
        ("podway.reason", request.reason),
    ];
    attributes.extend(told.into_iter().filter_map(|(key, value)| Some(text(key, value?))));
    let is_error = request.code >= 500 || request.is_cut;
    if is_error {
        let code = request.code.to_string();
        attributes.push(text("error.type", request.reason.unwrap_or(&code)));
    }
    let method = request.method.unwrap_or(OTHER_NAME);
    Span {
        span_id: request.context.span_id.to_be_bytes().to_vec(),
        parent_span_id: request.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: flags(request, if request.parent.is_some() { Parent::Remote } else { Parent::Local }),
        name: request.route.as_ref().map_or(method.to_owned(), |route| format!("{method} {route}")),
        kind: SpanKind::Server.into(),
        end_time_unix_nano: time(request, request.took),
        status: status(is_error),
        ..span(request, Duration::ZERO, attributes)
    }
}

fn client(request: &RequestSpan, attempt: &AttemptSpan, index: u32) -> Span {
    let (scheme, version) = match attempt.protocol {
        Protocol::Http => ("http", "1.1"),
        Protocol::H2c => ("http", "2"),
        Protocol::Https => ("https", "1.1"),
        Protocol::Http2 => ("https", "2"),
    };
    let endpoint = attempt.endpoint;
    let mut attributes = method(request);
    attributes.extend([
        text("url.full", &format!("{scheme}://{endpoint}{}", attempt.path)),
        text("server.address", &endpoint.ip().to_string()),
        number("server.port", endpoint.port()),
        text("network.peer.address", &endpoint.ip().to_string()),
        number("network.peer.port", endpoint.port()),
        text("network.protocol.version", version),
    ]);
    if index > 0 {
        attributes.push(number("http.request.resend_count", index));
    }
    let fault = match attempt.outcome {
        // What was cut off was its answer.
        Some(Ok(code)) => {
            attributes.push(number("http.response.status_code", code));
            let of_code = (code >= 400).then(|| code.to_string());
            request.reason.filter(|_| request.is_cut).map(str::to_owned).or(of_code)
        }
        Some(Err(fault)) => Some(fault.to_owned()),
        None => Some(request.reason.unwrap_or("gone").to_owned()),
    };
    attributes.extend(fault.as_deref().map(|fault| text("error.type", fault)));
    let ended = attempt.ended.unwrap_or(request.took);
    Span {
        span_id: attempt.span_id.to_be_bytes().to_vec(),
        parent_span_id: request.context.span_id.to_be_bytes().to_vec(),
        flags: flags(request, Parent::Local),
        name: request.method.unwrap_or(OTHER_NAME).to_owned(),
        kind: SpanKind::Client.into(),
        end_time_unix_nano: time(request, ended),
        status: status(fault.is_some()),
        ..span(request, attempt.began, attributes)
    }
}

/// What a request's spans have alike.
fn span(request: &RequestSpan, began: Duration, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: request.context.trace_id.to_be_bytes().to_vec(),
        trace_state: request.state.clone(),
        start_time_unix_nano: time(request, began),
        attributes,
        ..Span::default()
    }
}

/// Where a span's parent is.
#[derive(Clone, Copy, Debug)]
enum Parent {
    Remote,
    /// In this front-end, or nowhere.
    Local,
}

fn flags(request: &RequestSpan, parent: Parent) -> u32 {
    let remote = match parent {
        Parent::Remote => SpanFlags::ContextIsRemoteMask as u32,
        Parent::Local => 0,
    };
    u32::from(request.context.flags) | SpanFlags::ContextHasIsRemoteMask as u32 | remote
}

fn time(request: &RequestSpan, since: Duration) -> u64 {
    request.began_unix_ns.saturating_add(nanoseconds(since))
}

fn status(is_error: bool) -> Option<Status> {
    is_error.then(|| Status { code: StatusCode::Error.into(), ..Status::default() })
}

fn method(request: &RequestSpan) -> Vec<KeyValue> {
    match request.method {
        Some(known) => vec![text("http.request.method", known)],
        None => vec![
            text("http.request.method", OTHER_METHOD),
            text("http.request.method_original", &request.method_as_sent),
        ],
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
