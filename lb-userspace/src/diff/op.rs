//! One step from the tables as they are to the desired state.
use std::fmt;
use std::sync::Arc;

use lb_common::Address;
use lb_common::backend_service::BackendService;
use lb_common::endpoint::{Endpoint, state};
use lb_common::frontend::{Frontend, FrontendKey, flags};
use lb_common::neg::{NegKind, Ring};
use lb_common::source_range::SourceRangeKey;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::plan::{frontend_key_text, kind_name, neg_kind_name, socket_text};

use super::StoredName;

/// One write. Values are whole map values: applying one is storing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Store an endpoint that is in use.
    PutEndpoint {
        /// Index in ENDPOINTS.
        id: u32,
        /// The value.
        endpoint: Endpoint,
    },
    /// Store a ring's slots. The space is no NEG's, except where the arena is full and a NEG's ring is
    /// written over in place; each slot is a store of its own and names a live endpoint before and after.
    WriteRing {
        /// The NEG that it is for.
        neg: u32,
        /// Where.
        ring: Ring,
        /// Endpoint ids, as many as the ring has slots.
        slots: Arc<[u32]>,
    },
    /// Make a NEG use a ring, or none; the former ring's space rests from now.
    SwitchNeg {
        /// Index in NEGS.
        neg: u32,
        /// The value.
        ring: Ring,
    },
    /// Store a backend service: its name first, then the value.
    PutBackendService {
        /// Index in BACKEND_SERVICES and BACKEND_SERVICE_NAMES.
        id: u32,
        /// The value.
        backend_service: BackendService,
        /// Its name.
        name: StoredName,
    },
    /// Store a source range of a backend service.
    PutSourceRange {
        /// The key.
        key: SourceRangeKey,
    },
    /// Store the entry of a VIP.
    PutVip {
        /// The VIP.
        address: Address,
        /// The value.
        vip: Frontend,
    },
    /// Store a frontend.
    PutFrontend {
        /// The key.
        key: FrontendKey,
        /// The value.
        frontend: Frontend,
    },
    /// Delete a frontend.
    DeleteFrontend {
        /// The key.
        key: FrontendKey,
    },
    /// Delete the entry of a VIP.
    DeleteVip {
        /// The VIP.
        address: Address,
    },
    /// Delete a source range.
    DeleteSourceRange {
        /// The key.
        key: SourceRangeKey,
    },
    /// Clear a backend service: the value first, then the name. Its traffic counters belong to nobody
    /// from now.
    DeleteBackendService {
        /// Index in BACKEND_SERVICES and BACKEND_SERVICE_NAMES.
        id: u32,
    },
    /// Store a cleared endpoint. Its traffic counters belong to nobody from now.
    DeleteEndpoint {
        /// Index in ENDPOINTS.
        id: u32,
        /// The value: nothing but the raised generation.
        endpoint: Endpoint,
    },
}

impl Op {
    fn verb(&self) -> &'static str {
        match self {
            Self::PutEndpoint { .. } => "putEndpoint",
            Self::WriteRing { .. } => "writeRing",
            Self::SwitchNeg { .. } => "switchNeg",
            Self::PutBackendService { .. } => "putBackendService",
            Self::PutSourceRange { .. } => "putSourceRange",
            Self::PutVip { .. } => "putVip",
            Self::PutFrontend { .. } => "putFrontend",
            Self::DeleteFrontend { .. } => "deleteFrontend",
            Self::DeleteVip { .. } => "deleteVip",
            Self::DeleteSourceRange { .. } => "deleteSourceRange",
            Self::DeleteBackendService { .. } => "deleteBackendService",
            Self::DeleteEndpoint { .. } => "deleteEndpoint",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutEndpoint { id, endpoint } => {
                let place = socket_text(endpoint.address.into(), endpoint.port.get());
                write!(f, "put endpoint {id}: {place} of backend service {}", endpoint.backend_service)?;
                state_words(endpoint.state).iter().try_for_each(|word| write!(f, ", {word}"))
            }
            Self::WriteRing { neg, ring, .. } => {
                write!(f, "write ring of NEG {}: {}", NegText(*neg), RingText(*ring))
            }
            Self::SwitchNeg { neg, ring } => {
                write!(f, "switch NEG {} to {}", NegText(*neg), RingText(*ring))
            }
            Self::PutBackendService { id, backend_service, name } => {
                write!(f, "put backend service {id}: {}", name.name)?;
                match backend_service.affinity_timeout_s() {
                    Some(timeout_s) => write!(f, ", client affinity for {timeout_s} s"),
                    None => Ok(()),
                }
            }
            Self::PutSourceRange { key } => write!(f, "put source range {}", source_range_text(key)),
            Self::DeleteSourceRange { key } => write!(f, "delete source range {}", source_range_text(key)),
            Self::PutVip { address, vip } => {
                write!(f, "put VIP {address}: {}", vip.kind().map_or("unknown kind", kind_name))?;
                flag_words(vip.flags).iter().try_for_each(|word| write!(f, ", {word}"))
            }
            Self::DeleteVip { address } => write!(f, "delete VIP {address}"),
            Self::PutFrontend { key, frontend } => {
                write!(
                    f,
                    "put frontend {}: {}, backend service {}, NEG {} from inside and {} from outside",
                    frontend_key_text(key),
                    frontend.kind().map_or("unknown kind", kind_name),
                    frontend.backend_service,
                    NegText(frontend.neg_internal),
                    NegText(frontend.neg_external),
                )?;
                flag_words(frontend.flags).iter().try_for_each(|word| write!(f, ", {word}"))
            }
            Self::DeleteFrontend { key } => write!(f, "delete frontend {}", frontend_key_text(key)),
            Self::DeleteBackendService { id } => write!(f, "delete backend service {id}"),
            Self::DeleteEndpoint { id, endpoint } => {
                write!(f, "delete endpoint {id}: generation {} from now", endpoint.generation)
            }
        }
    }
}

