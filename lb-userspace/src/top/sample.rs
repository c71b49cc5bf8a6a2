//! Looks at the counters: as a scrape of metrics, in few calls for each map however many endpoints there are.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use lb_common::counters::Traffic;
use lb_common::endpoint::Endpoint;

use super::{EndpointSample, Sample, ServiceSample};
use crate::admin;
use crate::clock::now_ms;
use crate::maps::{Maps, Occupancy, Pins, StoredState};

/// Time between two looks at what costs more than counters do: maps are counted by a walk, and one that was replaced,
/// as CONNTRACK is when it grows, is opened anew. Nor is an agent that did not answer asked before.
const SLOW_PERIOD_MS: u64 = 10_000;

/// Takes samples of this node.
pub struct Sampler {
    pins: Pins,
    run_dir: PathBuf,
    maps: Maps,
    occupancy: Vec<(&'static str, Occupancy)>,
    counted_ms: Option<u64>,
    no_requests: Option<String>,
}

impl Sampler {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// No such pins, or no permission.
    pub fn open(pins: Pins, run_dir: PathBuf) -> Result<Self> {
        let maps = Maps::open(&pins)?;
        Ok(Self { pins, run_dir, maps, occupancy: Vec::new(), counted_ms: None, no_requests: None })
    }

    /// Looks once.
    ///
    /// # Errors
    /// The kernel refuses a read. An agent that does not answer is none: the sample says so.
    pub fn sample(&mut self) -> Result<Sample> {
        if self.counted_ms.is_none_or(|at| now_ms() >= at + SLOW_PERIOD_MS) {
            // Pins that are not there are those of an agent that is being replaced: the open maps are good until it has.
            if self.counted_ms.is_some()
                && let Ok(maps) = Maps::open(&self.pins)
            {
                self.maps = maps;
            }
            self.occupancy = self.maps.all_occupancy()?;
            self.no_requests = None;
            self.counted_ms = Some(now_ms());
        }
        let requests = self.requests();
        let endpoints = self.endpoints()?;
        Ok(Sample {
            at_ms: now_ms(),
            services: self.services(&endpoints, &requests)?,
            endpoints,
            reasons: self.maps.all_reasons()?,
            maps: self.occupancy.clone(),
            no_requests: self.no_requests.clone(),
        })
    }

    fn requests(&mut self) -> BTreeMap<String, u64> {
        if self.no_requests.is_some() {
            return BTreeMap::new();
        }
        match admin::requests(&self.run_dir) {
            Ok(services) => {
                services.into_iter().map(|service| (service.backend_service, service.requests)).collect()
            }
            Err(error) => {
                self.no_requests = Some(format!("{error:#}"));
                BTreeMap::new()
            }
        }
    }

    fn endpoints(&self) -> Result<Vec<EndpointSample>> {
        let in_use: Vec<(u32, Endpoint)> = self.maps.endpoints_in_use().collect();
        let traffic = self.maps.endpoints_traffic(in_use.last().map_or(0, |(id, _)| id + 1))?;
        let sample = |(id, endpoint): &(u32, Endpoint)| {
            Some(EndpointSample {
                id: *id,
                address: SocketAddr::new(endpoint.address.into(), endpoint.port.get()),
                service: endpoint.backend_service,
                state: StoredState::of(endpoint)?,
                traffic: of_id(&traffic, *id),
            })
        };
        Ok(in_use.iter().filter_map(sample).collect())
    }

    fn services(
        &self,
        endpoints: &[EndpointSample],
        requests: &BTreeMap<String, u64>,
    ) -> Result<Vec<ServiceSample>> {
        let names = self.maps.backend_service_names()?;
        let traffic = self.maps.backend_services_traffic(names.len() as u32)?;
        let mut counts = vec![(0, 0); names.len()];
        for endpoint in endpoints {
            let named = endpoint.state != StoredState::Withdrawn;
            if let Some((all, healthy)) = counts.get_mut(endpoint.service as usize).filter(|_| named) {
                *all += 1;
                *healthy += u32::from(matches!(endpoint.state, StoredState::Healthy | StoredState::Warming));
            }
        }
        let in_use = names.iter().zip(counts).zip(0..);
        let sample = |((name, (endpoints, healthy)), id): ((&Option<_>, _), u32)| {
            let name = name.as_ref().map(ToString::to_string)?;
            let requests = requests.get(&name).copied();
            Some(ServiceSample { id, name, endpoints, healthy, traffic: of_id(&traffic, id), requests })
        };
        Ok(in_use.filter_map(sample).collect())
    }
}

/// What was counted for an id; nothing for one that came into use between two reads.
fn of_id(traffic: &[Traffic], id: u32) -> Traffic {
    traffic.get(id as usize).copied().unwrap_or_default()
}
