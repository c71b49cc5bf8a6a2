//! One scrape: from the maps and what was observed to the text.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::{Endpoint, state};
use lb_common::maps::LAYOUT_VERSION;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::exposition::{Exposition, Samples};
use super::front_end::{self, FrontEndReading};
use super::{ENDPOINTS_TOLD_MAX, Family, Format, OTHERS, Observations, Observed, Page, families};
use crate::health::{Histogram, Probing, ProbingStats, ReasonCode};
use crate::maps::{Maps, Occupancy, StoredState};
use crate::plan::BackendServiceName;

/// The states of endpoints that are told: those of the maps, and the one that only the agent knows.
const STATES: usize = StoredState::ALL.len() + 1;
const EJECTED: usize = STATES - 1;

/// Bounds of probes' times are powers of two microseconds, where classes of [`Histogram`] end: from 256 µs …
const LEAST_BOUND: u32 = 8;
/// … to 67 s, which is longer than the longest timeout.
const GREATEST_BOUND: u32 = 26;

/// Reads the maps, for one scrape after the other.
pub struct Scraper {
    maps: Maps,
    observations: Observations,
    probing: Probing,
    backend_services_told_max: usize,
}

/// The families of traffic, and what of it each has.
type Counters<'a> = [(&'a Family, fn(&Traffic) -> u64); 3];

/// Labels of a backend service, or of all that have none of their own.
#[derive(Debug)]
pub(super) struct Name([String; 4]);

/// A backend service, or several.
#[derive(Debug)]
struct ServiceReading {
    name: Name,
    traffic: Traffic,
    endpoints: [u64; STATES],
}

/// What is on the first page.
#[derive(Debug)]
struct NodeReading {
    observed: Observed,
    probing: ProbingStats,
    reasons: Vec<(Reason, u64)>,
    occupancy: [(&'static str, Occupancy); 2],
    services_used: u64,
    in_panic: u64,
    services: Vec<ServiceReading>,
    front_end: Option<FrontEndReading>,
}

/// What is on the second one.
#[derive(Debug)]
struct EndpointsReading(Vec<(Name, String, Traffic)>);

impl Scraper {
    /// Reads by these.
    #[must_use]
    pub fn new(
        maps: Maps,
        observations: Observations,
        probing: Probing,
        backend_services_told_max: u32,
    ) -> Self {
        Self { maps, observations, probing, backend_services_told_max: backend_services_told_max as usize }
    }

    /// The text of a page as things are now.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn text(&self, page: Page, format: Format) -> Result<String> {
        let mut registry = Registry::default();
        registry.register_collector(match page {
            Page::Node => Box::new(self.node()?),
            Page::Endpoints => Box::new(self.endpoints()?),
        });
        let mut written = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut written, &registry),
            Format::Prometheus => prometheus_text::encode(&mut written, &registry),
        }
        .context("cannot write metrics as text")?;
        Ok(written)
    }

    fn node(&self) -> Result<NodeReading> {
        let observed = self.observations.lock().clone();
        let names = self.maps.backend_service_names()?;
        let traffic = self.maps.backend_services_traffic(names.len() as u32)?;
        let mut states = vec![[0; STATES]; names.len()];
        let mut panics = vec![false; names.len()];
        for (_, endpoint) in self.maps.endpoints_in_use() {
            let owner = endpoint.backend_service as usize;
            let (Some(states), Some(stored)) = (states.get_mut(owner), StoredState::of(&endpoint)) else {
                continue;
            };
            states[stored as usize] += 1;
            panics[owner] |= endpoint.state & state::PANIC != 0;
        }
        let in_use = names.into_iter().zip(traffic).zip(states);
        let in_use = in_use.filter_map(|((name, traffic), states)| Some((name?, traffic, states)));
        let services: Vec<_> = in_use.collect();
        Ok(NodeReading {
            services_used: services.len() as u64,
            services: told(services, &observed.ejected, self.backend_services_told_max),
            front_end: observed
                .front_end
                .as_ref()
                .map(|counters| FrontEndReading::of(counters, self.backend_services_told_max)),
            observed,
            probing: self.probing.stats(),
            reasons: self.maps.all_reasons()?,
            occupancy: self.maps.occupancy()?,
            in_panic: panics.iter().filter(|is_panic| **is_panic).count() as u64,
        })
    }

    fn endpoints(&self) -> Result<EndpointsReading> {
        let names = self.maps.backend_service_names()?;
        let endpoints: Vec<(u32, Endpoint)> = self.maps.endpoints_in_use().collect();
        let count = endpoints.last().map_or(0, |(id, _)| id + 1);
        let traffic = self.maps.endpoints_traffic(count)?;
        let mut all = Vec::with_capacity(endpoints.len().min(ENDPOINTS_TOLD_MAX + 1));
        let mut others: Option<Traffic> = None;
        for (id, endpoint) in endpoints {
            let Some(traffic) = traffic.get(id as usize) else { continue };
            let Some(Some(name)) = names.get(endpoint.backend_service as usize) else { continue };
            if all.len() < ENDPOINTS_TOLD_MAX {
                let socket = SocketAddr::new(endpoint.address.into(), endpoint.port.get());
                all.push((Name::of(name), socket.to_string(), *traffic));
            } else {
                add(others.get_or_insert_default(), traffic);
            }
        }
        all.extend(others.map(|traffic| (Name::others(), OTHERS.to_owned(), traffic)));
        Ok(EndpointsReading(all))
    }
}

