//! Flows that endpoints still have.
use std::collections::HashMap;

use anyhow::Result;
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState};
use lb_common::protocol::TCP;
use lb_common::socket_flow::SocketFlow;

use crate::diff::Tables;

/// How many flows each endpoint has, by id and generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts(HashMap<(u32, u32), u64>);

impl FlowCounts {
    /// Counts an entry of CONNTRACK: the direction to the endpoint, unless it is over.
    pub fn add(&mut self, key: &FlowKey, flow: &Flow, now_s: u32) {
        let idle_s = now_s.saturating_sub(flow.last_seen_s);
        let is_over = flow.state() >= FlowState::Reset || idle_s > flow.idle_timeout_s(key.protocol);
        if flow.direction() == Direction::ToBackend && !is_over {
            *self.0.entry((flow.endpoint, flow.endpoint_generation)).or_default() += 1;
        }
    }

    /// Counts a TCP socket that a hook connected to its endpoint: it may be open still.
    pub fn add_socket(&mut self, flow: &SocketFlow) {
        if flow.protocol == u16::from(TCP) {
            *self.0.entry((flow.endpoint, flow.endpoint_generation)).or_default() += 1;
        }
    }

    /// The flows of an endpoint.
    #[must_use]
    pub fn of(&self, id: u32, tables: &Tables) -> u64 {
        self.0.get(&(id, tables.endpoint(id).generation)).copied().unwrap_or(0)
    }
}

/// Counts entries of CONNTRACK.
///
/// # Errors
/// One of them cannot be read.
pub fn flows_by_endpoint(
    flows: impl Iterator<Item = Result<(FlowKey, Flow)>>,
    now_s: u32,
) -> Result<FlowCounts> {
    let mut counts = FlowCounts::default();
    for found in flows {
        let (key, flow) = found?;
        counts.add(&key, &flow, now_s);
    }
    Ok(counts)
}
