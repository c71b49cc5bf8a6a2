//! A NEG: the endpoints that one scope and family of a backend service may use.
use lb_common::neg::NegKind;

use super::{Family, Scope};

/// A NEG of a backend service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neg {
    /// Scope and family.
    pub kind: NegKind,
    /// The endpoints in its ring, as indices into [`super::BackendService::endpoints`], rising.
    pub members: Vec<u32>,
    /// Whether fewer of the endpoints are healthy than the panic threshold asks for, so that all are used.
    pub is_panic: bool,
    /// Slots of its ring when the arena has room; zero without members.
    pub ring_length: u32,
}

/// The kind of a scope and family.
#[must_use]
pub const fn neg_kind(scope: Scope, family: Family) -> NegKind {
    match (scope, family) {
        (Scope::Cluster, Family::V4) => NegKind::ClusterV4,
        (Scope::Local, Family::V4) => NegKind::LocalV4,
        (Scope::Cluster, Family::V6) => NegKind::ClusterV6,
        (Scope::Local, Family::V6) => NegKind::LocalV6,
    }
}

/// A kind's name in output.
#[must_use]
pub const fn neg_kind_name(kind: NegKind) -> &'static str {
    match kind {
        NegKind::ClusterV4 => "clusterV4",
        NegKind::LocalV4 => "localV4",
        NegKind::ClusterV6 => "clusterV6",
        NegKind::LocalV6 => "localV6",
    }
}