struct NegText(u32);

impl fmt::Display for NegText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (backend_service, kind) = NegKind::of_id(self.0);
        write!(f, "{} ({} of backend service {backend_service})", self.0, neg_kind_name(kind))
    }
}

struct RingText(Ring);

impl fmt::Display for RingText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.length() {
            0 => f.write_str("no ring"),
            1 => write!(f, "1 slot at slot {}", self.0.position()),
            length => write!(f, "{length} slots from slot {}", self.0.position()),
        }
    }
}

fn source_range_text(key: &SourceRangeKey) -> String {
    format!("{} of backend service {}", range_text(key), key.backend_service_id())
}

/// A range as it is written in a manifest.
pub(crate) fn range_text(key: &SourceRangeKey) -> String {
    let (network, bits) = key.range();
    format!("{network}/{bits}")
}

fn state_words(bits: u32) -> Vec<&'static str> {
    let mut words = vec![if bits & state::HEALTHY != 0 { "healthy" } else { "unhealthy" }];
    if bits & state::PANIC != 0 {
        words = vec!["unhealthy", "panic"];
    }
    if bits & state::TURNED_AWAY != 0 {
        words.push("warming up");
    }
    if bits & state::DRAINING != 0 {
        words.push("draining");
    }
    if bits & state::WITHDRAWN != 0 {
        words.push("withdrawn");
    }
    if bits & state::LOCAL != 0 {
        words.push("on this node");
    }
    words
}

fn flag_words(bits: u32) -> Vec<&'static str> {
    let mut words = Vec::new();
    if bits & flags::INTERNAL_EMPTY_DROPS != 0 {
        words.push("drops from inside");
    }
    if bits & flags::EXTERNAL_EMPTY_DROPS != 0 {
        words.push("drops from outside");
    }
    if bits & flags::CHECK_SOURCE != 0 {
        words.push("checks sources");
    }
    if bits & flags::DSR != 0 {
        words.push("direct server return");
    }
    if bits & flags::REFUSE_OTHER_PORTS != 0 {
        words.push("refuses other ports");
    }
    words
}

impl Serialize for Op {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("op", self.verb())?;
        match self {
            Self::PutEndpoint { id, endpoint } => {
                out.serialize_entry("id", id)?;
                out.serialize_entry("address", &endpoint.address.to_string())?;
                out.serialize_entry("port", &endpoint.port.get())?;
                out.serialize_entry("backendService", &endpoint.backend_service)?;
                out.serialize_entry("generation", &endpoint.generation)?;
                out.serialize_entry("state", &state_words(endpoint.state))?;
            }
            Self::WriteRing { neg, ring, slots } => {
                out.serialize_entry("neg", neg)?;
                out.serialize_entry("position", &ring.position())?;
                out.serialize_entry("slots", slots)?;
            }
            Self::SwitchNeg { neg, ring } => {
                out.serialize_entry("neg", neg)?;
                out.serialize_entry("position", &ring.position())?;
                out.serialize_entry("length", &ring.length())?;
            }
            Self::PutBackendService { id, backend_service, name } => {
                out.serialize_entry("id", id)?;
                out.serialize_entry("name", &*name.name)?;
                out.serialize_entry("resourceVersion", &name.resource_version)?;
                out.serialize_entry("affinityTimeoutSeconds", &backend_service.affinity_timeout_s())?;
            }
            Self::PutFrontend { key, frontend } => {
                out.serialize_entry("frontend", &frontend_key_text(key))?;
                out.serialize_entry("kind", &frontend.kind().map(kind_name))?;
                out.serialize_entry("backendService", &frontend.backend_service)?;
                out.serialize_entry("negInternal", &frontend.neg_internal)?;
                out.serialize_entry("negExternal", &frontend.neg_external)?;
                out.serialize_entry("flags", &flag_words(frontend.flags))?;
            }
            Self::DeleteFrontend { key } => out.serialize_entry("frontend", &frontend_key_text(key))?,
            Self::PutVip { address, vip } => {
                out.serialize_entry("vip", &address.to_string())?;
                out.serialize_entry("kind", &vip.kind().map(kind_name))?;
                out.serialize_entry("flags", &flag_words(vip.flags))?;
            }
            Self::DeleteVip { address } => out.serialize_entry("vip", &address.to_string())?,
            Self::PutSourceRange { key } | Self::DeleteSourceRange { key } => {
                out.serialize_entry("backendService", &key.backend_service_id())?;
                out.serialize_entry("range", &range_text(key))?;
            }
            Self::DeleteBackendService { id } => out.serialize_entry("id", id)?,
            Self::DeleteEndpoint { id, endpoint } => {
                out.serialize_entry("id", id)?;
                out.serialize_entry("generation", &endpoint.generation)?;
            }
        }
        out.end()
    }
}
