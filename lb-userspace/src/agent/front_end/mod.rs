//! The front-end of this node: it gets URL maps, certificates and endpoints from the plan, and what requests tell of
//! endpoints goes to their health.
//!
//! What is served is replaced whole when URL maps or certificates change; when only endpoints do, their backend
//! service is replaced within it.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::StatusCode;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::attach::{HostedAddresses, Life};
use crate::health::{Signal, Target};
use crate::l7::serve::{
    Backend, Counters, FrontEnd, Listener, ListeningSockets, Plain, Route, Scheme, Settings, Site, Snapshot,
};
use crate::metrics::FrontEndCounters;
use crate::model::{ObjectName, Problem};
use crate::plan::{HTTP_PORT, HTTPS_PORT, PlainHttp, UrlMapPlan, UrlMaps, VipSource};
use crate::source::kube::WantedSecrets;

use super::planner::Planner;
use certificates::KnownCertificates;
use services::KnownServices;

mod affinity_key;
mod certificates;
mod known_secrets;
mod options;
mod services;
mod trace_options;

pub use options::FrontEndOptions;

/// What the agent has of the front-end.
pub(super) struct FrontEndLink {
    /// Taken when the first URL map is there: a node without Ingresses has no such threads.
    settings: Option<Settings>,
    drain: Duration,
    /// Whether a peer may send PROXY headers.
    has_senders: bool,
    front_end: Option<FrontEnd>,
    hosted: HostedAddresses,
    certificates: KnownCertificates,
    services: KnownServices,
    counters: BTreeMap<Arc<str>, Arc<Counters>>,
    /// The counters of all that is served.
    counted: Option<Arc<FrontEndCounters>>,
    /// Another agent's sockets, until the front-end has them.
    adopted: ListeningSockets,
    /// What is served was made of these.
    served: Option<Arc<UrlMaps>>,
    wanted_secrets: watch::Sender<WantedSecrets>,
    /// What cannot be served, and why.
    pub(super) problems: BTreeSet<Problem>,
    /// Whether something failed that may go well later.
    has_faults: bool,
    /// VIPs that this node announces on the local network, and those that another one does: whoever has one answers for it.
    announced: BTreeSet<IpAddr>,
    elsewhere: BTreeSet<IpAddr>,
    /// Whether these have changed.
    is_moved: bool,
}

impl FrontEndLink {
    /// # Errors
    /// The key of affinity cookies or the log cannot be opened, or the interfaces' addresses not be read.
    pub(super) fn new(
        options: &FrontEndOptions,
        run_dir: &std::path::Path,
        node_name: &str,
        wanted_secrets: watch::Sender<WantedSecrets>,
    ) -> Result<Self> {
        Ok(Self {
            settings: Some(options.settings(run_dir, node_name)?),
            drain: Duration::from_secs(options.front_end_drain_seconds.into()),
            has_senders: !options.proxy_protocol_from.is_empty(),
            front_end: None,
            hosted: HostedAddresses::find().context("cannot read the addresses of the loopback interface")?,
            certificates: KnownCertificates::default(),
            services: KnownServices::default(),
            counters: BTreeMap::new(),
            counted: None,
            adopted: ListeningSockets::new(),
            served: None,
            wanted_secrets,
            problems: BTreeSet::new(),
            has_faults: false,
            announced: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            is_moved: false,
        })
    }

    /// Takes these VIPs and leaves those to other nodes, from the next [`FrontEndLink::follow`] on.
    pub(super) fn share_vips(&mut self, announced: BTreeSet<IpAddr>, elsewhere: BTreeSet<IpAddr>) {
        self.is_moved |= self.elsewhere != elsewhere || self.announced != announced;
        (self.announced, self.elsewhere) = (announced, elsewhere);
    }

    /// Keeps the VIPs that are this node's while its agent lives. To be called every second.
    pub(super) fn renew_vips(&self) {
        for (vip, error) in self.hosted.renew() {
            warn!(%vip, %error, "cannot keep a VIP as an address of the loopback interface; trying again");
        }
    }

    /// Takes over another agent's sockets.
    pub(super) fn adopt(&mut self, sockets: ListeningSockets) {
        self.adopted = sockets;
    }

    /// Goes on with a front-end that serves already.
    pub(super) fn resume(&mut self, front_end: FrontEnd) {
        self.settings = None;
        self.front_end = Some(front_end);
    }

    /// Whether all adopted sockets are served that the URL maps ask for.
    pub(super) fn has_taken_over(&self) -> bool {
        let Some(url_maps) = &self.served else { return false };
        let is_wanted = |place: &SocketAddr| {
            url_maps.maps().iter().any(|map| {
                let has_port = match place.port() {
                    HTTP_PORT => map.has_http,
                    _ => map.has_https,
                };
                has_port && map.vips.iter().any(|(vip, _)| *vip == place.ip())
            })
        };
        self.front_end.as_ref().is_none_or(|front_end| !front_end.adopted().iter().any(is_wanted))
    }

