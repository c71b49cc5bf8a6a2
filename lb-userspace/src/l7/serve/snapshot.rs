//! What is served: a value that is replaced whole.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;

use super::certificate::Certificates;
use super::counters::Counters;
use super::custom_header::CustomHeader;
use crate::l7::url_map::UrlMap;
use crate::model::{ProxyVersion, ProxyVersions};

/// Time that a request may take where its backend service says nothing (`timeoutSec` of a Google backend service).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of this front-end that one endpoint has at a time; further ones go to others, and are refused (503) where
/// all have as many.
pub const IN_FLIGHT_MAX: u32 = 10_000;

/// All that a front-end serves.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By the address that is listened on: port 0 is any free port, told by
    /// [`FrontEnd::addresses`](super::FrontEnd::addresses).
    pub listeners: HashMap<SocketAddr, Listener>,
}

/// What is served at one address.
#[derive(Clone, Debug)]
pub struct Listener {
    /// How clients speak.
    pub scheme: Scheme,
    /// The PROXY headers with which their connections begin; none where they do not.
    pub proxied: Option<ProxyVersions>,
    /// Where their requests go.
    pub site: Arc<Site>,
}

/// How clients speak.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// HTTP/1 in the clear.
    Http,
    /// HTTP/1 or HTTP/2 over TLS, as ALPN comes out.
    Https(Arc<Certificates>),
}

/// A URL map, and how its requests came out.
#[derive(Debug)]
pub struct Site {
    /// The URL map's name.
    pub name: Arc<str>,
    /// Where requests go.
    pub url_map: UrlMap<Route>,
    /// How requests came out.
    pub counters: Arc<Counters>,
}

/// What becomes of a request over plain HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plain {
    /// It is served.
    #[default]
    Served,
    /// The client is sent to the same URL over HTTPS, on port 443, with this code.
    Redirected(StatusCode),
    /// It is answered as if no rule were for it.
    Refused,
}

/// What a rule of a URL map leads to.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where its requests go.
    pub backend: Backend,
    /// What becomes of those over plain HTTP.
    pub plain: Plain,
}

impl Route {
    /// To a backend service, over plain HTTP too.
    #[must_use]
    pub fn to(service: BackendService) -> Self {
        Self { backend: Backend::To(Arc::new(Slot::new(service))), plain: Plain::Served }
    }

    /// To nothing: the text says what is not there.
    #[must_use]
    pub fn missing(reason: &str) -> Self {
        Self { backend: Backend::Missing(reason.into()), plain: Plain::Served }
    }
}

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Backend {
    /// To a backend service.
    To(Arc<Slot>),
    /// Nowhere: the rule names what is not there; the text says what. Answered with 404.
    Missing(Arc<str>),
}

/// A backend service's place in URL maps. What is in it is replaced when endpoints come and go: that costs nothing of
/// what large URL maps cost.
#[derive(Debug)]
pub struct Slot(ArcSwap<BackendService>);

impl Slot {
    /// With a backend service in it.
    #[must_use]
    pub fn new(service: BackendService) -> Self {
        Self(ArcSwap::from_pointee(service))
    }

    /// The backend service that is in it now.
    #[must_use]
    pub fn load(&self) -> Arc<BackendService> {
        self.0.load_full()
    }

    /// Puts another one in; requests that have begun keep the one before.
    pub fn store(&self, service: BackendService) {
        self.0.store(Arc::new(service));
    }
}

/// How an endpoint is spoken to. Its certificate is not verified, as a Google load balancer does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP/2 in the clear, by prior knowledge (RFC 9113 §3.3).
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS.
    Http2,
}

/// Which requests stay with one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// None.
    None,
    /// Those of one client's address.
    ClientIp,
    /// Those that carry the cookie which the first of them got. A time of zero is the browser's session.
    Cookie(Duration),
}

/// One Service port with its policies.
#[derive(Debug)]
pub struct BackendService {
    /// Its name, for logs and signals.
    pub name: Arc<str>,
    /// The endpoints that requests may go to.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How they are spoken to.
    pub protocol: Protocol,
    /// The PROXY header with which connections to them begin; each then serves one client's connection.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Time for a request, from its head to the answer's last byte.
    pub request_timeout: Duration,
    /// Which requests stay together.
    pub affinity: Affinity,
    /// See [`IN_FLIGHT_MAX`].
    pub in_flight_max: u32,
    /// Fields that every request gets.
    pub request_headers: Vec<CustomHeader>,
    /// Fields that every answer gets.
    pub response_headers: Vec<CustomHeader>,
    /// Lines of the access log for a million requests.
    pub log_per_million: u32,
    /// How requests came out.
    pub counters: Arc<Counters>,
}

impl BackendService {
    /// One with the defaults, over HTTP/1.1.
    #[must_use]
    pub fn new(name: &str, endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self {
            name: name.into(),
            endpoints,
            protocol: Protocol::Http,
            proxy_protocol: None,
            request_timeout: REQUEST_TIMEOUT,
            affinity: Affinity::None,
            in_flight_max: IN_FLIGHT_MAX,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            log_per_million: 0,
            counters: Arc::default(),
        }
    }
}

/// One pod IP and port, the same value in all snapshots that have it: its weight takes effect at once, and its requests
/// stay counted.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    weight: AtomicU16,
    in_flight: AtomicU32,
    /// Answers since the last signal.
    answered: AtomicU32,
    has_failed: AtomicBool,
}

impl Endpoint {
    /// One without a request.
    #[must_use]
    pub fn new(address: SocketAddr, weight: u16) -> Self {
        Self {
            address,
            weight: AtomicU16::new(weight),
            in_flight: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Its share of requests among those of its backend service; 0 takes it out.
    pub fn set_weight(&self, weight: u16) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// See [`set_weight`](Self::set_weight).
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Requests that it has now from all threads of this front-end.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an answer without a fault; how many there are to tell where the one before was a failure.
    pub(super) fn note_answer(&self) -> Option<u32> {
        self.answered.fetch_add(1, Ordering::Relaxed);
        // Reading first keeps the line of memory shared between cores.
        let is_turn =
            self.has_failed.load(Ordering::Relaxed) && self.has_failed.swap(false, Ordering::Relaxed);
        is_turn.then(|| self.answered.swap(0, Ordering::Relaxed))
    }

    /// Counts a failure; the answers since the last signal.
    pub(super) fn note_failure(&self) -> u32 {
        self.has_failed.store(true, Ordering::Relaxed);
        self.answered.swap(0, Ordering::Relaxed)
    }
}

/// A request that an endpoint has, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
