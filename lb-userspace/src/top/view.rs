//! What two looks come to.
use std::cmp::Ordering;

use lb_common::counters::{Outcome, Reason, Traffic};

use super::{EndpointSample, Sample, ServiceSample, Sort};
use crate::maps::Occupancy;

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets from clients.
    pub packets: f64,
    /// Bytes of these, from the Ethernet header on.
    pub bytes: f64,
    /// New flows.
    pub new_flows: f64,
    /// Requests, where they are known.
    pub requests: Option<f64>,
}

/// A line about a backend service or an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a, S> {
    /// It, as it was at the later look.
    pub of: &'a S,
    /// The name of its backend service.
    pub service: &'a str,
    /// What went to it.
    pub rate: Rate,
}

/// Packets that a reason has cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drop {
    /// The reason.
    pub reason: Reason,
    /// How many in a second.
    pub rate: f64,
    /// How many since the maps were made.
    pub total: u64,
}

/// What is to be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct View<'a> {
    /// Milliseconds between the two looks.
    pub elapsed_ms: u64,
    /// The first backend services.
    pub services: Vec<Row<'a, ServiceSample>>,
    /// How many the filter lets through.
    pub services_count: usize,
    /// The first endpoints.
    pub endpoints: Vec<Row<'a, EndpointSample>>,
    /// How many the filter lets through.
    pub endpoints_count: usize,
    /// Reasons for which packets were ever dropped or refused: those of now first.
    pub drops: Vec<Drop>,
    /// Maps, the fullest first.
    pub maps: Vec<(&'static str, Occupancy)>,
    /// Why no requests are known.
    pub no_requests: Option<&'a str>,
}

impl<'a> View<'a> {
    /// From an earlier look and a later one: the first `rows_max` of backend services and of endpoints in an order, of
    /// those that have the filter's text in their name or address. What the earlier look has not began since.
    #[must_use]
    pub fn of(earlier: &Sample, later: &'a Sample, sort: Sort, filter: &str, rows_max: usize) -> Self {
        let elapsed_ms = later.at_ms.saturating_sub(earlier.at_ms);
        let services = services(earlier, later, filter, elapsed_ms);
        let endpoints = endpoints(earlier, later, filter, elapsed_ms);
        let mut maps = later.maps.clone();
        maps.sort_by_key(|(map, used)| (std::cmp::Reverse(used.percent()), *map));
        Self {
            elapsed_ms,
            services_count: services.len(),
            services: first(services, rows_max, |a, b| {
                sort.compare((&a.rate, a.service), (&b.rate, b.service)).then(a.of.id.cmp(&b.of.id))
            }),
            endpoints_count: endpoints.len(),
            endpoints: first(endpoints, rows_max, |a, b| {
                sort.compare((&a.rate, a.service), (&b.rate, b.service)).then(a.of.id.cmp(&b.of.id))
            }),
            drops: drops(earlier, later, elapsed_ms),
            maps,
            no_requests: later.no_requests.as_deref(),
        }
    }
}

fn services<'a>(
    earlier: &Sample,
    later: &'a Sample,
    filter: &str,
    elapsed_ms: u64,
) -> Vec<Row<'a, ServiceSample>> {
    let row = |now: &'a ServiceSample| {
        let then = found(&earlier.services, now.id, |then| then.id).filter(|then| then.name == now.name);
        let requests = now.requests.map(|requests| {
            // The agent counts from its start: what it told of nobody before may be of long ago.
            let before = then.and_then(|then| then.requests).unwrap_or(requests);
            a_second(requests, before, elapsed_ms)
        });
        let rate = rate(then.map(|then| &then.traffic), &now.traffic, elapsed_ms);
        Row { of: now, service: &now.name, rate: Rate { requests, ..rate } }
    };
    later.services.iter().filter(|service| service.name.contains(filter)).map(row).collect()
}

fn endpoints<'a>(
    earlier: &Sample,
    later: &'a Sample,
    filter: &str,
    elapsed_ms: u64,
) -> Vec<Row<'a, EndpointSample>> {
    let row = |now: &'a EndpointSample| {
        let service = found(&later.services, now.service, |service| service.id);
        let service = service.map_or("", |service| &service.name);
        if !service.contains(filter) && !now.address.to_string().contains(filter) {
            return None;
        }
        let then = found(&earlier.endpoints, now.id, |then| then.id);
        let then = then.filter(|then| (then.address, then.service) == (now.address, now.service));
        let rate = rate(then.map(|then| &then.traffic), &now.traffic, elapsed_ms);
        Some(Row { of: now, service, rate })
    };
    later.endpoints.iter().filter_map(row).collect()
}

/// What has an id, of some that are ordered by theirs.
fn found<S>(samples: &[S], id: u32, id_of: impl Fn(&S) -> u32) -> Option<&S> {
    samples.binary_search_by_key(&id, id_of).ok().map(|index| &samples[index])
}

/// The first of them in an order, without putting all others in it too: they may be a quarter of a million.
fn first<T>(mut rows: Vec<T>, rows_max: usize, compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if rows.len() > rows_max {
        rows.select_nth_unstable_by(rows_max, &compare);
        rows.truncate(rows_max);
    }
    rows.sort_unstable_by(compare);
    rows
}

fn rate(then: Option<&Traffic>, now: &Traffic, elapsed_ms: u64) -> Rate {
    let then = then.copied().unwrap_or_default();
    Rate {
        packets: a_second(now.packets, then.packets, elapsed_ms),
        bytes: a_second(now.bytes, then.bytes, elapsed_ms),
        new_flows: a_second(now.new_flows, then.new_flows, elapsed_ms),
        requests: None,
    }
}

/// Counters that were set back, as those of an id that was given anew, have no rate.
fn a_second(now: u64, then: u64, elapsed_ms: u64) -> f64 {
    if elapsed_ms == 0 { 0.0 } else { now.saturating_sub(then) as f64 * 1_000.0 / elapsed_ms as f64 }
}

fn drops(earlier: &Sample, later: &Sample, elapsed_ms: u64) -> Vec<Drop> {
    let is_lost = |reason: &Reason| matches!(reason.outcome(), Outcome::Drop | Outcome::Refuse);
    let lost = later.reasons.iter().filter(|(reason, total)| is_lost(reason) && *total > 0);
    let drop = |(reason, total): &(Reason, u64)| {
        let then = earlier.reasons.iter().find(|(then, _)| then == reason).map_or(0, |(_, total)| *total);
        Drop { reason: *reason, rate: a_second(*total, then, elapsed_ms), total: *total }
    };
    let mut drops: Vec<Drop> = lost.map(drop).collect();
    drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    drops
}
