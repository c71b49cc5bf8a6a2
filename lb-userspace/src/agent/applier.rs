//! From the plan to the maps: a diff, its operations one by one, and what stays to be done.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use lb_common::Address;
use lb_common::endpoint::state;
use lb_common::maps as names;
use tokio::time::Instant;
use tracing::{error, info};

use crate::clock::now_ms;
use crate::diff::{self, Diff, Op, Tables};
use crate::health::{Target, Targets};
use crate::maps::{Maps, Occupancy};
use crate::model::{ObjectName, Problem};
use crate::plan::Desired;
use crate::sweep::Pass;

use super::chain::BrokenChains;
use super::socket_mover::SocketMover;
use super::switch::{Place, SharedSwitch};

/// Wait before what failed is tried again; doubled with each further failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the maps may be behind the plan before load balancers are told to avoid this node: as
/// kube-proxy, two of its sync periods (`pkg/proxy/healthcheck/proxy_health.go`).
const BEHIND_MAX: Duration = Duration::from_secs(60);

/// Seconds after which no packet is on its way that chose an endpoint before it was withdrawn.
const SETTLE_S: u32 = 1;

/// The maps, their mirror, and the Services whose part of the plan is not in them yet.
pub(super) struct Applier {
    pub(super) maps: Maps,
    tables: Tables,
    pub(super) switch: SharedSwitch,
    /// Whether the whole plan has been compared with the maps since the start.
    is_whole: bool,
    pending: BTreeSet<ObjectName>,
    retry: Duration,
    /// Bounds that the last diff of each Service met.
    pub(super) problems: Vec<Problem>,
    /// The last operation that the kernel refused.
    last_refusal: Option<String>,
    sockets: SocketMover,
    /// Since when nothing more of the plan comes into the maps although it should.
    stuck_since: Option<Instant>,
}

/// Operations by kind, for one line of the log.
#[derive(Default)]
struct Counts {
    endpoints: usize,
    rings: usize,
    negs: usize,
    backend_services: usize,
    source_ranges: usize,
    vips: usize,
    frontends: usize,
    deleted: usize,
}

/// What came of the operations of one diff.
#[derive(Default)]
struct Outcome {
    counts: Counts,
    done: usize,
    /// Operations that failed, and those that were left out with them.
    left: usize,
    /// The first that the kernel refused.
    refusal: Option<String>,
}

impl Counts {
    fn add(&mut self, op: &Op) {
        match op {
            Op::PutEndpoint { .. } => self.endpoints += 1,
            Op::WriteRing { .. } => self.rings += 1,
            Op::SwitchNeg { .. } => self.negs += 1,
            Op::PutBackendService { .. } => self.backend_services += 1,
            Op::PutFrontend { .. } => self.frontends += 1,
            Op::PutSourceRange { .. } => self.source_ranges += 1,
            Op::PutVip { .. } => self.vips += 1,
            Op::DeleteFrontend { .. }
            | Op::DeleteVip { .. }
            | Op::DeleteSourceRange { .. }
            | Op::DeleteBackendService { .. }
            | Op::DeleteEndpoint { .. } => self.deleted += 1,
        }
    }
}

impl Applier {
    /// On maps as they are pinned: what they hold is the state to start from.
    pub(super) fn new(maps: Maps, sockets: SocketMover) -> Result<Self> {
        let tables = maps.tables()?;
        let states = maps.endpoint_states();
        Ok(Self {
            switch: SharedSwitch::new(move |place| states.take_out(place.id, place.generation)),
            maps,
            tables,
            is_whole: false,
            pending: BTreeSet::new(),
            retry: RETRY_MIN,
            problems: Vec::new(),
            last_refusal: None,
            sockets,
            stuck_since: None,
        })
    }