    /// Whether anything is served.
    pub(super) fn has_begun(&self) -> bool {
        self.served.is_some()
    }

    /// Closes adopted sockets that nothing was to be served at.
    pub(super) fn close_adopted(&mut self) {
        self.adopted.clear();
        if let Some(front_end) = &self.front_end {
            front_end.close_adopted();
        }
    }

    /// The front-end as it serves, for whoever goes on with it.
    pub(super) fn release(self) -> Option<FrontEnd> {
        self.front_end
    }

    /// Brings the front-end to the plan, of which the part of these Services has changed.
    pub(super) fn follow(&mut self, planner: &Planner, changed: &BTreeSet<ObjectName>) {
        let url_maps = planner.desired.url_maps();
        self.services.update(&planner.desired, changed);
        let are_maps_new = self.served.as_ref().is_none_or(|served| !Arc::ptr_eq(served, url_maps));
        let are_certificates_new = self.certificates.follow(url_maps, planner.secrets());
        if !are_maps_new && !are_certificates_new && !self.has_faults && !std::mem::take(&mut self.is_moved) {
            return;
        }
        let names = url_maps.secrets();
        self.wanted_secrets.send_if_modified(|wanted| {
            let is_change = *wanted != names;
            *wanted = names;
            is_change
        });
        if url_maps.maps().is_empty() && self.front_end.is_none() {
            self.host(&BTreeMap::new(), url_maps);
            self.served = Some(Arc::clone(url_maps));
            return;
        }
        if let Err(error) = self.start() {
            warn!(error = format!("{error:#}"), "no Ingress is served; trying again with the next change");
            self.has_faults = true;
            return;
        }
        self.serve(planner, url_maps);
        self.served = Some(Arc::clone(url_maps));
    }

    fn start(&mut self) -> Result<()> {
        if let Some(settings) = self.settings.take() {
            let front_end = FrontEnd::start(settings).context("cannot start the front-end's threads")?;
            front_end.adopt(std::mem::take(&mut self.adopted));
            self.front_end = Some(front_end);
            info!("front-end started");
        }
        self.front_end.as_ref().map(drop).context("the front-end could not be started")
    }

    /// Puts all that the URL maps ask for in the place of what is served.
    fn serve(&mut self, planner: &Planner, url_maps: &Arc<UrlMaps>) {
        self.problems = self.certificates.problems();
        self.has_faults = false;
        self.is_moved = false;
        let life = |vip: &IpAddr| match self.announced.contains(vip) {
            true => Life::Fleeting,
            false => Life::Lasting,
        };
        let hosted: BTreeMap<IpAddr, Life> = url_maps
            .maps()
            .iter()
            .flat_map(|map| &map.vips)
            .filter(|(vip, source)| *source != VipSource::Node && !planner.addresses().contains(vip))
            .filter(|(vip, _)| !self.elsewhere.contains(vip))
            .map(|(vip, _)| (*vip, life(vip)))
            .collect();
        self.host(&hosted, url_maps);
        self.services.keep(&planner.desired, url_maps);
        let listeners: HashMap<SocketAddr, Listener> =
            url_maps.maps().iter().flat_map(|map| self.listeners(map)).collect();
        let snapshot = Arc::new(Snapshot { listeners });
        let Some(front_end) = &self.front_end else { return };
        for fault in front_end.swap(snapshot) {
            self.has_faults = true;
            let address = fault.address.ip();
            self.problems.extend(problem_at(url_maps, address, fault.to_string()));
        }
        for map in url_maps.maps() {
            let message = |host| {
                format!(
                    "no certificate of its has the name {host}: clients get another one; correct spec.tls or the Secret"
                )
            };
            let object = map.ingresses.first().map(|origin| origin.object.clone());
            let problems = self.certificates.uncovered(map).into_iter().zip(object.into_iter().cycle());
            self.problems.extend(problems.map(|(host, object)| Problem {
                kind: "Ingress",
                object,
                message: message(host),
            }));
        }
        let unreached =
            url_maps.maps().iter().filter(|map| map.proxy_protocol.is_some() && !self.has_senders);
        let object = |map: &Arc<UrlMapPlan>| Some(map.ingresses.first()?.object.clone());
        self.problems.extend(unreached.filter_map(object).map(|object| Problem {
            kind: "Ingress",
            object,
            message: "takes no connection: podway.io/proxy-protocol wants a PROXY header, and no peer may send one; give \
                      --proxy-protocol-from"
                .to_owned(),
        }));
        let names: BTreeSet<&str> = url_maps.maps().iter().map(|map| &*map.name).collect();
        self.counters.retain(|name, _| names.contains(&**name));
        self.counted = self.front_end.as_ref().map(|front_end| {
            let url_maps = self.counters.iter().map(|(name, of)| (Arc::clone(name), Arc::clone(of)));
            let (totals, backend_services) = (front_end.totals(), self.services.counters());
            Arc::new(FrontEndCounters { totals, url_maps: url_maps.collect(), backend_services })
        });
    }

