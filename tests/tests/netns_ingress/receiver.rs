//! A receiver of traces on a node: OTLP over HTTP, as OpenTelemetry's collector takes it.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lb_tests::topology::Host;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The port of OTLP over HTTP.
const PORT: u16 = 4318;

type Received = Arc<Mutex<Vec<ResourceSpans>>>;

/// Dropping it closes its port.
pub(crate) struct Receiver {
    received: Received,
    task: JoinHandle<()>,
}

impl Receiver {
    /// It listens on the node's loopback when this returns.
    pub(crate) fn start(handle: &Handle, node: &Host) -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listener = node.run_in_netns(|| TcpListener::bind(at)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let _guard = handle.enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let received = Received::default();
        let of_task = Arc::clone(&received);
        let task = handle.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let received = Arc::clone(&of_task);
                let taken = service_fn(move |request| take(request, Arc::clone(&received)));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), taken));
            }
        });
        Self { received, task }
    }

    /// All that came so far: what each span is of, and the span.
    pub(crate) fn spans(&self) -> Vec<(Vec<KeyValue>, Span)> {
        let received = self.received.lock().unwrap();
        let of_one = |of: &ResourceSpans| {
            let attributes = of.resource.clone().unwrap_or_default().attributes;
            let spans: Vec<_> = of.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect();
            spans.into_iter().map(move |span| (attributes.clone(), span))
        };
        received.iter().flat_map(of_one).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The text of an attribute.
pub(crate) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

async fn take(request: Request<Incoming>, received: Received) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_asked = request.method() == Method::POST && request.uri().path() == "/v1/traces";
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let code = match ExportTraceServiceRequest::decode(body) {
        Ok(message) if is_asked => {
            received.lock().unwrap().extend(message.resource_spans);
            StatusCode::OK
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = code;
    Ok(answer)
}
