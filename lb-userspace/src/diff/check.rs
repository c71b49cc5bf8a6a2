//! What must hold in the tables at every moment.
use std::collections::BTreeMap;
use std::fmt;

use lb_common::Address;
use lb_common::frontend::FrontendKey;
use lb_common::neg::{NegKind, Ring};
use serde::{Serialize, Serializer};

use crate::plan::{frontend_key_text, neg_kind_name};

use super::Tables;
use super::vips::needs_entry;

/// Something that refers to what is not there, or two that share what is one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The frontend's backend service is not in use.
    FrontendDangles {
        /// The frontend.
        frontend: FrontendKey,
        /// The backend service's id.
        backend_service: u32,
    },
    /// The frontend uses a NEG of another backend service or family.
    FrontendUsesStrangeNeg {
        /// The frontend.
        frontend: FrontendKey,
        /// The NEG's id.
        neg: u32,
    },
    /// The frontend's VIP has no entry of its own.
    VipMissing {
        /// The frontend.
        frontend: FrontendKey,
    },
    /// A source range belongs to a backend service that is not in use.
    SourceRangeDangles {
        /// The backend service's id.
        backend_service: u32,
    },
    /// A backend service has no readable name, so no agent finds it again.
    NameMissing {
        /// The backend service's id.
        backend_service: u32,
    },
    /// Two backend services have one name.
    NameTwice {
        /// The backend service that has it too.
        backend_service: u32,
        /// The backend service that is found by the name.
        first: u32,
    },
    /// The NEG's ring lies outside of the arena, or is none that a diff writes.
    RingOutside {
        /// The NEG's id.
        neg: u32,
        /// Its ring.
        ring: Ring,
    },
    /// Two NEGs' rings share slots.
    RingsOverlap {
        /// The NEG whose ring starts first.
        neg: u32,
        /// The other one.
        other: u32,
    },
    /// A slot of the ring names an endpoint id that is not in use.
    SlotDangles {
        /// The NEG's id.
        neg: u32,
        /// The endpoint's id.
        endpoint: u32,
    },
    /// A slot of the ring names an endpoint of another backend service or family.
    SlotNamesStranger {
        /// The NEG's id.
        neg: u32,
        /// The endpoint's id.
        endpoint: u32,
    },
    /// A slot of the ring names an endpoint that takes no new flows for good.
    SlotNamesWithdrawn {
        /// The NEG's id.
        neg: u32,
        /// The endpoint's id.
        endpoint: u32,
    },
    /// Two endpoints of one backend service have one address and port.
    EndpointTwice {
        /// The endpoint's id.
        endpoint: u32,
        /// The other's id.
        other: u32,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrontendDangles { frontend, backend_service } => write!(
                f,
                "frontend {} leads to backend service {backend_service}, which is not in use",
                frontend_key_text(frontend)
            ),
            Self::FrontendUsesStrangeNeg { frontend, neg } => write!(
                f,
                "frontend {} uses NEG {neg}, which is not one of its backend service and family",
                frontend_key_text(frontend)
            ),
            Self::VipMissing { frontend } => {
                write!(f, "frontend {} has no entry for its VIP", frontend_key_text(frontend))
            }
            Self::SourceRangeDangles { backend_service } => {
                write!(f, "source ranges belong to backend service {backend_service}, which is not in use")
            }
            Self::NameMissing { backend_service } => {
                write!(f, "backend service {backend_service} has no name")
            }
            Self::NameTwice { backend_service, first } => {
                write!(f, "backend services {first} and {backend_service} have the same name")
            }
            Self::RingOutside { neg, ring } => write!(
                f,
                "the ring of NEG {neg}, {} slots from slot {}, is no ring in the arena",
                ring.length(),
                ring.position()
            ),
            Self::RingsOverlap { neg, other } => write!(f, "the rings of NEGs {neg} and {other} overlap"),
            Self::SlotDangles { neg, endpoint } => {
                write!(f, "the ring of NEG {neg} names endpoint {endpoint}, which is not in use")
            }
            Self::SlotNamesStranger { neg, endpoint } => {
                let (backend_service, kind) = NegKind::of_id(*neg);
                write!(
                    f,
                    "the ring of NEG {neg} names endpoint {endpoint}, which is none of {} of backend service \
                     {backend_service}",
                    neg_kind_name(kind)
                )
            }
            Self::SlotNamesWithdrawn { neg, endpoint } => {
                write!(f, "the ring of NEG {neg} names endpoint {endpoint}, which is withdrawn")
            }
            Self::EndpointTwice { endpoint, other } => {
                write!(
                    f,
                    "endpoints {other} and {endpoint} of one backend service have the same address and port"
                )
            }
        }
    }
}