    /// Brings the maps to the plan, as far as the kernel lets. The first time everything is compared,
    /// and what no Service wants goes; later only the Services that changed and those that are pending.
    pub(super) fn apply(&mut self, desired: &Desired, changed: &BTreeSet<ObjectName>) {
        let begun = Instant::now();
        let diff = if self.is_whole {
            self.pending.extend(changed.iter().cloned());
            diff::services(desired, &self.tables, &self.pending, now_ms())
        } else {
            diff::full(desired, &self.tables, now_ms())
        };
        let was_whole = self.is_whole;
        let Diff { ops, problems, pending } = diff;
        let Outcome { counts, done, left, refusal } = self.carry_out(&ops);
        match &refusal {
            None => {
                self.is_whole = true;
                let looked_at = std::mem::replace(&mut self.pending, pending);
                self.problems.retain(|known| was_whole && !looked_at.contains(&known.object));
                self.problems.extend(problems);
            }
            Some(message) if self.last_refusal.as_ref() != Some(message) => {
                error!(error = message, done, left, "an operation failed; it will be tried again");
            }
            Some(_) => {}
        }
        self.last_refusal = refusal;
        let is_stuck = self.last_refusal.is_some() || (!self.pending.is_empty() && done == 0);
        self.stuck_since = is_stuck.then(|| self.stuck_since.unwrap_or_else(Instant::now));
        self.retry = if is_stuck { (self.retry * 2).min(RETRY_MAX) } else { RETRY_MIN };
        if done > 0 {
            let Counts { endpoints, rings, negs, backend_services, source_ranges, vips, frontends, deleted } =
                counts;
            let micros = begun.elapsed().as_micros() as u64;
            let pending = self.pending.len();
            info!(
                endpoints,
                rings,
                negs,
                backend_services,
                source_ranges,
                vips,
                frontends,
                deleted,
                pending,
                micros,
                "applied"
            );
        }
    }

    /// The maps, and what stands in them.
    pub(super) fn maps_and_tables(&mut self) -> (&mut Maps, &Tables) {
        (&mut self.maps, &self.tables)
    }

    /// Gives up the withdrawn endpoints whose drain is over: at their deadline, or when the last sweep, begun
    /// after every packet that could still have chosen them, has found none of their flows.
    pub(super) fn end_drains(&mut self, desired: &Desired, pass: Option<&Pass>) {
        let tables = &self.tables;
        let is_idle = |id: u32| {
            pass.is_some_and(|pass| {
                let is_later = pass.began_s > tables.endpoint(id).withdrawn_s + SETTLE_S;
                is_later && pass.flows.of(id, tables) == 0
            })
        };
        let Diff { ops, .. } = diff::drains(desired, tables, &is_idle, now_ms());
        let Outcome { counts, done, left, refusal } = self.carry_out(&ops);
        if let Some(error) = refusal {
            error!(error, done, left, "the end of a drain failed; it will be tried again");
        }
        if counts.deleted > 0 {
            let draining = self.tables.withdrawn().count();
            info!(deleted = counts.deleted, draining, "drains are over");
        }
    }

