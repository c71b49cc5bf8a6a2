//! What maps that were made anew get back from others, before a program uses them.
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use lb_common::backend_service::{BackendService, flags};
use lb_common::conntrack::{Direction, Flow, FlowKey};
use lb_common::endpoint::{Endpoint, state};
use lb_common::maps;

use super::Maps;
use crate::diff::{Op, StoredName};

impl Maps {
    /// Recovers what can be of the maps that are named.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub(super) fn recover(&mut self, anew: &[&str]) -> Result<()> {
        if anew.contains(&maps::ENDPOINTS) {
            self.recover_endpoints().context("cannot recover endpoints from their flows")?;
        }
        if anew.contains(&maps::BACKEND_SERVICES) {
            self.recover_backend_services().context("cannot recover backend services from their names")?;
        }
        Ok(())
    }

    /// Gives the endpoints that flows name their ids and generations back, so that no connection is reset. The next
    /// plan finds them by address and port, and gives up those that it has not.
    fn recover_endpoints(&mut self) -> Result<()> {
        let mut endpoints = BTreeMap::<u32, Endpoint>::new();
        for found in self.flows() {
            let (key, flow) = found?;
            if flow.direction() != Direction::ToBackend || flow.endpoint >= self.limits().endpoints_max {
                continue;
            }
            // Of an id that was given up and given again, the later endpoint.
            let known = endpoints.entry(flow.endpoint).or_insert_with(|| of_flow(&key, &flow));
            if known.generation < flow.endpoint_generation {
                *known = of_flow(&key, &flow);
            }
        }
        endpoints.into_iter().try_for_each(|(id, endpoint)| self.apply(&Op::PutEndpoint { id, endpoint }))
    }

    /// Puts the ids to use again that have a name; their policies come with the next plan.
    fn recover_backend_services(&mut self) -> Result<()> {
        for id in 0..self.names.count() {
            if StoredName::of_bytes(&self.names.get(id)?).is_some() {
                let value = BackendService { flags: flags::PRESENT, ..BackendService::default() };
                self.backend_services.put(id, &value)?;
            }
        }
        Ok(())
    }

    /// Lets every packet through FLOW_FILTER until walks have made it of the flows that there are.
    pub(super) fn fill_flow_filter(&self) {
        self.flow_filter.fill();
    }
}

fn of_flow(key: &FlowKey, flow: &Flow) -> Endpoint {
    Endpoint {
        address: flow.new_destination,
        port: flow.new_destination_port,
        protocol: key.protocol as u8,
        backend_service: flow.backend_service,
        generation: flow.endpoint_generation,
        state: state::PRESENT | state::HEALTHY,
        ..Endpoint::default()
    }
}