    /// What is counted of requests, once there is a front-end.
    pub(super) fn counted(&self) -> Option<Arc<FrontEndCounters>> {
        self.counted.clone()
    }

    fn host(&mut self, addresses: &BTreeMap<IpAddr, Life>, url_maps: &UrlMaps) {
        for (address, error) in self.hosted.set(addresses) {
            self.has_faults = true;
            let message = format!(
                "cannot make VIP {address} an address of the loopback interface: {error}; the agent needs CAP_NET_ADMIN"
            );
            self.problems.extend(problem_at(url_maps, address, message));
        }
    }

    /// What a URL map has at each of its VIPs.
    fn listeners(&mut self, map: &UrlMapPlan) -> Vec<(SocketAddr, Listener)> {
        let counters = Arc::clone(self.counters.entry(Arc::clone(&map.name)).or_default());
        let url_map = map.map.convert(|target| {
            let backend = match &target.backend {
                Ok(name) => self.services.slot(name).map(Backend::To),
                Err(reason) => Some(Backend::Missing(reason.to_string().into())),
            };
            let plain = match target.plain_http {
                PlainHttp::Served => Plain::Served,
                PlainHttp::Refused => Plain::Refused,
                PlainHttp::Redirected(code) => {
                    Plain::Redirected(StatusCode::from_u16(code).unwrap_or(StatusCode::MOVED_PERMANENTLY))
                }
            };
            let missing = || Backend::Missing("the backend service is not planned".into());
            Route { backend: backend.unwrap_or_else(missing), plain }
        });
        let site = Arc::new(Site { name: Arc::clone(&map.name), url_map, counters });
        let certificates = match map.has_https {
            true => self.certificates.of(map),
            false => None,
        };
        let mut listeners = Vec::new();
        for (vip, _) in map.vips.iter().filter(|(vip, _)| !self.elsewhere.contains(vip)) {
            if map.has_http {
                let listener =
                    Listener { scheme: Scheme::Http, proxied: map.proxy_protocol, site: Arc::clone(&site) };
                listeners.push((SocketAddr::new(*vip, HTTP_PORT), listener));
            }
            if let Some(certificates) = &certificates {
                let scheme = Scheme::Https(Arc::clone(certificates));
                let listener = Listener { scheme, proxied: map.proxy_protocol, site: Arc::clone(&site) };
                listeners.push((SocketAddr::new(*vip, HTTPS_PORT), listener));
            }
        }
        listeners
    }

    /// Sends no more requests to an endpoint that was found unhealthy: the plan follows.
    pub(super) fn take_out(&self, target: &Target) {
        self.services.take_out(target);
    }

    /// What requests told of endpoints since the last call, and when each began.
    pub(super) fn signals(&self) -> Vec<(Target, Signal, u64)> {
        let Some(front_end) = &self.front_end else { return Vec::new() };
        let signals = front_end.signals().into_iter().filter_map(|told| {
            let target = self.services.target(&told.backend_service, told.endpoint)?;
            // Answers since the failure before: one is as good as many to a row of failures.
            let answered = (told.answered > 0 && told.signal.is_failure())
                .then(|| (target.clone(), Signal::Answered, told.began_ms));
            Some(answered.into_iter().chain([(target, told.signal, told.began_ms)]))
        });
        signals.flatten().collect()
    }

    /// Whether something is to be tried again, or told since time has passed.
    pub(super) fn has_faults(&self) -> bool {
        self.has_faults || self.certificates.are_remarks_due()
    }

    /// Lets the requests that have begun end. The VIPs' addresses stay, for the agent that follows.
    pub(super) async fn stop(self) {
        let Some(front_end) = self.front_end else { return };
        let drain = self.drain;
        let cut = tokio::task::spawn_blocking(move || front_end.stop(drain)).await.unwrap_or(0);
        info!(cut, "front-end stopped");
    }
}

/// Takes away what a front-end leaves on a node: the VIPs' addresses, and the key of affinity cookies.
///
/// # Errors
/// The addresses cannot be read, or the file not be removed.
pub(super) fn remove(run_dir: &std::path::Path) -> Result<()> {
    let cannot = "cannot read the addresses of the loopback interface";
    if let Some((address, error)) = HostedAddresses::find().context(cannot)?.set(&BTreeMap::new()).pop() {
        return Err(error).with_context(|| format!("cannot take VIP {address} from the loopback interface"));
    }
    affinity_key::remove(run_dir)
}

/// The problem of the oldest Ingress that answers on a VIP.
fn problem_at(url_maps: &UrlMaps, vip: IpAddr, message: String) -> Option<Problem> {
    let map = url_maps.maps().iter().find(|map| map.vips.iter().any(|(address, _)| *address == vip))?;
    Some(Problem { kind: "Ingress", object: map.ingresses.first()?.object.clone(), message })
}
