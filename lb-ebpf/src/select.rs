//! The choice of an endpoint for a new flow.
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::counters::Reason;
use lb_common::endpoint;
use lb_common::neg::{NegKind, Ring};
use lb_common::{Address, flow_hash};

use crate::tables::Tables;

/// Points of the ring that are tried for a healthy endpoint. With half of the endpoints down, one
/// flow in 256 finds none and is served as in a panic; the next ring has no endpoint that is down.
pub const ATTEMPTS_MAX: u32 = 8;

/// Chooses an endpoint id from a NEG for a client of its backend service; `None` where the NEG has no
/// endpoint.
#[inline(never)]
pub fn choose<T: Tables>(tables: &mut T, neg: u32, client: &Address, hash: u32) -> Option<u32> {
    let (backend_service, _) = NegKind::of_id(neg);
    let timeout_s = tables.backend_service(backend_service).and_then(|service| service.affinity_timeout_s());
    let Some(timeout_s) = timeout_s else {
        return from_ring(tables, neg, hash);
    };
    let key = AffinityKey { client: *client, backend_service, padding: 0 };
    let now_s = tables.now_s();
    let (id, endpoint_generation) = match kept(tables, &key, neg, now_s, timeout_s) {
        Some(affinity) => (affinity.endpoint, affinity.endpoint_generation),
        None => {
            let id = from_ring(tables, neg, hash)?;
            (id, tables.endpoint(id)?.generation)
        }
    };
    let affinity = Affinity { endpoint: id, endpoint_generation, last_used_s: now_s, padding: 0 };
    tables.put_affinity(&key, &affinity);
    Some(id)
}

/// The affinity that the client has, while it may keep it.
#[inline(always)]
fn kept<T: Tables>(
    tables: &mut T,
    key: &AffinityKey,
    neg: u32,
    now_s: u32,
    timeout_s: u32,
) -> Option<Affinity> {
    let affinity = tables.affinity(key)?;
    let endpoint = tables.endpoint(affinity.endpoint)?;
    let (_, kind) = NegKind::of_id(neg);
    let is_local_only = matches!(kind, NegKind::LocalV4 | NegKind::LocalV6);
    let holds = now_s.saturating_sub(affinity.last_used_s) <= timeout_s
        && endpoint.generation == affinity.endpoint_generation
        && endpoint.takes_new_flows()
        && endpoint.state & endpoint::state::DRAINING == 0
        && (endpoint.is_local() || !is_local_only);
    holds.then_some(affinity)
}

/// The endpoint at the hash's point of the ring; where that one takes no new flows, at further points
/// that follow from the same hash. Where none of them does, the first that is there at all: refusing
/// everybody is worse than trying. One that warms up takes a part of its flows and leaves the others to the
/// further points.
#[inline(always)]
fn from_ring<T: Tables>(tables: &mut T, neg: u32, hash: u32) -> Option<u32> {
    let ring: Ring = tables.ring(neg)?;
    let mut point = hash;
    let mut fallback = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let id = tables.ring_slot(ring.slot(point)?)?;
        let endpoint = tables.endpoint(id)?;
        if endpoint.takes_new_flows() && !endpoint.turns_away(point) {
            if endpoint.state & endpoint::state::PANIC != 0 {
                tables.count(Reason::NotePanic);
            }
            return Some(id);
        }
        if fallback.is_none() && endpoint.is_named() {
            fallback = Some(id);
        }
        point = flow_hash::again(hash, attempt);
    }
    let id = fallback?;
    if !tables.endpoint(id)?.takes_new_flows() {
        tables.count(Reason::NotePanic);
    }
    Some(id)
}
