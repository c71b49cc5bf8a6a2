//! Podway's side of the comparison: what its tables do with the first packet of a flow.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::backend_service::BackendService;
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{Frontend, flags};
use lb_common::source_range::SourceRangeKey;

use super::{Frontends, Handling, Outcome, Place, Range};
use crate::diff::Tables;
use crate::model::Protocol;

/// The frontends of the tables: those of a live node, or those that a plan would fill.
#[must_use]
pub fn frontends(tables: &Tables) -> Frontends {
    let mut frontends = Frontends::new();
    for (key, frontend) in tables.frontends() {
        let number = u8::try_from(key.protocol).ok();
        let Some(protocol) = number.and_then(Protocol::of_number) else { continue };
        let place = Place { address: key.address.into(), port: key.port.get(), protocol };
        frontends.insert(place, handling(tables, frontend, place.address.is_ipv4()));
    }
    frontends
}

fn handling(tables: &Tables, frontend: &Frontend, is_v4: bool) -> Handling {
    let id = frontend.backend_service;
    let outcome = |neg: u32, drops: u32| {
        let endpoints = candidates(tables, neg);
        match (endpoints.is_empty(), frontend.flags & drops != 0) {
            (false, _) => Outcome::OneOf(endpoints),
            (true, true) => Outcome::Drop,
            (true, false) => Outcome::Refuse,
        }
    };
    Handling {
        service: tables.name(id).map(|name| name.name.service.clone()),
        internal: outcome(frontend.neg_internal, flags::INTERNAL_EMPTY_DROPS),
        external: outcome(frontend.neg_external, flags::EXTERNAL_EMPTY_DROPS),
        affinity_timeout_s: tables.backend_service(id).and_then(BackendService::affinity_timeout_s),
        source_ranges: (frontend.flags & flags::CHECK_SOURCE != 0).then(|| source_ranges(tables, id, is_v4)),
    }
}

/// The ranges of one family: no client comes to a VIP from the other one.
fn source_ranges(tables: &Tables, id: u32, is_v4: bool) -> BTreeSet<Range> {
    let ranges = tables.source_ranges_of(id).iter().map(SourceRangeKey::range);
    let ranges = ranges.map(|(network, bits)| (IpAddr::from(network), bits as u8));
    ranges.filter(|(network, _)| network.is_ipv4() == is_v4).collect()
}

/// The members of the ring that take new flows; where none does, all that are there.
fn candidates(tables: &Tables, neg: u32) -> BTreeSet<SocketAddr> {
    let slots = tables.slots(tables.neg(neg)).unwrap_or_default();
    let ids: BTreeSet<u32> = slots.iter().copied().collect();
    let present: Vec<_> =
        ids.into_iter().map(|id| tables.endpoint(id)).filter(Endpoint::is_present).collect();
    let has_healthy = present.iter().any(Endpoint::takes_new_flows);
    let usable = present.iter().filter(|endpoint| !has_healthy || endpoint.takes_new_flows());
    usable.map(|endpoint| SocketAddr::new(endpoint.address.into(), endpoint.port.get())).collect()
}
