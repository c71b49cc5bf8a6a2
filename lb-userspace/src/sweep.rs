//! Sweeping the maps that programs fill: what is over goes, and how full they are is known.
//!
//! A pass walks through each map in batches, so that a step costs the same however large a map is.
//!
//! A flow is looked at again just before it is removed, with its other direction. A packet may still come
//! between that look and the removal. It meets an entry that has timed out, so the path begins the flow
//! anew, and the removal takes what it has just put: the next packet begins it once more, by the same hash
//! at the same endpoint. Nothing is sent astray.
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::BackendService;
use lb_common::conntrack::{Flow, FlowKey, FlowState, TCP_ESTABLISHED_TIMEOUT_S, TCP_TRANSIENT_TIMEOUT_S};
use lb_common::fragment::{FRAGMENT_TIMEOUT_S, FragmentKey, FragmentPorts};
use lb_common::protocol::TCP;
use lb_common::socket_flow::SocketFlowKey;

use crate::clock::now_s;
use crate::diff::Tables;
use crate::drain::FlowCounts;
use crate::maps::{Maps, Place, Traces};

mod begun;

pub use begun::{ANSWER_TIMEOUT_S, Begun, Watch};

/// Entries that one step looks at.
const STEP_ENTRIES_MAX: usize = 4_096;

/// Most flows that one pass judges. CONNTRACK is read in the order of hashes, so more make these a sample.
const BEGUN_MAX: usize = 65_536;

/// What a pass found in one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries that stay.
    pub entries: u32,
    /// Entries that were over and are removed.
    pub expired: u32,
    /// The bound.
    pub entries_max: u32,
}

impl Found {
    /// Entries in percent of the bound.
    #[must_use]
    pub fn pressure_percent(&self) -> u32 {
        (u64::from(self.entries) * 100 / u64::from(self.entries_max.max(1))) as u32
    }
}

/// What a pass through all maps found.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// When it began, seconds of the monotonic clock.
    pub began_s: u32,
    /// CPU and system calls of all steps.
    pub busy: Duration,
    /// Each map's name and what was found there.
    pub maps: Vec<(&'static str, Found)>,
    /// The flows of each endpoint.
    pub flows: FlowCounts,
    /// The last second of flows that it judged.
    pub judged_until_s: u32,
    /// How they began.
    pub begun: Vec<Begun>,
}

/// The map that a pass is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flows,
    Affinities,
    SocketFlows,
    Fragments,
}

/// A sweep, one step after the other. It walks through CONNTRACK only while that is one map.
#[derive(Debug)]
pub struct Sweep {
    stage: Stage,
    /// Whether the walk through the flows has begun.
    is_walking: bool,
    place: Place,
    found: Found,
    pass: Pass,
    watch: Watch,
}

/// What a sweep needs to know of one entry.
struct View<'a> {
    tables: &'a Tables,
    now_s: u32,
}

impl Default for Sweep {
    fn default() -> Self {
        let pass = Pass { began_s: now_s(), ..Pass::default() };
        Self {
            stage: Stage::Flows,
            is_walking: false,
            place: Place::default(),
            found: Found::default(),
            pass,
            watch: Watch::default(),
        }
    }
}

