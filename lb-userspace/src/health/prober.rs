//! The probing itself: which probe runs when, how many at a time, and what becomes of what they see.
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::reason::Seen;
use super::schedule::{Probe, Schedule};
use super::{
    ChangedTargets, Finding, HealthEvent, ProbingStats, ReasonCode, Target, TargetHealth, Targets, probe,
};
use crate::model::ObjectName;

/// Most probes under way; fewer where the process may open fewer files. At the bound further ones wait, and are
/// logged when they are late. So many are under way when 50,000 endpoints that are asked every ten seconds all
/// hang for a second and a half.
const PROBES_MAX: usize = 8_192;
/// Files that are left to the rest of the agent.
const FILES_RESERVED: u64 = 1_024;

/// How late a probe may begin before that is logged.
const LATE: Duration = Duration::from_secs(5);

/// What a prober knows, for others to look at while it runs.
#[derive(Clone, Default)]
pub struct Probing(Arc<Mutex<Schedule>>);

impl Probing {
    /// At most `targets_max` targets, in a fixed order: the first, or those that follow `after`; of one backend
    /// service, where its name is given. With the last one that was looked at; `None` when there are no more.
    #[must_use]
    pub fn page(
        &self,
        after: Option<&Target>,
        backend_service: Option<&str>,
        targets_max: usize,
    ) -> (Vec<TargetHealth>, Option<Target>) {
        self.schedule().page(after, backend_service, targets_max)
    }

    /// What probing amounts to.
    #[must_use]
    pub fn stats(&self) -> ProbingStats {
        self.schedule().stats()
    }

    /// Notes that new flows follow a finding from now on.
    pub fn note_effect(&self, finding: &Finding) {
        // A clock that was set back makes no time negative.
        self.schedule().note_effect(finding.since.elapsed().unwrap_or_default());
    }

    /// Held for moments only, never while anything is awaited.
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Probes the targets and reports what changes, until the targets' sender or the receiver of results
/// is gone.
pub async fn run(
    probing: Probing,
    mut targets: watch::Receiver<ChangedTargets>,
    results: mpsc::Sender<HealthEvent>,
) {
    let mut probes = JoinSet::new();
    let probes_max = probes_max();
    let mut log = Log::default();
    targets.mark_changed();
    loop {
        let next_due = begin_probes(&probing, &mut probes, probes_max, &mut log);
        let events = tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let changed = take(&targets.borrow_and_update());
                let (now, wall_clock) = (Instant::now(), SystemTime::now());
                let mut schedule = probing.schedule();
                let update = |(service, of)| schedule.update(service, of, now, wall_clock, random);
                changed.iter().flat_map(update).collect()
            }
            Some(done) = probes.join_next() => {
                // A probe that panicked has been reported by its task; it leaves its target alone.
                let Ok((probe, seen)) = done else { continue };
                log.own_fault(&seen);
                let event =
                    probing.schedule().record(&probe, seen, Instant::now(), SystemTime::now(), random());
                event.into_iter().collect::<Vec<_>>()
            }
            () = sleep_until(next_due.unwrap_or_else(Instant::now).into()), if next_due.is_some() => Vec::new(),
            () = results.closed() => return,
        };
        for event in events {
            if results.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Begins what is due and has room. When the next is due; `None` where that is not to be waited for.
fn begin_probes(
    probing: &Probing,
    probes: &mut JoinSet<(Probe, Seen)>,
    probes_max: usize,
    log: &mut Log,
) -> Option<Instant> {
    let now = Instant::now();
    let mut schedule = probing.schedule();
    let late = schedule.next_due().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
    log.lateness(late, probes_max);
    while probes.len() < probes_max
        && let Some(probe) = schedule.take_due(now)
    {
        probes.spawn(async move {
            let seen = ask(&probe).await;
            (probe, seen)
        });
    }
    schedule.next_due().filter(|_| probes.len() < probes_max)
}

/// How many probes may be under way: each has a file open. There is room for some whatever the limit.
fn probes_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (files.saturating_sub(FILES_RESERVED).max(files / 2) as usize).min(PROBES_MAX)
}

fn take(targets: &ChangedTargets) -> BTreeMap<ObjectName, Targets> {
    std::mem::take(&mut *targets.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn ask(probe: &Probe) -> Seen {
    let Probe { target, check, .. } = probe;
    let address = SocketAddr::new(target.address, check.port.unwrap_or(target.port));
    probe::ask(&check.kind, address, Duration::from_millis(check.timeout_ms.into())).await
}

fn random() -> u32 {
    // A new `RandomState` is seeded afresh.
    RandomState::new().hash_one(0u8) as u32
}

/// Says once when probing goes wrong on this node, and once when it is well again.
#[derive(Default)]
struct Log {
    is_late: bool,
    has_own_fault: bool,
}

impl Log {
    fn lateness(&mut self, late: Duration, probes_max: usize) {
        if late > LATE && !self.is_late {
            self.is_late = true;
            warn!(late_ms = late.as_millis(), probes_max, "health probes begin late");
        } else if late.is_zero() && self.is_late {
            self.is_late = false;
            info!("health probes begin in time again");
        }
    }

    fn own_fault(&mut self, seen: &Seen) {
        let is_own_fault = seen.code == ReasonCode::NodeFault;
        if is_own_fault && !self.has_own_fault {
            warn!(fault = seen.detail, "cannot probe endpoints from this node; their states stay");
        } else if !is_own_fault && self.has_own_fault {
            info!("endpoints can be probed again");
        }
        self.has_own_fault = is_own_fault;
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
