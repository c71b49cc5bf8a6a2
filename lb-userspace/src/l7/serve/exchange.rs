//! The life of a request: judged, routed, sent to an endpoint, answered.
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, LOCATION, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::affinity::{kept, set_cookie};
use super::attempt::{Answer, Attempt};
use super::body::{AnswerBody, EndpointBody, RequestBody};
use super::client::Client;
use super::forward::{self, REQUEST_ID};
use super::grpc;
use super::link::{Busy, Link, Unanswered};
use super::proxied::Announced;
use super::record::{Line, Record, is_sampled};
use super::refusal::Reason;
use super::request::{Target, judge};
use super::snapshot::{Backend, BackendService, Endpoint, Listener, Plain, Protocol, Scheme, Site};
use super::tunnel;
use crate::clock;
use crate::health::Signal;
use crate::l7::Host;

/// Answers a request; it always comes out in an answer.
///
/// All that can be is done before the future is made: what is left is moved to a task of its own (HTTP/2), and what it
/// holds is moved with it.
pub(super) fn answer(
    link: Rc<Link>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> {
    let version = request.version();
    let unanswered = Unanswered::begin(&link, version);
    let snapshot = link.worker.snapshot();
    let mut record = Record::begin(link.worker.shared.log.as_ref(), Busy::begin(&link));
    let grpc = grpc::media_type(request.headers());
    let listener = snapshot.listeners.get(&link.place);
    let begun = match listener {
        Some(listener) => begin(&link, listener, request, &mut record),
        // The listener was taken away while its client asked.
        None => Err(Reason::NoRule),
    };
    let site = listener.map(|listener| Arc::clone(&listener.site));
    async move {
        let outcome = match begun {
            Ok(Begun::Forwarding(forwarding, request)) => forwarding.run(request, &mut record).await,
            Ok(Begun::Redirected(response)) => Ok(Outcome::Own(response, Some(Reason::Redirect.name()))),
            Err(reason) => Err(reason),
        };
        let refused = outcome.as_ref().err().copied();
        let reason_header = link.worker.shared.settings.reason_header;
        let mut response = outcome
            .unwrap_or_else(|reason| Outcome::Own(reason.response(reason_header), Some(reason.name())));
        if let Some(site) = site {
            site.counters.note(response.status());
        }
        record.note_code(response.status(), response.reason());
        // Counted and logged by its code; only its client reads another form of it.
        if let (Some(reason), Some(media_type)) = (refused, grpc)
            && let Some(in_grpc) = grpc::response(reason, media_type, reason_header)
        {
            response = Outcome::Own(in_grpc, Some(reason.name()));
        }
        unanswered.answered();
        if version == Version::HTTP_2 {
            response.headers_mut().remove(CONNECTION);
        } else if link.is_closing() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.finish(record, &link, version))
    }
}

/// What a client gets.
enum Outcome {
    Own(Response<Bytes>, Option<&'static str>),
    Endpoint(Box<(http::response::Parts, EndpointBody)>, Instant),
}

impl Outcome {
    fn status(&self) -> StatusCode {
        match self {
            Self::Own(response, _) => response.status(),
            Self::Endpoint(answer, _) => answer.0.status,
        }
    }

    const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Own(_, reason) => *reason,
            Self::Endpoint(..) => None,
        }
    }

    fn headers_mut(&mut self) -> &mut http::HeaderMap {
        match self {
            Self::Own(response, _) => response.headers_mut(),
            Self::Endpoint(answer, _) => &mut answer.0.headers,
        }
    }

    fn finish(self, record: Record, link: &Link, version: Version) -> Response<AnswerBody> {
        match self {
            Self::Own(response, _) => response.map(|bytes| AnswerBody::own(bytes, record)),
            Self::Endpoint(answer, until) => {
                let (parts, body) = *answer;
                let is_watched = version == Version::HTTP_2 && !body.is_end_stream();
                let taken = is_watched.then(|| link.watch());
                Response::from_parts(parts, AnswerBody::of_endpoint(body, record, taken, until))
            }
        }
    }
}

/// What a request comes to before anything waits.
enum Begun {
    Forwarding(Forwarding, Box<Request<RequestBody>>),
    Redirected(Response<Bytes>),
}