impl Serialize for Violation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Tables {
    /// Everything that does not hold; nothing at each prefix of a diff's operations.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        self.check_frontends(&mut found);
        self.check_names(&mut found);
        self.check_rings(&mut found);
        self.check_endpoints(&mut found);
        found
    }

    fn check_frontends(&self, found: &mut Vec<Violation>) {
        for (key, value) in self.frontends() {
            if self.backend_service(value.backend_service).is_none() {
                found.push(Violation::FrontendDangles {
                    frontend: *key,
                    backend_service: value.backend_service,
                });
            }
            for neg in [value.neg_internal, value.neg_external] {
                let (owner, kind) = NegKind::of_id(neg);
                if owner != value.backend_service || !is_family_of(kind, &key.address) {
                    found.push(Violation::FrontendUsesStrangeNeg { frontend: *key, neg });
                }
            }
            if needs_entry(value) && self.vip(&key.address).is_none() {
                found.push(Violation::VipMissing { frontend: *key });
            }
        }
        let owners = self.source_ranges().keys().filter(|id| self.backend_service(**id).is_none());
        found.extend(owners.map(|id| Violation::SourceRangeDangles { backend_service: *id }));
    }

    fn check_names(&self, found: &mut Vec<Violation>) {
        for id in self.backend_service_ids() {
            let first = self.name(id).and_then(|stored| self.backend_service_id(&stored.name));
            match first {
                None => found.push(Violation::NameMissing { backend_service: id }),
                Some(first) if first != id => {
                    found.push(Violation::NameTwice { backend_service: id, first });
                }
                Some(_) => {}
            }
        }
    }

    fn check_rings(&self, found: &mut Vec<Violation>) {
        let mut rings: Vec<(u32, Ring)> = self.rings().collect();
        rings.sort_by_key(|(neg, ring)| (ring.position(), *neg));
        let mut last: Option<(u32, u64)> = None;
        for (neg, ring) in rings {
            let end = u64::from(ring.position()) + u64::from(ring.length());
            if let Some((other, other_end)) = last
                && u64::from(ring.position()) < other_end
            {
                found.push(Violation::RingsOverlap { neg: other, other: neg });
            }
            if last.is_none_or(|(_, last_end)| end > last_end) {
                last = Some((neg, end));
            }
            match self.slots(ring) {
                Some(slots) if ring.length().is_power_of_two() => self.check_slots(neg, slots, found),
                _ => found.push(Violation::RingOutside { neg, ring }),
            }
        }
    }

    fn check_slots(&self, neg: u32, slots: &[u32], found: &mut Vec<Violation>) {
        let (owner, kind) = NegKind::of_id(neg);
        let mut ids = slots.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let endpoint = self.endpoint(id);
            if !endpoint.is_present() {
                found.push(Violation::SlotDangles { neg, endpoint: id });
            } else if endpoint.backend_service != owner || !is_family_of(kind, &endpoint.address) {
                found.push(Violation::SlotNamesStranger { neg, endpoint: id });
            } else if endpoint.is_withdrawn() {
                found.push(Violation::SlotNamesWithdrawn { neg, endpoint: id });
            }
        }
    }

    fn check_endpoints(&self, found: &mut Vec<Violation>) {
        let mut places = BTreeMap::new();
        for id in self.endpoint_ids() {
            let endpoint = self.endpoint(id);
            let place = (endpoint.backend_service, endpoint.address, endpoint.port);
            if let Some(other) = places.insert(place, id) {
                found.push(Violation::EndpointTwice { endpoint: id, other });
            }
        }
    }
}

fn is_family_of(kind: NegKind, address: &Address) -> bool {
    match kind {
        NegKind::ClusterV4 | NegKind::LocalV4 => address.is_v4(),
        NegKind::ClusterV6 | NegKind::LocalV6 => !address.is_v4(),
    }
}