impl Sweep {
    /// Whether no step of a pass has been done yet.
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.stage == Stage::Flows && !self.is_walking
    }

    /// Says which flows the pass judges.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Does one step. `Some` after the last one of a pass.
    ///
    /// # Errors
    /// The kernel refuses; the next step goes on from where this one began.
    pub fn step(&mut self, maps: &mut Maps, tables: &Tables) -> Result<Option<Pass>> {
        let begun = Instant::now();
        let view = View { tables, now_s: now_s() };
        let next = match self.stage {
            Stage::Flows => self.flows(maps, &view)?,
            Stage::Affinities => self.entries(maps, |key, value| view.is_affinity_over(key, value))?,
            Stage::SocketFlows => {
                let mut flows = std::mem::take(&mut self.pass.flows);
                let next = self.entries(maps, |_: &SocketFlowKey, value| {
                    flows.add_socket(value);
                    false
                });
                self.pass.flows = flows;
                next?
            }
            Stage::Fragments => self.entries(maps, |key, value| view.is_fragment_over(key, value))?,
        };
        self.pass.busy += begun.elapsed();
        Ok(match next {
            Some(place) => {
                self.place = place;
                None
            }
            None => self.end_stage(maps),
        })
    }

    fn end_stage(&mut self, maps: &mut Maps) -> Option<Pass> {
        let (name, entries_max, next) = match self.stage {
            Stage::Flows => {
                maps.end_flow_walk();
                (FlowKey::NAME, maps.entries_max::<FlowKey>(), Some(Stage::Affinities))
            }
            Stage::Affinities => {
                (AffinityKey::NAME, maps.entries_max::<AffinityKey>(), Some(Stage::SocketFlows))
            }
            Stage::SocketFlows => {
                (SocketFlowKey::NAME, maps.entries_max::<SocketFlowKey>(), Some(Stage::Fragments))
            }
            Stage::Fragments => (FragmentKey::NAME, maps.entries_max::<FragmentKey>(), None),
        };
        let found = Found { entries_max, ..std::mem::take(&mut self.found) };
        self.pass.maps.push((name, found));
        self.place = Place::default();
        match next {
            Some(stage) => {
                self.stage = stage;
                None
            }
            None => {
                let ended = std::mem::take(self);
                Some(Pass { judged_until_s: ended.watch.until_s, ..ended.pass })
            }
        }
    }

    fn flows(&mut self, maps: &mut Maps, view: &View<'_>) -> Result<Option<Place>> {
        if !self.is_walking {
            maps.begin_flow_walk();
            self.is_walking = true;
        }
        let batch = maps.some_entries::<FlowKey>(self.place, STEP_ENTRIES_MAX)?;
        let mut over = 0;
        for (key, flow) in &batch.entries {
            if self.pass.begun.len() < BEGUN_MAX {
                self.pass.begun.extend(self.watch.judge(key, flow));
            }
            if is_over(key, flow, None, view.now_s) && remove_if_still_over(maps, key, view.now_s)? {
                over += 1;
            } else {
                maps.note_flow(key);
                self.pass.flows.add(key, flow, view.now_s);
            }
        }
        self.count(batch.entries.len(), over);
        Ok(batch.next)
    }

    fn entries<K: Traces>(
        &mut self,
        maps: &mut Maps,
        mut is_over: impl FnMut(&K, &K::Value) -> bool,
    ) -> Result<Option<Place>> {
        let batch = maps.some_entries::<K>(self.place, STEP_ENTRIES_MAX)?;
        let mut over = 0;
        for (key, value) in &batch.entries {
            // Again: it may have been used since.
            if is_over(key, value)
                && maps.entry(key)?.is_some_and(|value| is_over(key, &value))
                && maps.remove_entry_if(key, |value| is_over(key, value))?
            {
                over += 1;
            }
        }
        self.count(batch.entries.len(), over);
        Ok(batch.next)
    }

    fn count(&mut self, seen: usize, over: usize) {
        self.found.entries += (seen - over) as u32;
        self.found.expired += over as u32;
    }
}

/// Whether the flow is still over by both directions, and gone therefore. A client may use its port again at any moment,
/// and a source NAT port goes to the next one that asks: what is removed is judged as it is removed.
fn remove_if_still_over(maps: &mut Maps, key: &FlowKey, now_s: u32) -> Result<bool> {
    let Some(flow) = maps.entry(key)? else { return Ok(false) };
    let other = maps.entry(&key.reply(&flow))?;
    Ok(is_over(key, &flow, other.as_ref(), now_s)
        && maps.remove_entry_if(key, |flow| is_over(key, flow, other.as_ref(), now_s))?)
}

