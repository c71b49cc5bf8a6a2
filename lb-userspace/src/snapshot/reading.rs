//! Where a reading command reads: the pinned maps of this node and its agent, or a snapshot.
use std::path::{Path, PathBuf};

use anyhow::Result;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::counters::{Reason, Traffic};

use crate::admin;
use crate::attach::{self, AttachedProgram};
use crate::clock;
use crate::diff::Tables;
use crate::explain::{Origins, Slices};
use crate::health::TargetHealth;
use crate::maps::{Maps, Occupancy, Pins};

use super::NodeSnapshot;

/// Entries of CONNTRACK, each read when it is asked for.
pub type Flows<'a> = Box<dyn Iterator<Item = Result<(FlowKey, Flow)>> + 'a>;

/// What commands read.
pub enum Reading {
    /// This node, as it is.
    Pinned(Box<Pinned>),
    /// A node as it was.
    Recorded(Box<NodeSnapshot>),
}

/// The pinned maps of this node, and where its agent answers.
pub struct Pinned {
    /// The open maps.
    pub maps: Maps,
    /// Their pins.
    pub pins: Pins,
    /// The agent's run directory.
    pub run_dir: PathBuf,
}

impl Reading {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// No such pins, or no permission.
    pub fn pinned(pin_path: &Path, run_dir: &Path) -> Result<Self> {
        let pins = Pins::new(pin_path);
        let maps = Maps::open(&pins)?;
        Ok(Self::Pinned(Box::new(Pinned { maps, pins, run_dir: run_dir.to_owned() })))
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// As [`NodeSnapshot::read`].
    pub fn recorded(file: &Path) -> Result<Self> {
        Ok(Self::Recorded(Box::new(NodeSnapshot::read(file)?)))
    }

    /// The time at which the maps are as they are, seconds of the node's monotonic clock.
    #[must_use]
    pub fn now_s(&self) -> u32 {
        match self {
            Self::Pinned(_) => clock::now_s(),
            Self::Recorded(snapshot) => snapshot.header.taken_s,
        }
    }

    /// The same time, milliseconds since 1970.
    #[must_use]
    pub fn now_unix_ms(&self) -> u64 {
        match self {
            Self::Pinned(_) => clock::now_unix_ms(),
            Self::Recorded(snapshot) => snapshot.header.taken_unix_ms,
        }
    }

    /// The mirror of the maps that a plan is written to.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn tables(&self) -> Result<Tables> {
        match self {
            Self::Pinned(pinned) => pinned.maps.tables(),
            Self::Recorded(snapshot) => snapshot.tables(),
        }
    }

    /// CONFIG.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config(&self) -> Result<Config> {
        match self {
            Self::Pinned(pinned) => pinned.maps.config(),
            Self::Recorded(snapshot) => snapshot.config(),
        }
    }

    /// The entries of CONNTRACK, in no order.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn flows(&self) -> Result<Flows<'_>> {
        Ok(match self {
            Self::Pinned(pinned) => Box::new(pinned.maps.flows()),
            Self::Recorded(snapshot) => Box::new(snapshot.flows()?.into_iter().map(Ok)),
        })
    }

    /// One entry of CONNTRACK.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>> {
        match self {
            Self::Pinned(pinned) => pinned.maps.flow(key),
            Self::Recorded(snapshot) => {
                Ok(snapshot.flows()?.into_iter().find(|(found, _)| found == key).map(|(_, flow)| flow))
            }
        }
    }

    /// The entries of AFFINITY, in no order.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>> {
        match self {
            Self::Pinned(pinned) => pinned.maps.affinities().collect(),
            Self::Recorded(snapshot) => snapshot.affinities(),
        }
    }

    /// What went to the backend services below an id. A snapshot may end before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn backend_services_traffic(&self, count: u32) -> Result<Vec<Traffic>> {
        match self {
            Self::Pinned(pinned) => pinned.maps.backend_services_traffic(count),
            Self::Recorded(snapshot) => snapshot.backend_services_traffic(),
        }
    }

    /// What went to the endpoints below an id. A snapshot may end before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn endpoints_traffic(&self, count: u32) -> Result<Vec<Traffic>> {
        match self {
            Self::Pinned(pinned) => pinned.maps.endpoints_traffic(count),
            Self::Recorded(snapshot) => snapshot.endpoints_traffic(),
        }
    }

    /// How many packets had each reason.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn all_reasons(&self) -> Result<Vec<(Reason, u64)>> {
        match self {
            Self::Pinned(pinned) => pinned.maps.all_reasons(),
            Self::Recorded(snapshot) => snapshot.all_reasons(),
        }
    }

    /// How full the maps are that programs fill.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn trace_occupancy(&self) -> Result<[(&'static str, Occupancy); 4]> {
        match self {
            Self::Pinned(pinned) => pinned.maps.trace_occupancy(),
            Self::Recorded(snapshot) => snapshot.trace_occupancy(),
        }
    }

    /// Whether CONNTRACK is growing.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        match self {
            Self::Pinned(pinned) => pinned.maps.is_growing(),
            Self::Recorded(snapshot) => snapshot.header.is_growing,
        }
    }

    /// Where which program is attached.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn programs(&self) -> Result<Vec<AttachedProgram>> {
        match self {
            Self::Pinned(pinned) => attach::inspect(&pinned.pins),
            Self::Recorded(snapshot) => snapshot.programs(),
        }
    }

    /// What the agent's probes have found, of all targets or of a backend service's.
    ///
    /// # Errors
    /// No agent answers, or none did.
    pub fn health(&self, backend_service: Option<&str>) -> Result<Vec<TargetHealth>> {
        match self {
            Self::Pinned(pinned) => admin::health(&pinned.run_dir, backend_service),
            Self::Recorded(snapshot) => snapshot.health(backend_service),
        }
    }

    /// Who knows the EndpointSlices of endpoints.
    #[must_use]
    pub fn slices(&self) -> Slices<'_> {
        match self {
            Self::Pinned(pinned) => Slices::Noted(Origins::new(&pinned.run_dir)),
            Self::Recorded(snapshot) => Slices::Recorded(snapshot),
        }
    }
}
