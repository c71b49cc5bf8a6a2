//! What the front-end counts, as metrics.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::exposition::Exposition;
use super::scrape::Name;
use super::{Family, OTHERS, families};
use crate::admin::ServiceRequests;
use crate::l7::serve::{Counters, Totals};
use crate::plan::BackendServiceName;

/// Classes of codes, as labels.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A family, and what of a reading it has.
type Counted = (&'static Family, fn(&Reading) -> u64);

/// The counters of a front-end, by what they are of.
#[derive(Debug, Default)]
pub struct FrontEndCounters {
    /// Of the front-end as a whole.
    pub totals: Arc<Totals>,
    /// Of each URL map.
    pub url_maps: Vec<(Arc<str>, Arc<Counters>)>,
    /// Of each backend service that a URL map leads to.
    pub backend_services: Vec<(Arc<BackendServiceName>, Arc<Counters>)>,
}

impl FrontEndCounters {
    pub(super) fn requests(&self) -> Vec<ServiceRequests> {
        let services = self.backend_services.iter().map(|(name, counters)| ServiceRequests {
            backend_service: name.to_string(),
            requests: counters.classes().iter().sum(),
        });
        services.collect()
    }
}

/// What they are at one time.
#[derive(Debug)]
pub(super) struct FrontEndReading {
    totals: Arc<Totals>,
    url_maps: Vec<(String, Reading)>,
    backend_services: Vec<(Name, Reading)>,
}

#[derive(Debug, Default)]
struct Reading {
    classes: [u64; 5],
    retries: u64,
    connects_failed: u64,
    tunnels: u64,
    answer_bytes: u64,
    sum_s: f64,
    durations: Vec<(f64, u64)>,
}

impl FrontEndReading {
    /// The first `told_max` of URL maps and of backend services one by one, and all others as one.
    pub(super) fn of(counters: &FrontEndCounters, told_max: usize) -> Self {
        let url_maps = counters.url_maps.iter().map(|(name, counters)| (name.to_string(), counters));
        let services = counters.backend_services.iter().map(|(name, counters)| (Name::of(name), counters));
        Self {
            totals: Arc::clone(&counters.totals),
            url_maps: told(url_maps, told_max, || OTHERS.to_owned()),
            backend_services: told(services, told_max, Name::others),
        }
    }
}

fn told<'a, N>(
    all: impl Iterator<Item = (N, &'a Arc<Counters>)>,
    told_max: usize,
    others: impl Fn() -> N,
) -> Vec<(N, Reading)> {
    let mut told: Vec<(N, Reading)> = Vec::new();
    for (name, counters) in all {
        let reading = Reading::of(counters);
        if told.len() < told_max {
            told.push((name, reading));
        } else if told.len() == told_max {
            told.push((others(), reading));
        } else if let Some((_, sum)) = told.last_mut() {
            sum.add(&reading);
        }
    }
    told
}

impl Reading {
    fn of(counters: &Counters) -> Self {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            classes: counters.classes(),
            retries: now(&counters.retries),
            connects_failed: now(&counters.connects_failed),
            tunnels: now(&counters.tunnels),
            answer_bytes: now(&counters.answer_bytes),
            sum_s: counters.durations.sum().as_secs_f64(),
            durations: counters.durations.classes().collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(sum, count)| *sum += count);
        self.retries += other.retries;
        self.connects_failed += other.connects_failed;
        self.tunnels += other.tunnels;
        self.answer_bytes += other.answer_bytes;
        self.sum_s += other.sum_s;
        self.durations.iter_mut().zip(&other.durations).for_each(|((_, sum), (_, count))| *sum += count);
    }

    /// Classes of codes with their counts, without those that there are none of.
    fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.classes).filter(|(_, count)| *count > 0)
    }
}

/// Writes the families; without a front-end they have no samples.
pub(super) fn encode(reading: Option<&FrontEndReading>, out: &mut Exposition<'_>) -> fmt::Result {
    totals(reading, out)?;
    let url_maps = || reading.iter().flat_map(|reading| &reading.url_maps);
    let services = || reading.iter().flat_map(|reading| &reading.backend_services);
    out.family(&families::URL_MAP_REQUESTS, |f| {
        let classes = |(name, of): &'_ (String, Reading)| {
            of.classes().map(|(class, count)| (name.clone(), class, count)).collect::<Vec<_>>()
        };
        url_maps().flat_map(classes).try_for_each(|(name, class, count)| f.counter(&[&name, class], count))
    })?;
    out.family(&families::SERVICE_REQUESTS, |f| {
        services().try_for_each(|(name, of)| {
            of.classes().try_for_each(|(class, count)| f.counter(&name.values_and(class), count))
        })
    })?;
    out.family(&families::SERVICE_REQUEST_TIME, |f| {
        services().try_for_each(|(name, of)| f.histogram_of(&name.values(), of.sum_s, &of.durations))
    })?;
    let counters: [Counted; 4] = [
        (&families::SERVICE_RETRIES, |of| of.retries),
        (&families::SERVICE_CONNECT_FAILURES, |of| of.connects_failed),
        (&families::SERVICE_UPGRADES, |of| of.tunnels),
        (&families::SERVICE_ANSWER_BYTES, |of| of.answer_bytes),
    ];
    for (family, count) in counters {
        out.family(family, |f| services().try_for_each(|(name, of)| f.counter(&name.values(), count(of))))?;
    }
    Ok(())
}

fn totals(reading: Option<&FrontEndReading>, out: &mut Exposition<'_>) -> fmt::Result {
    let totals = reading.map(|reading| &*reading.totals);
    let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.family(&families::FRONT_END_CONNECTIONS, |f| {
        let Some(totals) = totals else { return Ok(()) };
        let parked = now(&totals.parked);
        f.gauge(&["active"], now(&totals.connections).saturating_sub(parked))?;
        f.gauge(&["parked"], parked)
    })?;
    out.family(&families::FRONT_END_REFUSALS, |f| {
        let Some(totals) = totals else { return Ok(()) };
        let refusals = [
            ("connections", &totals.connections_refused),
            ("connections-of-client", &totals.client_connections_refused),
            ("handshake", &totals.handshakes_failed),
            ("bytes", &totals.bytes_refused),
            ("resets", &totals.resets_refused),
        ];
        refusals.into_iter().try_for_each(|(reason, counter)| f.counter(&[reason], now(counter)))
    })?;
    out.family(&families::FRONT_END_DROPS, |f| {
        let Some(totals) = totals else { return Ok(()) };
        f.counter(&["signals"], now(&totals.signals_dropped))?;
        f.counter(&["log-lines"], now(&totals.log_lines_dropped))
    })?;
    out.family(&families::FRONT_END_SPANS, |f| {
        let Some(totals) = totals else { return Ok(()) };
        f.counter(&["sent"], now(&totals.spans_sent))?;
        f.counter(&["dropped"], now(&totals.spans_dropped))?;
        f.counter(&["refused"], now(&totals.spans_refused))
    })
}