/// Whether a flow is over, by both directions: the last packet of either counts. A connection that is
/// closing or reset in one is so in both; one that is established in one is no attempt any more.
fn is_over(key: &FlowKey, flow: &Flow, other: Option<&Flow>, now_s: u32) -> bool {
    let last_seen_s = other.map_or(flow.last_seen_s, |other| other.last_seen_s.max(flow.last_seen_s));
    let idle_s = now_s.saturating_sub(last_seen_s);
    let Some(other) = other.filter(|_| key.protocol == u32::from(TCP)) else {
        return idle_s > flow.idle_timeout_s(key.protocol);
    };
    let timeout_s = match flow.state().max(other.state()) {
        FlowState::Established => TCP_ESTABLISHED_TIMEOUT_S,
        FlowState::Opening | FlowState::Closing | FlowState::Reset | FlowState::Superseded => {
            TCP_TRANSIENT_TIMEOUT_S
        }
    };
    idle_s > timeout_s
}

impl View<'_> {
    /// The client's time is over, the policy gone, or the endpoint given up.
    fn is_affinity_over(&self, key: &AffinityKey, value: &Affinity) -> bool {
        let service = self.tables.backend_service(key.backend_service);
        let Some(timeout_s) = service.and_then(BackendService::affinity_timeout_s) else { return true };
        self.now_s.saturating_sub(value.last_used_s) > timeout_s
            || self.is_gone(value.endpoint, value.endpoint_generation)
    }

    fn is_fragment_over(&self, _key: &FragmentKey, value: &FragmentPorts) -> bool {
        self.now_s.saturating_sub(value.created_s) > FRAGMENT_TIMEOUT_S
    }

    fn is_gone(&self, id: u32, generation: u32) -> bool {
        let endpoint = self.tables.endpoint(id);
        !endpoint.is_present() || endpoint.generation != generation
    }
}

#[cfg(test)]
mod tests {
    use lb_common::conntrack::UDP_TIMEOUT_S;
    use lb_common::protocol::UDP;
    use lb_common::{Address, Be16};

    use super::*;

    const NOW_S: u32 = 100_000;

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            source: Address::v4([192, 0, 2, 1]),
            destination: Address::v4([198, 51, 100, 1]),
            source_port: Be16::new(40_000),
            destination_port: Be16::new(80),
            protocol: u32::from(protocol),
        }
    }

    fn flow(state: FlowState, idle_s: u32) -> Flow {
        Flow { state: state as u32, last_seen_s: NOW_S - idle_s, ..bytemuck::Zeroable::zeroed() }
    }

    #[test]
    fn a_flow_with_packets_one_way_only_is_not_over() {
        let (quiet, busy) =
            (flow(FlowState::Established, UDP_TIMEOUT_S + 1), flow(FlowState::Established, 1));
        assert!(is_over(&key(UDP), &quiet, None, NOW_S));
        assert!(!is_over(&key(UDP), &quiet, Some(&busy), NOW_S));
    }

    #[test]
    fn a_connection_established_one_way_is_no_attempt_the_other_way() {
        let idle_s = TCP_TRANSIENT_TIMEOUT_S + 1;
        let (opening, established) = (flow(FlowState::Opening, idle_s), flow(FlowState::Established, idle_s));
        assert!(is_over(&key(TCP), &opening, None, NOW_S));
        assert!(!is_over(&key(TCP), &opening, Some(&established), NOW_S));
    }

    #[test]
    fn a_connection_closing_one_way_is_over_soon_both_ways() {
        let idle_s = TCP_TRANSIENT_TIMEOUT_S + 1;
        let (closing, established) = (flow(FlowState::Closing, idle_s), flow(FlowState::Established, idle_s));
        assert!(is_over(&key(TCP), &established, Some(&closing), NOW_S));
        assert!(!is_over(&key(TCP), &established, None, NOW_S));
    }

    #[test]
    fn pressure_is_entries_of_the_bound() {
        let found = Found { entries: 3, expired: 9, entries_max: 4 };
        assert_eq!(found.pressure_percent(), 75);
    }
}