/// The services that are told one by one, in the order of ids, and all others as one.
fn told(
    services: Vec<(Arc<BackendServiceName>, Traffic, [u64; STATES])>,
    ejected: &BTreeMap<Arc<BackendServiceName>, u32>,
    told_max: usize,
) -> Vec<ServiceReading> {
    let mut told: Vec<ServiceReading> = Vec::with_capacity(services.len().min(told_max + 1));
    let mut others: Option<ServiceReading> = None;
    for (name, traffic, mut endpoints) in services {
        // The maps know them as unhealthy.
        let unhealthy = &mut endpoints[StoredState::Unhealthy as usize];
        let count = ejected.get(&name).map_or(0, |count| u64::from(*count)).min(*unhealthy);
        *unhealthy -= count;
        endpoints[EJECTED] = count;
        if told.len() < told_max {
            told.push(ServiceReading { name: Name::of(&name), traffic, endpoints });
            continue;
        }
        let others = others.get_or_insert_with(ServiceReading::others);
        add(&mut others.traffic, &traffic);
        others.endpoints.iter_mut().zip(endpoints).for_each(|(sum, count)| *sum += count);
    }
    told.extend(others);
    told
}

fn add(sum: &mut Traffic, traffic: &Traffic) {
    sum.packets += traffic.packets;
    sum.bytes += traffic.bytes;
    sum.new_flows += traffic.new_flows;
}

impl ServiceReading {
    fn others() -> Self {
        Self { name: Name::others(), traffic: Traffic::default(), endpoints: [0; STATES] }
    }
}

impl Name {
    /// The port by its name where it has one, as in every output.
    pub(super) fn of(name: &BackendServiceName) -> Self {
        let port = if name.port_name.is_empty() { name.port.to_string() } else { name.port_name.to_string() };
        let BackendServiceName { service, protocol, .. } = name;
        Self([service.namespace.to_string(), service.name.to_string(), port, protocol.to_string()])
    }

    pub(super) fn others() -> Self {
        Self([OTHERS; 4].map(str::to_owned))
    }

    pub(super) fn values(&self) -> [&str; 4] {
        self.0.each_ref().map(String::as_str)
    }

    pub(super) fn values_and<'a>(&'a self, further: &'a str) -> [&'a str; 5] {
        let [namespace, service, port, protocol] = self.values();
        [namespace, service, port, protocol, further]
    }
}

impl Collector for NodeReading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition(encoder);
        self.agent(&mut out)?;
        self.packets_and_maps(&mut out)?;
        self.services(&mut out)?;
        self.health(&mut out)?;
        front_end::encode(self.front_end.as_ref(), &mut out)
    }
}

impl NodeReading {
    fn agent(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let observed = &self.observed;
        let layout = LAYOUT_VERSION.to_string();
        out.family(&families::BUILD, |f| f.info(&[env!("CARGO_PKG_VERSION"), &layout]))?;
        out.family(&families::START, |f| f.time(since_1970(Some(observed.started))))?;
        out.family(&families::SYNCED, |f| f.gauge(&[], observed.is_synced.into()))?;
        out.family(&families::OBJECTS, |f| gauges(f, observed.objects.iter().copied()))?;
        out.family(&families::PROBLEMS, |f| gauges(f, by_kind(&observed.problems)))?;
        out.family(&families::INTERRUPTIONS, |f| {
            by_kind(&observed.interruptions).try_for_each(|(kind, count)| f.counter(&[kind], count))
        })?;
        out.family(&families::PROGRAMMING, |f| f.buckets(&observed.programming))?;
        out.family(&families::APPLY, |f| f.buckets(&observed.apply))?;
        out.family(&families::APPLY_FAILURES, |f| f.counter(&[], observed.apply_failures))?;
        out.family(&families::LAST_APPLY, |f| f.time(since_1970(observed.last_apply)))?;
        out.family(&families::PENDING, |f| f.gauge(&[], observed.services_pending))?;
        out.family(&families::VIPS_ANNOUNCED, |f| f.gauge(&[], observed.vips_announced))?;
        out.family(&families::VIP_TAKEOVERS, |f| f.counter(&[], observed.vip_takeovers))
    }