fn begin(
    link: &Rc<Link>,
    listener: &Listener,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Begun, Reason> {
    let wants_upgrade = wanted_upgrade(&request);
    let on_upgrade = wants_upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let limits = &link.worker.shared.settings.limits;
    let site = &*listener.site;
    let tracer = link.worker.shared.tracer.as_ref();
    record.trace = tracer.and_then(|tracer| tracer.begin(link, site, &parts));
    let target = judge(&parts, &link.client, site, limits)
        .inspect_err(|_| note_unrouted(record, link, site, &parts, host_as_sent(&parts)))?;
    if let Some(trace) = &mut record.trace {
        trace.note_target(site, &target, &parts);
    }
    check_connection(link, listener, &target)
        .inspect_err(|_| note_unrouted(record, link, site, &parts, target.authority.as_bytes()))?;
    let service = match backend(&target, &parts, &link.client) {
        Ok(service) => service,
        Err(nowhere) => {
            note_unrouted(record, link, site, &parts, target.authority.as_bytes());
            return match nowhere {
                Nowhere::Refused(reason) => Err(reason),
                Nowhere::Redirected(code) => redirect(&parts, &target, code).map(Begun::Redirected),
            };
        }
    };
    record.service = Some(Arc::clone(&service));
    if link.worker.shared.log.is_some() && is_sampled(&service, link.worker.random_u32()) {
        let mut line = line_of(link, site, &parts, target.authority.as_bytes());
        line.backend_service = Some(service.name.to_string());
        record.line = Some(Box::new(line));
    }
    let announced = http_body::Body::size_hint(&body).lower();
    if limits.body_bytes_max.is_some_and(|bytes_max| announced > bytes_max) {
        return Err(Reason::BodyTooLong);
    }
    let body = RequestBody::new(body, limits.body_bytes_max, limits.body_idle_timeout);
    let upgrade = wants_upgrade.zip(on_upgrade);
    let (forwarding, parts) = Forwarding::begin(link, service, &target, upgrade, parts, record)?;
    Ok(Begun::Forwarding(forwarding, Box::new(Request::from_parts(parts, body))))
}

/// Whether the client's connection was opened as the request's host asks ([`tls_policy`](super::tls_policy)).
fn check_connection(link: &Link, listener: &Listener, target: &Target) -> Result<(), Reason> {
    let (Scheme::Https(certificates), Some(tls)) = (&listener.scheme, &link.client.tls) else {
        return Ok(());
    };
    if !certificates.has_policies() {
        return Ok(());
    }
    let host = target.authority.to_str().map_err(|_| Reason::Host)?;
    let host = Host::of(host).map_err(|_| Reason::Host)?;
    let is_met = certificates.policy(&host).is_none_or(|policy| policy.is_met_by(tls));
    if is_met { Ok(()) } else { Err(Reason::Misdirected) }
}

/// Why a request goes to no backend service.
enum Nowhere {
    Refused(Reason),
    /// To the same URL by TLS.
    Redirected(StatusCode),
}

fn backend(target: &Target, parts: &Parts, client: &Client) -> Result<Arc<BackendService>, Nowhere> {
    let route = target.route.as_ref().ok_or(Nowhere::Refused(Reason::NoRule))?;
    match (route.plain, &client.tls) {
        (Plain::Redirected(code), None) => return Err(Nowhere::Redirected(code)),
        (Plain::Refused, None) => return Err(Nowhere::Refused(Reason::NoRule)),
        _ => {}
    }
    if forward::hops_left(parts) == Some(0) {
        return Err(Nowhere::Refused(Reason::LastHop));
    }
    match &route.backend {
        Backend::To(slot) => Ok(slot.load()),
        Backend::Missing(_) => Err(Nowhere::Refused(Reason::NoBackendService)),
    }
}

/// Logs a request that no backend service gets, and whose share of lines therefore nobody has set.
fn note_unrouted(record: &mut Record, link: &Link, site: &Site, parts: &Parts, host: &[u8]) {
    if link.worker.shared.log.is_some() && link.worker.unrouted_lines.may_write() {
        record.line = Some(Box::new(line_of(link, site, parts, host)));
    }
}

/// The host of a request that names none that can be, or two.
fn host_as_sent(parts: &Parts) -> &[u8] {
    let field = || parts.headers.get(http::header::HOST).map(HeaderValue::as_bytes);
    parts.uri.authority().map(|authority| authority.as_str().as_bytes()).or_else(field).unwrap_or_default()
}

/// An upgrade that may be passed on: of a GET without a body over HTTP/1.1.
fn wanted_upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
    let may = request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && http_body::Body::is_end_stream(request.body());
    may.then(|| forward::wanted_upgrade(request.headers())).flatten()
}

