//! A request's ways to an endpoint: which one, and which next if that fails.
//!
//! Another endpoint is tried where none saw the request: no connection came about, or a kept one took nothing of it. A
//! safe request without a body is also sent again where a kept connection was closed under it (RFC 9110 §9.2.2),
//! once its endpoint may have seen it. All within a budget, so that retries do not add to an overload.
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{Request, Response};

use super::body::{BodyState, EndpointBody, RequestBody};
use super::choose::{choose, is_open};
use super::plain_answer::Lost;
use super::pool::Want;
use super::proxied::Announced;
use super::refusal::Reason;
use super::settings::{RETRY_PERCENT_MAX, RETRY_RESERVE};
use super::snapshot::{BackendService, Endpoint, InFlight, Protocol};
use super::spare::Spare;
use super::trace::RequestTrace;
use super::worker::Worker;
use crate::health::Signal;

/// How many retries a thread has to spend, in hundredths of one.
#[derive(Debug)]
pub(super) struct Budget(Cell<u32>);

impl Budget {
    pub(super) const fn full() -> Self {
        Self(Cell::new(RETRY_RESERVE * 100))
    }

    /// A request earns its share of a retry.
    pub(super) fn earn(&self) {
        self.0.set((self.0.get() + RETRY_PERCENT_MAX).min(RETRY_RESERVE * 100));
    }

    /// Whether there was one to spend.
    pub(super) fn spend(&self) -> bool {
        let left = self.0.get().checked_sub(100);
        self.0.set(left.unwrap_or(self.0.get()));
        left.is_some()
    }
}

/// One request on its way, and what is known of it when its time is over.
pub(super) struct Attempt<'a> {
    pub(super) worker: &'a Worker,
    pub(super) service: &'a BackendService,
    /// The endpoint that the client had before.
    pub(super) kept: Option<Arc<Endpoint>>,
    /// What its endpoint is told of its client before all else.
    pub(super) announced: Option<Announced>,
    /// Of a request that is recorded.
    pub(super) trace: Option<&'a RequestTrace>,
    /// The endpoint that has the request now.
    pub(super) current: RefCell<Option<Arc<Endpoint>>>,
    pub(super) retries: Cell<u32>,
    pub(super) began_ms: u64,
}

/// What an endpoint said.
pub(super) struct Answer {
    pub(super) response: Response<EndpointBody>,
    pub(super) endpoint: Arc<Endpoint>,
}

/// What failed.
enum Failed {
    /// No connection came about: the request may go to another endpoint.
    Connect(Box<Request<RequestBody>>),
    /// A kept connection took nothing of the request.
    Stale(Box<Request<RequestBody>>),
    /// A kept connection was closed with a request on it that may be sent twice.
    Closed(Box<Request<RequestBody>>),
    /// The request cannot be sent again.
    Over(Reason),
}

impl Failed {
    /// As traces have it.
    const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => Reason::ConnectFailed.name(),
            Self::Stale(_) => "stale-connection",
            Self::Closed(_) => Reason::Protocol.name(),
            Self::Over(reason) => reason.name(),
        }
    }
}

