//! What is noted of a recorded request and its attempts, until it has ended.
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Version};

use super::context::{self, TraceContext};
use super::{Queue, Site};
use crate::l7::serve::link::Link;
use crate::l7::serve::request::Target;
use crate::l7::serve::snapshot::{BackendService, Protocol};
use crate::l7::{Host, NormalPath, Rule};

/// Bytes of a text in a span; what is longer is cut.
const TEXT_BYTES_MAX: usize = 1_024;

/// A recorded request. Its spans are sent once it was told that the request has ended.
#[derive(Debug)]
pub(in crate::l7::serve) struct RequestTrace {
    span: Box<RequestSpan>,
    began: Instant,
    queue: Queue,
}

/// A request, and its attempts.
#[derive(Debug)]
pub(super) struct RequestSpan {
    pub(super) context: TraceContext,
    /// The caller's span.
    pub(super) parent: Option<u64>,
    /// What came along the trace.
    pub(super) state: String,
    pub(super) began_unix_ns: u64,
    pub(super) took: Duration,
    /// A known one (RFC 9110 §9, PATCH among them).
    pub(super) method: Option<&'static str>,
    pub(super) method_as_sent: String,
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    pub(super) path: String,
    pub(super) host: Option<(String, Option<u16>)>,
    /// The pattern of the rule's path.
    pub(super) route: Option<String>,
    pub(super) url_map: Arc<str>,
    pub(super) client: IpAddr,
    pub(super) peer: SocketAddr,
    pub(super) backend_service: Option<Arc<str>>,
    pub(super) request_id: String,
    pub(super) retries: Cell<u32>,
    pub(super) code: u16,
    /// Why the answer is the front-end's own, or ended before its end.
    pub(super) reason: Option<&'static str>,
    pub(super) is_cut: bool,
    pub(super) answer_bytes: u64,
    pub(super) attempts: RefCell<Vec<AttemptSpan>>,
}

/// One attempt at an endpoint. Times are since the request began.
#[derive(Debug)]
pub(super) struct AttemptSpan {
    pub(super) span_id: u64,
    pub(super) endpoint: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) path: String,
    pub(super) began: Duration,
    /// None while it lasts: to the request's own end then.
    pub(super) ended: Option<Duration>,
    /// The answer's code, or what went wrong; none where the request ended first.
    pub(super) outcome: Option<Result<u16, &'static str>>,
}

impl RequestSpan {
    pub(super) fn begin(
        context: TraceContext,
        parent: Option<u64>,
        link: &Link,
        site: &Site,
        parts: &Parts,
    ) -> Box<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Box::new(Self {
            context,
            parent,
            state: if parent.is_some() { context::state(&parts.headers) } else { String::new() },
            began_unix_ns: nanoseconds(now),
            took: Duration::ZERO,
            method: known(&parts.method),
            method_as_sent: text(parts.method.as_str()),
            scheme: link.client.scheme(),
            version: parts.version,
            path: text(parts.uri.path()),
            host: None,
            route: None,
            url_map: Arc::clone(&site.name),
            client: link.client.peer.ip(),
            peer: link.client.peer,
            backend_service: None,
            request_id: String::new(),
            retries: Cell::default(),
            code: 0,
            reason: None,
            is_cut: false,
            answer_bytes: 0,
            attempts: RefCell::default(),
        })
    }

    /// How many spans it is.
    pub(super) fn spans(&self) -> u64 {
        1 + self.attempts.borrow().len() as u64
    }
}

impl RequestTrace {
    pub(super) fn new(span: Box<RequestSpan>, queue: Queue) -> Self {
        Self { span, began: Instant::now(), queue }
    }

    /// Where the request goes. The rule is looked for once more: of those requests alone that are recorded.
    pub(in crate::l7::serve) fn note_target(&mut self, site: &Site, target: &Target, parts: &Parts) {
        let Some(host) = target.authority.to_str().ok().and_then(|text| Host::of(text).ok()) else { return };
        let sent = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if let Ok(path) = NormalPath::of(target.rewritten.as_deref().unwrap_or(sent))
            && let Some(Rule::Path(_, pattern)) = site.url_map.find(&host, &path).map(|found| found.rule)
        {
            self.span.route = Some(text(&pattern.to_string()));
        }
        self.span.host = Some((text(host.as_str()), host.port()));
    }

    /// Whose request it is, as far as those are believed who passed it on, and its name.
    pub(in crate::l7::serve) fn note_client(&mut self, client: IpAddr, request_id: &HeaderValue) {
        self.span.client = client;
        self.span.request_id = text(&String::from_utf8_lossy(request_id.as_bytes()));
    }

    /// How many further tries there were.
    pub(in crate::l7::serve) fn note_retries(&self, retries: u32) {
        self.span.retries.set(retries);
    }

    /// An attempt at an endpoint begins, with this request: its span is the endpoint's parent.
    pub(in crate::l7::serve) fn begin_attempt(
        &self,
        endpoint: SocketAddr,
        protocol: Protocol,
        request: &mut Request<impl Sized>,
        random: u128,
    ) {
        let span_id = non_zero(random as u64);
        if self.span.parent.is_none() {
            context::remove_state(request.headers_mut());
        }
        self.span.context.recorded_as(span_id).write(request.headers_mut());
        self.span.attempts.borrow_mut().push(AttemptSpan {
            span_id,
            endpoint,
            protocol,
            path: text(request.uri().path()),
            began: self.began.elapsed(),
            ended: None,
            outcome: None,
        });
    }

    /// The attempt that began last has an answer, which lasts as long as the request, or has failed.
    pub(in crate::l7::serve) fn note_attempt(&self, outcome: Result<StatusCode, &'static str>) {
        if let Some(attempt) = self.span.attempts.borrow_mut().last_mut() {
            attempt.ended = outcome.is_err().then(|| self.began.elapsed());
            attempt.outcome = Some(outcome.map(|code| code.as_u16()));
        }
    }

    pub(in crate::l7::serve) fn note_code(&mut self, code: StatusCode, reason: Option<&'static str>) {
        self.span.code = code.as_u16();
        self.span.reason = reason;
    }

    /// The answer ended before its end.
    pub(in crate::l7::serve) fn note_cut(&mut self, why: &'static str) {
        self.span.reason = Some(why);
        self.span.is_cut = true;
    }

    /// The request has ended.
    pub(in crate::l7::serve) fn end(mut self, service: Option<&BackendService>, answer_bytes: u64) {
        self.span.backend_service = service.map(|service| Arc::clone(&service.name));
        self.span.answer_bytes = answer_bytes;
        self.span.took = self.began.elapsed();
        self.queue.put(*self.span);
    }
}

/// The methods that conventions know (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>).
fn known(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

fn text(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Ids of 0 are none.
pub(super) fn non_zero(id: u64) -> u64 {
    id.max(1)
}