fn redirect(parts: &Parts, target: &Target, code: StatusCode) -> Result<Response<Bytes>, Reason> {
    let host = target.authority.to_str().map_err(|_| Reason::Host)?;
    // The port was plain HTTP's.
    let host = if host.ends_with(']') { host } else { host.rsplit_once(':').map_or(host, |(host, _)| host) };
    let sent = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = target.rewritten.as_deref().unwrap_or(sent);
    let location = HeaderValue::try_from(format!("https://{host}{path}")).map_err(|_| Reason::Path)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = code;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// What is known of a request for the access log when it begins.
pub(super) fn line(
    link: &Link,
    site: &Site,
    version: Version,
    method: &str,
    host: &[u8],
    path: &str,
) -> Line {
    Line {
        client: link.client.peer.to_string(),
        scheme: link.client.scheme(),
        protocol: match version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        method: method.to_owned(),
        host: String::from_utf8_lossy(host).into_owned(),
        path: path.to_owned(),
        url_map: site.name.to_string(),
        ..Line::default()
    }
}

fn line_of(link: &Link, site: &Site, parts: &Parts, host: &[u8]) -> Line {
    line(link, site, parts.version, parts.method.as_str(), host, parts.uri.path())
}

/// A request that has a backend service.
struct Forwarding {
    link: Rc<Link>,
    service: Arc<BackendService>,
    /// The client's.
    version: Version,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    id: HeaderValue,
    /// The endpoint that the client had before.
    had: Option<Arc<Endpoint>>,
    until: Instant,
}

impl Forwarding {
    /// Makes the client's request the endpoint's.
    fn begin(
        link: &Rc<Link>,
        service: Arc<BackendService>,
        target: &Target,
        upgrade: Option<(HeaderValue, OnUpgrade)>,
        mut parts: Parts,
        record: &mut Record,
    ) -> Result<(Self, Parts), Reason> {
        let version = parts.version;
        let until = Instant::now() + service.request_timeout;
        link.worker.budget.earn();
        let upgraded = upgrade.as_ref().map(|(protocol, _)| protocol);
        let id = prepare(link, &service, target, upgraded, &mut parts)?;
        let client = forward::client_address(&parts.headers, &link.client);
        let key = &link.worker.shared.affinity_key;
        let had = kept(&service, &parts.headers, client, key).map(Arc::clone);
        if let Some(trace) = &mut record.trace {
            trace.note_client(client, &id);
        }
        Ok((Self { link: Rc::clone(link), service, version, upgrade, id, had, until }, parts))
    }

    /// Sends it, until an endpoint answers.
    async fn run(self, request: Box<Request<RequestBody>>, record: &mut Record) -> Result<Outcome, Reason> {
        let worker = &*self.link.worker;
        let state = request.body().state();
        let attempt = Attempt {
            worker,
            service: &self.service,
            kept: self.had.clone(),
            announced: self.announced(),
            trace: record.trace.as_ref(),
            current: RefCell::new(None),
            retries: Cell::new(0),
            began_ms: clock::now_ms(),
        };
        let result = worker.deadlines.within(self.until, pin!(attempt.run(request))).await;
        if let Some(line) = &mut record.line {
            line.retries = attempt.retries.get();
            line.endpoint = attempt.current.borrow().as_ref().map(|endpoint| endpoint.address.to_string());
            line.request_id = String::from_utf8_lossy(self.id.as_bytes()).into_owned();
        }
        if let Some(trace) = attempt.trace {
            trace.note_retries(attempt.retries.get());
        }
        let answer = result.unwrap_or_else(|| Err(late(&attempt, state.is_done())))?;
        let signal =
            if answer.response.status().is_server_error() { Signal::ServerError } else { Signal::Answered };
        attempt.signal(&answer.endpoint, signal);
        self.finish(answer)
    }

    fn announced(&self) -> Option<Announced> {
        let client = &self.link.client;
        let version = self.service.proxy_protocol?;
        Some(Announced { version, client: client.peer, local: client.local })
    }

    /// Makes the endpoint's answer the client's.
    fn finish(mut self, answer: Answer) -> Result<Outcome, Reason> {
        let Answer { mut response, endpoint } = answer;
        let version = response.version();
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let to_endpoint = is_switch.then(|| hyper::upgrade::on(&mut response));
        let protocol = response.headers().get(UPGRADE).cloned();
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        forward::remove_hop_by_hop(&mut parts.headers);
        forward::add_via(&mut parts.headers, version);
        parts.headers.insert(REQUEST_ID, self.id);
        for header in &self.service.response_headers {
            header.set(&mut parts.headers, &self.link.client, self.version);
        }
        let key = &self.link.worker.shared.affinity_key;
        set_cookie(&mut parts.headers, &self.service, &endpoint, self.had.as_ref(), key);
        let Some(to_endpoint) = to_endpoint else {
            return Ok(Outcome::Endpoint(Box::new((parts, body)), self.until));
        };
        // An endpoint that switches without being asked to, or without a name, says nothing that can be passed on.
        let (Some((_, to_client)), Some(protocol), EndpointBody::Parsed(_, Some(lease))) =
            (self.upgrade.take(), protocol, body)
        else {
            return Err(Reason::Protocol);
        };
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        self.service.counters.tunnels.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.link.wire.become_tunnel();
        tunnel::start(self.link, to_client, to_endpoint, lease.into_in_flight());
        Ok(Outcome::Own(Response::from_parts(parts, Bytes::new()), None))
    }
}

/// Sets the path and the fields that the endpoint sees; the request's name.
fn prepare(
    link: &Link,
    service: &BackendService,
    target: &Target,
    upgrade: Option<&HeaderValue>,
    parts: &mut Parts,
) -> Result<HeaderValue, Reason> {
    let version = parts.version;
    let hops_left = forward::hops_left(parts);
    let headers = &mut parts.headers;
    headers.reserve(forward::FIELDS_MAX + service.request_headers.len());
    forward::remove_hop_by_hop(headers);
    forward::remove_expectation(headers);
    if let Some(hops_left) = hops_left {
        headers.insert(http::header::MAX_FORWARDS, HeaderValue::from(hops_left - 1));
    }
    forward::remove_look_alikes(headers, &service.request_headers);
    forward::say_who_asks(headers, &link.client, &target.authority);
    forward::show_certificate(headers, &link.client);
    forward::add_via(headers, version);
    let id = forward::request_id(headers, &link.client, link.worker.random_u128());
    for header in &service.request_headers {
        header.set(headers, &link.client, version);
    }
    let sent = std::mem::take(&mut parts.uri).into_parts().path_and_query;
    let path = match &target.rewritten {
        Some(path) => PathAndQuery::try_from(path.as_str()).map_err(|_| Reason::Path)?,
        None => sent.ok_or(Reason::Path)?,
    };
    let is_http_2 = matches!(service.protocol, Protocol::H2c | Protocol::Http2);
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if is_http_2 {
        let is_clear = service.protocol == Protocol::H2c;
        uri.scheme = Some(if is_clear { http::uri::Scheme::HTTP } else { http::uri::Scheme::HTTPS });
        uri.authority = Some(Authority::try_from(target.authority.as_bytes()).map_err(|_| Reason::Host)?);
        parts.headers.remove(http::header::HOST);
        parts.version = Version::HTTP_2;
    } else {
        parts.headers.insert(http::header::HOST, target.authority.clone());
        // Trailers are asked for link by link, which this one does not.
        parts.headers.remove(http::header::TE);
        forward::join_cookies(&mut parts.headers);
        if let Some(protocol) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        parts.version = Version::HTTP_11;
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| Reason::Path)?;
    Ok(id)
}

/// The request's time is over. An endpoint that waits for the client's body is not the one to blame.
fn late(attempt: &Attempt<'_>, has_body: bool) -> Reason {
    if has_body && let Some(endpoint) = &*attempt.current.borrow() {
        attempt.signal(endpoint, Signal::TimedOut);
    }
    Reason::Timeout
}
