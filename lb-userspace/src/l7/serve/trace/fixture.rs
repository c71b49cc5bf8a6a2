//! A receiver of traces, and what it was sent.
use std::collections::BTreeMap;
use std::io::Write as _;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

use super::*;
use crate::l7::serve::fixture::{Message, RawEndpoint, one_thread};
use crate::l7::serve::{Prefix, Settings};

/// A receiver that takes everything.
pub(super) struct Collector(pub(super) RawEndpoint);

impl Collector {
    pub(super) fn start() -> Self {
        Self(RawEndpoint::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    }

    /// Settings of a front-end with one thread that sends its traces here.
    pub(super) fn settings(&self, sample_ratio: f64) -> Settings {
        Settings { traces: Some(self.trace_settings(sample_ratio)), ..one_thread() }
    }

    /// The same, and everyone on this host is believed.
    pub(super) fn trusting_settings(&self, sample_ratio: f64) -> Settings {
        let loopback = Prefix { address: "127.0.0.1".parse().expect("an address"), length_bits: 8 };
        Settings { trusted_proxies: vec![loopback], ..self.settings(sample_ratio) }
    }

    pub(super) fn trace_settings(&self, sample_ratio: f64) -> TraceSettings {
        TraceSettings {
            receiver: format!("http://{}", self.0.address).parse().expect("a receiver"),
            sample_ratio,
            node_name: "node-a".to_owned(),
            waiting_max: TRACES_WAITING_MAX,
        }
    }

    pub(super) fn messages(&self) -> Vec<ExportTraceServiceRequest> {
        self.0.requests.lock().expect("requests").iter().map(decoded).collect()
    }

    /// All spans that came, those of a request after one another.
    pub(super) fn spans(&self) -> Vec<Span> {
        let resources = self.messages().into_iter().flat_map(|message| message.resource_spans);
        resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
    }

    pub(super) fn servers(&self) -> Vec<Span> {
        of_kind(self.spans(), SpanKind::Server)
    }

    pub(super) fn clients(&self) -> Vec<Span> {
        of_kind(self.spans(), SpanKind::Client)
    }
}

fn of_kind(spans: Vec<Span>, kind: SpanKind) -> Vec<Span> {
    spans.into_iter().filter(|span| span.kind() == kind).collect()
}

pub(super) fn decoded(request: &Message) -> ExportTraceServiceRequest {
    assert_eq!(request.start(), "POST /v1/traces HTTP/1.1");
    assert_eq!(request.field("content-type"), Some("application/x-protobuf"));
    ExportTraceServiceRequest::decode(&*request.body).expect("a message of OTLP")
}

pub(super) fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let told = of.iter().map(|attribute| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{}: {other:?}", attribute.key),
        };
        (attribute.key.clone(), value)
    });
    let told: BTreeMap<String, String> = told.collect();
    assert_eq!(told.len(), of.len(), "no key comes twice");
    told
}

pub(super) fn attribute(span: &Span, key: &str) -> Option<String> {
    attributes(&span.attributes).remove(key)
}

/// The ids of a `traceparent`: the trace's, the span's, and the flags.
pub(super) fn ids(text: &str) -> (String, String, String) {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace_id, span_id, flags] = parts[..] else { panic!("{text}") };
    assert_eq!((version, trace_id.len(), span_id.len()), ("00", 32, 16), "{text}");
    (trace_id.to_owned(), span_id.to_owned(), flags.to_owned())
}

pub(super) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A receiver whose connections are answered by turns with these bytes, the last one for good. Without bytes they are
/// closed.
pub(super) fn answering(listener: std::net::TcpListener, answers: &'static [&'static [u8]]) -> Collector {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    Collector(RawEndpoint::on(listener, move |peer| {
        let answer = answers[turn.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
        if answer.is_empty() {
            return Ok(());
        }
        peer.request()?;
        peer.stream.write_all(answer)
    }))
}
