//! One file with all that the reading commands look at: they work on it as they do on the node, on any machine.
//!
//! It is a gzipped tar archive:
//!
//! | part | what it is |
//! | --- | --- |
//! | `header.json` | [`Header`]: versions, node, time, the maps with their sizes, and what was left out |
//! | `maps/NAME` | the entries of a map as bytes, see [`crate::maps::RawMap`] |
//! | `programs.json` | where which program is attached |
//! | `agent/health.json` | what the agent's probes have found |
//! | `agent/interfaces.json` | the interfaces that it serves, and how |
//! | `agent/facts.json` | [`RecordedFacts`]: the objects that it plans from, without Secrets |
//! | `agent/problems.json` | the objects that it cannot use in full |
//! | `origins/*.json` | which EndpointSlice each endpoint came from |
//!
//! Without an agent the parts below `agent` are left out, and the header says so.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::maps::LAYOUT_VERSION;
use serde::{Deserialize, Serialize};

use crate::explain::origins;
use crate::maps::RawMap;
use crate::model::ObjectName;

mod archive;
mod facts;
mod reading;
mod recorded;
mod take;

pub use facts::RecordedFacts;
pub use reading::{Flows, Pinned, Reading};
pub use take::take;

/// Rises when an older version could not read a file any more.
pub const FORMAT: u32 = 1;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// [`FORMAT`] of the version that made it.
    pub format: u32,
    /// [`LAYOUT_VERSION`], likewise.
    pub layout_version: u32,
    /// The version of Podway.
    pub version: String,
    /// The node's name; without an agent the host's.
    pub node: String,
    /// As `uname -r` has it.
    pub kernel: String,
    /// When it was made, milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// The same moment, seconds of the node's monotonic clock, as map values hold them.
    pub taken_s: u32,
    /// Whether CONNTRACK was growing.
    pub is_growing: bool,
    /// The maps.
    pub maps: Vec<MapHeader>,
    /// What is not here that could be, and why.
    pub left_out: Vec<LeftOut>,
}

/// A map in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapHeader {
    /// Its name.
    pub name: String,
    /// Bytes of a key; zero of an array.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// The bound on its entries.
    pub entries_max: u32,
    /// How many are here.
    pub entries: u32,
    /// Whether there were more.
    pub is_cut: bool,
}

impl MapHeader {
    fn of(raw: &RawMap) -> Self {
        Self {
            name: raw.name.to_owned(),
            key_bytes: raw.key_bytes,
            value_bytes: raw.value_bytes,
            entries_max: raw.entries_max,
            entries: raw.entries,
            is_cut: raw.is_cut,
        }
    }
}

/// Something that is not in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The part.
    pub part: String,
    /// Why.
    pub reason: String,
}

/// A snapshot of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// What it is of.
    pub header: Header,
    /// Its parts by name.
    parts: BTreeMap<String, Vec<u8>>,
}

impl NodeSnapshot {
    /// The `EndpointSlice` of a Service's endpoint, as [`crate::explain::Origins::slice`] tells it.
    #[must_use]
    pub fn slice(&self, service: &ObjectName, endpoint: SocketAddr) -> Option<String> {
        let file = self.parts.get(&format!("origins/{}", origins::file_name(service)))?;
        origins::slice_in(file, service, endpoint)
    }
}

/// Names of parts.
mod part {
    pub(super) const HEADER: &str = "header.json";
    pub(super) const PROGRAMS: &str = "programs.json";
    pub(super) const HEALTH: &str = "agent/health.json";
    pub(super) const INTERFACES: &str = "agent/interfaces.json";
    pub(super) const FACTS: &str = "agent/facts.json";
    pub(super) const PROBLEMS: &str = "agent/problems.json";

    pub(super) fn map(name: &str) -> String {
        format!("maps/{name}")
    }
}

#[cfg(test)]
mod tests;
