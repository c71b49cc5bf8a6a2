//! Which endpoint a request goes to. Pure.
use std::sync::Arc;

use super::snapshot::{BackendService, Endpoint};

/// Draws for each of the two candidates before all endpoints are looked at: with few endpoints out, one or two do.
const DRAWS_MAX: usize = 8;

/// The better of two endpoints drawn at random: the one with fewer requests for its weight (Mitzenmacher 2001, "The
/// power of two choices"). None where all are out, full or among those `tried` before. `draw` gives a number below its
/// argument.
pub(super) fn choose<'a>(
    service: &'a BackendService,
    tried: &[Arc<Endpoint>],
    mut draw: impl FnMut(usize) -> usize,
) -> Option<&'a Arc<Endpoint>> {
    let endpoints = &service.endpoints;
    let may = |endpoint: &Arc<Endpoint>| is_open(service, endpoint) && !is_among(tried, endpoint);
    if endpoints.is_empty() {
        return None;
    }
    let mut candidate = |other: Option<&Arc<Endpoint>>| {
        (0..DRAWS_MAX).find_map(|_| {
            let drawn = &endpoints[draw(endpoints.len())];
            let is_other = other.is_none_or(|other| !Arc::ptr_eq(other, drawn));
            (is_other && may(drawn)).then_some(drawn)
        })
    };
    let first = candidate(None);
    let second = first.and_then(|first| candidate(Some(first)));
    match (first, second) {
        (Some(first), Some(second)) => Some(if is_lighter(second, first) { second } else { first }),
        (Some(first), None) => Some(first),
        _ => {
            let start = draw(endpoints.len());
            let (before, after) = endpoints.split_at(start);
            after.iter().chain(before).find(|endpoint| may(endpoint))
        }
    }
}

/// Whether an endpoint takes requests, and has room for one.
pub(super) fn is_open(service: &BackendService, endpoint: &Endpoint) -> bool {
    endpoint.weight() > 0 && endpoint.in_flight() < service.in_flight_max
}

fn is_among(endpoints: &[Arc<Endpoint>], endpoint: &Endpoint) -> bool {
    endpoints.iter().any(|other| other.address == endpoint.address)
}

/// Whether one more request weighs less on `a` than on `b`: requests / weight, without the division.
fn is_lighter(a: &Endpoint, b: &Endpoint) -> bool {
    let cost =
        |one: &Endpoint, other: &Endpoint| (u64::from(one.in_flight()) + 1) * u64::from(other.weight());
    cost(a, b) < cost(b, a)
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
