//! When the agent sweeps, and what it does with what it finds: CONNTRACK grows before it is full.
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::clock::now_s;
use crate::diff::Tables;
use crate::maps::Maps;
use crate::model::ObjectName;
use crate::sweep::{ANSWER_TIMEOUT_S, Begun, Pass, Sweep, Watch};

/// Least time between two steps of a pass, so that no more than 80,000 entries are looked at in a second.
const STEP_INTERVAL: Duration = Duration::from_millis(50);
/// CONNTRACK doubles when more of it is in use.
const GROW_PERCENT: u32 = 75;
/// What is logged as a warning.
const WARN_PERCENT: u32 = 90;

/// The sweep of one agent.
pub(super) struct Sweeper {
    sweep: Sweep,
    /// Time between the ends of two passes.
    interval: Duration,
    /// CONNTRACK grows up to this.
    conntrack_limit: u32,
    due: Instant,
    /// The last pass that ended.
    pub(super) last: Option<Pass>,
    /// Ids of the backend services whose flows are judged, by Service.
    watched: BTreeMap<ObjectName, Vec<u32>>,
    /// The last second whose flows were.
    judged_until_s: u32,
    /// A failure is logged once.
    last_error: Option<String>,
}

impl Sweeper {
    /// Grows CONNTRACK at once where a former agent's is smaller than is wanted.
    pub(super) fn new(maps: &mut Maps, interval: Duration, conntrack_max: u32, conntrack_limit: u32) -> Self {
        let mut sweeper = Self {
            sweep: Sweep::default(),
            interval,
            conntrack_limit: conntrack_limit.max(conntrack_max),
            due: Instant::now(),
            last: None,
            watched: BTreeMap::new(),
            judged_until_s: now_s(),
            last_error: None,
        };
        if maps.entries_max::<lb_common::conntrack::FlowKey>() < conntrack_max {
            sweeper.grow(maps, conntrack_max);
        }
        sweeper
    }

    /// When the next step is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// One step; whether a pass has ended with it.
    pub(super) fn step(&mut self, maps: &mut Maps, tables: &Tables) -> bool {
        self.due = Instant::now() + STEP_INTERVAL;
        if self.sweep.is_at_start() {
            self.sweep.watch(Watch {
                backend_services: self.watched.values().flatten().copied().collect(),
                after_s: self.judged_until_s,
                until_s: now_s().saturating_sub(ANSWER_TIMEOUT_S),
            });
        }
        let done = if maps.is_growing() { self.move_flows(maps) } else { self.sweep.step(maps, tables) };
        match done {
            Ok(None) => false,
            Ok(Some(pass)) => {
                self.due = Instant::now() + self.interval;
                self.last_error = None;
                self.end_pass(maps, pass);
                true
            }
            Err(error) => {
                self.due = Instant::now() + self.interval;
                let error = format!("{error:#}");
                if self.last_error.as_ref() != Some(&error) {
                    warn!(error, "a sweep is put off");
                }
                self.last_error = Some(error);
                false
            }
        }
    }

    fn move_flows(&mut self, maps: &mut Maps) -> anyhow::Result<Option<Pass>> {
        maps.move_flows()?;
        if !maps.is_growing() {
            info!("all flows are in the larger CONNTRACK");
            // A pass that was under way knows places of the former map.
            self.sweep = Sweep::default();
        }
        Ok(None)
    }

    /// Which backend services of a Service have their flows judged.
    pub(super) fn watch(&mut self, service: &ObjectName, ids: Vec<u32>) {
        if ids.is_empty() {
            self.watched.remove(service);
        } else {
            self.watched.insert(service.clone(), ids);
        }
    }

    /// How the flows began that the last pass judged, in this order; once.
    pub(super) fn take_begun(&mut self) -> Vec<Begun> {
        let mut begun = self.last.as_mut().map(|pass| std::mem::take(&mut pass.begun)).unwrap_or_default();
        begun.sort_unstable();
        begun
    }

    fn end_pass(&mut self, maps: &mut Maps, pass: Pass) {
        self.judged_until_s = self.judged_until_s.max(pass.judged_until_s);
        let micros = pass.busy.as_micros() as u64;
        for (map, found) in &pass.maps {
            let percent = found.pressure_percent();
            let (entries, expired, entries_max) = (found.entries, found.expired, found.entries_max);
            if percent >= WARN_PERCENT {
                warn!(map, entries, entries_max, percent, expired, micros, "a map is nearly full");
            } else {
                debug!(map, entries, entries_max, percent, expired, micros, "swept");
            }
        }
        let flows = pass.maps.first().map(|(_, found)| *found).unwrap_or_default();
        self.last = Some(pass);
        let wanted = flows.entries_max.saturating_mul(2).min(self.conntrack_limit);
        if flows.pressure_percent() >= GROW_PERCENT && wanted > flows.entries_max {
            self.grow(maps, wanted);
        }
    }

    fn grow(&mut self, maps: &mut Maps, entries_max: u32) {
        match maps.grow_conntrack(entries_max) {
            Ok(()) => info!(entries_max, "CONNTRACK grows"),
            Err(error) => warn!(entries_max, error = format!("{error:#}"), "CONNTRACK stays as it is"),
        }
    }
}