impl Attempt<'_> {
    /// The request is boxed since it goes from future to future, each of which would have room for it.
    pub(super) async fn run(&self, mut request: Box<Request<RequestBody>>) -> Result<Answer, Reason> {
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut want = Want::Any;
        loop {
            let Some(endpoint) = self.next(&tried) else {
                return Err(if tried.is_empty() { self.without_endpoint() } else { Reason::ConnectFailed });
            };
            *self.current.borrow_mut() = Some(Arc::clone(&endpoint));
            if let Some(trace) = self.trace {
                let (protocol, random) = (self.service.protocol, self.worker.random_u128());
                trace.begin_attempt(endpoint.address, protocol, &mut request, random);
            }
            let outcome = self.once(&endpoint, want, request).await;
            if let Some(trace) = self.trace {
                trace.note_attempt(
                    outcome.as_ref().map(|answer| answer.response.status()).map_err(Failed::name),
                );
            }
            let (whole, reason) = match outcome {
                Ok(answer) => return Ok(answer),
                Err(Failed::Over(reason)) => return Err(reason),
                // Nothing of it was sent: no other endpoint is needed, and no retry is spent.
                Err(Failed::Stale(whole)) if want == Want::Any => {
                    want = Want::Fresh;
                    request = whole;
                    continue;
                }
                Err(Failed::Stale(whole) | Failed::Closed(whole)) => (whole, Reason::Protocol),
                Err(Failed::Connect(whole)) => {
                    tried.push(endpoint);
                    (whole, Reason::ConnectFailed)
                }
            };
            if !self.may_retry() {
                return Err(reason);
            }
            want = Want::Fresh;
            request = whole;
        }
    }

    fn next(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let kept = self.kept.as_ref().filter(|kept| tried.is_empty() && is_open(self.service, kept));
        kept.or_else(|| choose(self.service, tried, |below| self.worker.draw(below))).map(Arc::clone)
    }

    fn without_endpoint(&self) -> Reason {
        let has_any = self.service.endpoints.iter().any(|endpoint| endpoint.weight() > 0);
        if has_any { Reason::Overload } else { Reason::NoEndpoint }
    }

    fn may_retry(&self) -> bool {
        let may = self.worker.may_retry(self.service, self.retries.get());
        self.retries.set(self.retries.get() + u32::from(may));
        may
    }

    async fn once(
        &self,
        endpoint: &Arc<Endpoint>,
        want: Want,
        request: Box<Request<RequestBody>>,
    ) -> Result<Answer, Failed> {
        if self.is_plain(&request) {
            return self.once_plain(endpoint, want, request).await;
        }
        let in_flight = InFlight::begin(endpoint);
        let key = (endpoint.address, self.service.protocol, self.announced);
        // Boxed for the future of requests to endpoints of HTTP/1, which are the most and would have room for it.
        let mut lease = match Box::pin(self.worker.pool.lease(key, want, in_flight)).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.unconnected(endpoint, &error, request)),
        };
        let body = request.body().state();
        let spare = (lease.is_reused && is_repeatable(&request)).then(|| Spare::of(&request));
        match lease.send(request).await {
            Ok(response) => {
                let response = response.map(|incoming| EndpointBody::Parsed(incoming, Some(lease)));
                Ok(Answer { response, endpoint: Arc::clone(endpoint) })
            }
            Err(mut error) => Err(match error.take_message() {
                Some(whole) => Failed::Stale(Box::new(whole)),
                None => self.broken(endpoint, &body, spare),
            }),
        }
    }

    /// Whether its answer is read without hyper.
    fn is_plain(&self, request: &Request<RequestBody>) -> bool {
        let headers = request.headers();
        self.service.protocol == Protocol::Http
            && self.announced.is_none()
            && request.body().is_empty()
            && !headers.contains_key(UPGRADE)
            && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
    }

    async fn once_plain(
        &self,
        endpoint: &Arc<Endpoint>,
        want: Want,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<Answer, Failed> {
        let in_flight = InFlight::begin(endpoint);
        let lease = match self.worker.pool.plain_lease(endpoint.address, want, in_flight).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.unconnected(endpoint, &error, request)),
        };
        let is_reused = lease.is_reused;
        match lease.ask(&self.worker.rooms, &mut request).await {
            Ok(response) => {
                Ok(Answer { response: response.map(EndpointBody::Plain), endpoint: Arc::clone(endpoint) })
            }
            Err(Lost::Unsent) if is_reused => Err(Failed::Stale(request)),
            Err(Lost::Closed) if is_reused && is_repeatable(&request) => Err(Failed::Closed(request)),
            Err(_) => {
                self.signal(endpoint, Signal::ServerError);
                Err(Failed::Over(Reason::Protocol))
            }
        }
    }

    /// No connection to the endpoint came about.
    fn unconnected(
        &self,
        endpoint: &Endpoint,
        error: &io::Error,
        request: Box<Request<RequestBody>>,
    ) -> Failed {
        self.worker.shared.note_unconnected(self.service, endpoint, error, self.began_ms);
        Failed::Connect(request)
    }

    /// The connection ended with the request on it.
    fn broken(&self, endpoint: &Arc<Endpoint>, body: &BodyState, spare: Option<Spare>) -> Failed {
        match (body.fault(), spare) {
            (Some(fault), _) => Failed::Over(fault),
            (None, Some(spare)) => Failed::Closed(Box::new(spare.into_request())),
            (None, None) => {
                self.signal(endpoint, Signal::ServerError);
                Failed::Over(Reason::Protocol)
            }
        }
    }

    pub(super) fn signal(&self, endpoint: &Endpoint, signal: Signal) {
        self.worker.shared.signal(self.service, endpoint, signal, self.began_ms);
    }
}

/// Safe methods (RFC 9110 §9.2.1) whose body is none.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    request.method().is_safe() && request.body().is_empty() && !request.headers().contains_key(UPGRADE)
}