    /// Does what the kernel lets, and leaves out what may refer to something that it refused: the next
    /// diff asks for that again.
    fn carry_out(&mut self, ops: &[Op]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut broken = BrokenChains::default();
        let mut has_left = false;
        for op in ops {
            if broken.leaves_out(op, &self.tables) {
                outcome.left += 1;
                continue;
            }
            match self.store(op) {
                Ok(()) => {
                    outcome.counts.add(op);
                    outcome.done += 1;
                    has_left |= takes_no_new_flows(op);
                }
                Err(error) => {
                    broken.failed(op, &self.tables);
                    outcome.left += 1;
                    outcome.refusal.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        }
        if has_left {
            self.sockets.mark();
        }
        outcome
    }

    /// Carries out one operation in the maps and the mirror.
    fn store(&mut self, op: &Op) -> Result<()> {
        let mut switch = self.switch.lock();
        let held;
        let op = match op {
            Op::PutEndpoint { id, endpoint } => {
                held = Op::PutEndpoint { id: *id, endpoint: switch.hold_out(endpoint, &self.tables) };
                &held
            }
            op => op,
        };
        self.maps.apply(op)?;
        if let Op::PutEndpoint { id, endpoint } = op {
            switch.follow(*id, endpoint, &self.tables);
        }
        self.tables.apply(op, now_ms());
        Ok(())
    }

    /// Tells the switch where the targets of a Service are.
    pub(super) fn place_targets(&self, service: &ObjectName, targets: &Targets) {
        let place = |target: &Target| {
            let id = self.endpoint_id(target)?;
            Some((target.clone(), Place { id, generation: self.tables.endpoint(id).generation }))
        };
        self.switch.lock().place(service, targets.keys().filter_map(place).collect());
    }

    fn endpoint_id(&self, target: &Target) -> Option<u32> {
        let service = self.tables.backend_service_id(&target.backend_service)?;
        self.tables.endpoint_id(service, Address::from(target.address), target.port)
    }

    /// How many Services are not in the maps as the plan has them.
    pub(super) fn services_pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether a Service is one of these.
    pub(super) fn is_pending(&self, service: &ObjectName) -> bool {
        !self.is_whole || self.pending.contains(service)
    }

    /// Whether the kernel refused an operation of the last apply.
    pub(super) fn was_refused(&self) -> bool {
        self.last_refusal.is_some()
    }

    /// How full the maps are that a plan fills.
    pub(super) fn occupancy(&self) -> [(&'static str, Occupancy); 5] {
        let (tables, limits) = (&self.tables, self.tables.limits());
        let arena = tables.arena();
        let of = |entries: u32, entries_max: u32| Occupancy {
            entries: entries.into(),
            entries_max: entries_max.into(),
        };
        [
            (names::FRONTENDS, of(tables.frontends_used(), limits.frontends_max)),
            (names::BACKEND_SERVICES, of(tables.backend_services_used(), limits.backend_services_max)),
            (names::ENDPOINTS, of(tables.endpoints_used(), limits.endpoints_max)),
            (names::RING_SLOTS, of(arena.capacity() - arena.free_slots(), arena.capacity())),
            (names::SOURCE_RANGES, of(tables.source_ranges_used(), limits.source_ranges_max)),
        ]
    }

    /// Whether the maps hold what the plan says, or came closer to it not long ago.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.stuck_since.is_none_or(|since| since.elapsed() < BEHIND_MAX)
    }

    /// Services of which the maps do not hold what the plan says.
    pub(super) fn behind(&self) -> BTreeSet<String> {
        let refused = self.problems.iter().map(|problem| &problem.object);
        self.pending.iter().chain(refused).map(ToString::to_string).collect()
    }

    /// When to apply again although nothing changed; `None` when all is done.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        (self.last_refusal.is_some() || !self.pending.is_empty()).then_some(self.retry)
    }

    /// Takes an endpoint out of every ring, or puts it back, with one store, if the switch has not done so: the
    /// rings follow with the next apply.
    pub(super) fn set_health(&mut self, target: &Target, is_healthy: bool) {
        let Some(id) = self.endpoint_id(target) else { return };
        // Compared again even if the plan comes out as it was.
        self.pending.insert(target.backend_service.service.clone());
        let switch = self.switch.lock();
        if is_healthy && switch.is_held_out(target) {
            return;
        }
        let mut endpoint = self.tables.endpoint(id);
        endpoint.state &= !(state::HEALTHY | state::PANIC);
        endpoint.state |= if is_healthy { state::HEALTHY } else { 0 };
        match self.maps.set_endpoint_state(id, endpoint.state) {
            Ok(()) => {
                self.tables.apply(&Op::PutEndpoint { id, endpoint }, now_ms());
                if !is_healthy {
                    self.sockets.mark();
                }
            }
            Err(error) => error!(error = format!("{error:#}"), "cannot take an unhealthy endpoint out"),
        }
    }
}

/// Whether sockets may have to leave the endpoint that an operation is about.
fn takes_no_new_flows(op: &Op) -> bool {
    match op {
        Op::PutEndpoint { endpoint, .. } | Op::DeleteEndpoint { endpoint, .. } => !endpoint.takes_new_flows(),
        _ => false,
    }
}
