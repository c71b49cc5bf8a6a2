//! The pinned maps of the node under test, looked at from outside of the agent.
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::endpoint::state;
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::neg::NegKind;
use lb_common::{Address, Be16};
use lb_userspace::diff::Tables;
use lb_userspace::maps::{Maps, Pins};

use crate::fleet;

/// Time between two looks while an agent starts. A look is one system call.
const START_POLL: Duration = Duration::from_millis(1);
/// The same while one change is awaited.
const CHANGE_POLL: Duration = Duration::from_micros(50);
/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(120);

type KeyBytes = [u8; size_of::<FrontendKey>()];
type ValueBytes = [u8; size_of::<Frontend>()];

/// The maps of an agent that has done all.
pub(crate) struct NodeMaps {
    maps: Maps,
    negs: Array<MapData, u64>,
    tables: Tables,
}

/// An endpoint with the NEG that it comes to or goes from.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    neg: u32,
    endpoint: u32,
}

impl NodeMaps {
    /// Waits until the last of so many Services is there, and then sees to it that all are. When that was.
    pub(crate) fn programmed(
        pin_path: &Path,
        services: u32,
        mut has_ended: impl FnMut() -> bool,
    ) -> Result<(Self, Instant)> {
        let pins = Pins::new(pin_path);
        let begun = Instant::now();
        let last = fleet::cluster_ip(services - 1);
        let key = FrontendKey::new(Address::from(last), Be16::new(fleet::PORT), 6);
        let key: KeyBytes = bytemuck::cast(key);
        let mut frontends = None;
        loop {
            if frontends.is_none() {
                frontends = frontends_at(&pins.map("FRONTENDS")).ok();
            }
            let is_there = frontends.as_ref().is_some_and(|map| map.get(&key, 0).is_ok());
            if is_there {
                let at = Instant::now();
                return Ok((Self::open(&pins, services)?, at));
            }
            if begun.elapsed() > DEADLINE || has_ended() {
                bail!("the last of {services} Services is not in the maps");
            }
            std::thread::sleep(START_POLL);
        }
    }

    fn open(pins: &Pins, services: u32) -> Result<Self> {
        let maps = Maps::open(pins)?;
        let tables = maps.tables()?;
        let found = (tables.endpoints_used(), tables.rings().count(), tables.frontends().len());
        let wanted = (services * fleet::ENDPOINTS, services as usize, services as usize);
        anyhow::ensure!(found == wanted, "endpoints, rings, frontends: {found:?}, {wanted:?} are wanted");
        let negs = MapData::from_pin(pins.map("NEGS")).context("cannot open map NEGS")?;
        Ok(Self { maps, negs: Map::Array(negs).try_into()?, tables })
    }

    /// Where an endpoint of a Service is.
    pub(crate) fn place(&self, service: u32, endpoint: u32) -> Result<Place> {
        let id = self.tables.backend_service_id(&fleet::backend_service(service));
        let id = id.with_context(|| format!("no backend service of Service {service}"))?;
        let address = Address::from(fleet::pod(service, endpoint));
        let endpoint = self.tables.endpoint_id(id, address, fleet::POD_PORT).context("no such endpoint")?;
        Ok(Place { neg: NegKind::ClusterV4.id(id), endpoint })
    }

    /// The ring of the NEG now.
    pub(crate) fn ring(&self, place: Place) -> Result<u64> {
        Ok(self.negs.get(&place.neg, 0)?)
    }

    /// Waits until the NEG has another ring than the former one, and the endpoint is withdrawn or back.
    pub(crate) fn changed(&self, place: Place, former_ring: u64, is_withdrawn: bool) -> Result<Instant> {
        let begun = Instant::now();
        loop {
            let bits = self.maps.endpoint(place.endpoint).state;
            if (bits & state::WITHDRAWN != 0) == is_withdrawn && self.ring(place)? != former_ring {
                return Ok(Instant::now());
            }
            if begun.elapsed() > DEADLINE {
                bail!("a change has not reached the maps");
            }
            std::thread::sleep(CHANGE_POLL);
        }
    }
}

fn frontends_at(path: &Path) -> Result<HashMap<MapData, KeyBytes, ValueBytes>> {
    Ok(Map::HashMap(MapData::from_pin(path)?).try_into()?)
}