    fn packets_and_maps(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.family(&families::PACKETS, |f| {
            let mut reasons = self.reasons.iter();
            reasons
                .try_for_each(|(reason, count)| f.counter(&[reason.outcome().name(), reason.name()], *count))
        })?;
        let maps: BTreeMap<_, _> =
            self.observed.maps.iter().map(|(map, used)| (*map, *used)).chain(self.occupancy).collect();
        out.family(&families::MAP_ENTRIES, |f| {
            gauges(f, maps.iter().map(|(map, used)| (*map, used.entries)))
        })?;
        out.family(&families::MAP_ENTRIES_MAX, |f| {
            gauges(f, maps.iter().map(|(map, used)| (*map, used.entries_max)))
        })
    }

    fn services(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.family(&families::SERVICES, |f| f.gauge(&[], self.services_used))?;
        out.family(&families::SERVICES_IN_PANIC, |f| f.gauge(&[], self.in_panic))?;
        let counters: Counters<'_> = [
            (&families::SERVICE_PACKETS, |traffic| traffic.packets),
            (&families::SERVICE_BYTES, |traffic| traffic.bytes),
            (&families::SERVICE_FLOWS, |traffic| traffic.new_flows),
        ];
        for (family, count) in counters {
            out.family(family, |f| {
                let mut services = self.services.iter();
                services.try_for_each(|service| f.counter(&service.name.values(), count(&service.traffic)))
            })?;
        }
        out.family(&families::SERVICE_ENDPOINTS, |f| {
            for service in &self.services {
                let names = StoredState::ALL.map(StoredState::name).into_iter().chain(["ejected"]);
                for (state, count) in names.zip(service.endpoints) {
                    // Rare states have no series while they are empty.
                    if count > 0 || state == StoredState::Healthy.name() {
                        f.gauge(&service.name.values_and(state), count)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn health(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let probing = &self.probing;
        out.family(&families::TARGETS, |f| f.gauge(&[], probing.targets as u64))?;
        out.family(&families::TARGETS_UNHEALTHY, |f| f.gauge(&[], probing.unhealthy as u64))?;
        out.family(&families::PROBES, |f| {
            ReasonCode::ALL.into_iter().try_for_each(|code| {
                f.counter(&[code.name()], probing.probes.get(&code).copied().unwrap_or_default())
            })
        })?;
        out.family(&families::PROBE_TIME, |f| histogram(f, &probing.latency))?;
        out.family(&families::PROBE_LATENESS, |f| histogram(f, &probing.lateness))?;
        out.family(&families::EFFECT, |f| histogram(f, &probing.effect))?;
        out.family(&families::STATE_CHANGES, |f| {
            let mut changes = self.observed.state_changes.iter();
            changes.try_for_each(|((state, reason), count)| f.counter(&[state.name(), reason.name()], *count))
        })
    }
}

impl Collector for EndpointsReading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition(encoder);
        let counters: Counters<'_> = [
            (&families::ENDPOINT_PACKETS, |traffic| traffic.packets),
            (&families::ENDPOINT_BYTES, |traffic| traffic.bytes),
            (&families::ENDPOINT_FLOWS, |traffic| traffic.new_flows),
        ];
        for (family, count) in counters {
            out.family(family, |f| {
                let mut endpoints = self.0.iter();
                endpoints.try_for_each(|(name, endpoint, traffic)| {
                    f.counter(&name.values_and(endpoint), count(traffic))
                })
            })?;
        }
        Ok(())
    }
}

fn by_kind<'a>(
    counts: &'a BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = (&'static str, u64)> + use<'a> {
    counts.iter().map(|(kind, count)| (*kind, *count))
}

fn gauges(family: &mut Samples<'_>, mut values: impl Iterator<Item = (&'static str, u64)>) -> fmt::Result {
    values.try_for_each(|(label, value)| family.gauge(&[label], value))
}

fn histogram(family: &mut Samples<'_>, times: &Histogram) -> fmt::Result {
    let mut before = 0;
    let mut buckets = Vec::new();
    for power in LEAST_BOUND..=GREATEST_BOUND {
        // The last class below a power of two ends just before it.
        let up_to = times.count_up_to(Duration::from_micros((1 << power) - 1));
        buckets.push(((1u64 << power) as f64 / 1e6, up_to - before));
        before = up_to;
    }
    buckets.push((f64::INFINITY, times.count() - before));
    family.histogram(times.sum().as_secs_f64(), &buckets)
}

fn since_1970(at: Option<SystemTime>) -> f64 {
    let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
#[path = "scrape_tests.rs"]
mod tests;
