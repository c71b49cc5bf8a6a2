//! `podway get conntrack`, `affinity` and `counters`: what the programs themselves wrote.
use anyhow::Result;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState};
use lb_common::counters::Reason;
use serde::Serialize;

use crate::plan::socket_text;
use crate::snapshot::Reading;

use super::get::{endpoint_text, name_of, protocol_text};
use super::output::Row;

/// One direction of a flow.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowRow {
    protocol: String,
    direction: &'static str,
    source: String,
    destination: String,
    new_source: String,
    new_destination: String,
    state: &'static str,
    source_nat: bool,
    backend_service: String,
    endpoint_id: u32,
    age_seconds: u32,
    idle_seconds: u32,
}

impl Row for FlowRow {
    const HEADINGS: &'static [&'static str] =
        &["PROTOCOL", "DIRECTION", "SOURCE", "DESTINATION", "NEW SOURCE", "NEW DESTINATION", "STATE", "IDLE"];
    const WIDE_HEADINGS: &'static [&'static str] = &["AGE", "SOURCE NAT", "BACKEND SERVICE", "ENDPOINT ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.direction.to_owned(),
            self.source.clone(),
            self.destination.clone(),
            self.new_source.clone(),
            self.new_destination.clone(),
            self.state.to_owned(),
            format!("{}s", self.idle_seconds),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            format!("{}s", self.age_seconds),
            if self.source_nat { "yes" } else { "no" }.to_owned(),
            self.backend_service.clone(),
            self.endpoint_id.to_string(),
        ]
    }
}

pub(super) fn conntrack(reading: &Reading) -> Result<Vec<FlowRow>> {
    let (tables, now_s) = (reading.tables()?, reading.now_s());
    let mut flows = reading.flows()?.collect::<Result<Vec<_>>>()?;
    flows.sort_by_key(|(key, flow)| (flow.backend_service, *key));
    let row = |(key, flow): (FlowKey, Flow)| FlowRow {
        protocol: protocol_text(key.protocol),
        direction: match flow.direction() {
            Direction::ToBackend => "to-backend",
            Direction::ToClient => "to-client",
        },
        source: socket_text(key.source.into(), key.source_port.get()),
        destination: socket_text(key.destination.into(), key.destination_port.get()),
        new_source: socket_text(flow.new_source.into(), flow.new_source_port.get()),
        new_destination: socket_text(flow.new_destination.into(), flow.new_destination_port.get()),
        state: match flow.state() {
            FlowState::Opening => "opening",
            FlowState::Established => "established",
            FlowState::Closing => "closing",
            FlowState::Reset => "reset",
            FlowState::Superseded => "superseded",
        },
        source_nat: flow.is_source_nat(),
        backend_service: name_of(&tables, flow.backend_service),
        endpoint_id: flow.endpoint,
        age_seconds: now_s.saturating_sub(flow.created_s),
        idle_seconds: now_s.saturating_sub(flow.last_seen_s),
    };
    Ok(flows.into_iter().map(row).collect())
}

/// A client's affinity.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AffinityRow {
    client: String,
    backend_service: String,
    endpoint: String,
    idle_seconds: u32,
}

impl Row for AffinityRow {
    const HEADINGS: &'static [&'static str] = &["CLIENT", "BACKEND SERVICE", "ENDPOINT", "IDLE"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.client.clone(),
            self.backend_service.clone(),
            self.endpoint.clone(),
            format!("{}s", self.idle_seconds),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

pub(super) fn affinity(reading: &Reading) -> Result<Vec<AffinityRow>> {
    let (tables, now_s) = (reading.tables()?, reading.now_s());
    let mut affinities = reading.affinities()?;
    affinities.sort_by_key(|(key, _)| (key.backend_service, key.client));
    let row = |(key, value): (AffinityKey, Affinity)| AffinityRow {
        client: key.client.to_string(),
        backend_service: name_of(&tables, key.backend_service),
        endpoint: endpoint_text(&tables.endpoint(value.endpoint)),
        idle_seconds: now_s.saturating_sub(value.last_used_s),
    };
    Ok(affinities.into_iter().map(row).collect())
}

/// A reason and how many packets met it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CounterRow {
    outcome: &'static str,
    reason: &'static str,
    packets: u64,
}

impl Row for CounterRow {
    const HEADINGS: &'static [&'static str] = &["OUTCOME", "REASON", "PACKETS"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![self.outcome.to_owned(), self.reason.to_owned(), self.packets.to_string()]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

pub(super) fn counters(reading: &Reading) -> Result<Vec<CounterRow>> {
    let row = |(reason, packets): (Reason, u64)| CounterRow {
        outcome: reason.outcome().name(),
        reason: reason.name(),
        packets,
    };
    Ok(reading.all_reasons()?.into_iter().map(row).collect())
}
