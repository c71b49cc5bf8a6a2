//! The probing itself: which probe runs when, how many at a time, and what becomes of what they see.
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::schedule::{Probe, Schedule, Seen};
use super::{ChangedTargets, HealthEvent, Targets, probe};
use crate::model::ObjectName;

/// Most probes under way. At the bound further ones wait, and are logged when they are late.
const PROBES_MAX: usize = 512;

/// How late a probe may begin before that is logged.
const LATE: Duration = Duration::from_secs(5);

/// Probes the targets and reports what changes, until the targets' sender or the receiver of results
/// is gone.
pub async fn run(mut targets: watch::Receiver<ChangedTargets>, results: mpsc::Sender<HealthEvent>) {
    let mut schedule = Schedule::default();
    let mut probes = JoinSet::new();
    let mut log = Log::default();
    targets.mark_changed();
    loop {
        let now = Instant::now();
        log.lateness(schedule.next_due().map_or(Duration::ZERO, |due| now.saturating_duration_since(due)));
        while probes.len() < PROBES_MAX
            && let Some(probe) = schedule.take_due(now)
        {
            probes.spawn(async move {
                let seen = ask(&probe).await;
                (probe, seen)
            });
        }
        let next_due = schedule.next_due().filter(|_| probes.len() < PROBES_MAX);
        let events = tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let changed = take(&targets.borrow_and_update());
                let now = Instant::now();
                changed.iter().flat_map(|(service, of)| schedule.update(service, of, now, random)).collect()
            }
            Some(done) = probes.join_next() => {
                // A probe that panicked has been reported by its task; it leaves its target alone.
                let Ok((probe, seen)) = done else { continue };
                log.own_fault(seen.as_ref().err());
                let event = schedule.record(&probe, seen, Instant::now(), SystemTime::now(), random());
                event.into_iter().collect()
            }
            () = sleep_until(next_due.unwrap_or(now).into()), if next_due.is_some() => Vec::new(),
            () = results.closed() => return,
        };
        for event in events {
            if results.send(event).await.is_err() {
                return;
            }
        }
    }
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
    fn lateness(&mut self, late: Duration) {
        if late > LATE && !self.is_late {
            self.is_late = true;
            warn!(late_ms = late.as_millis(), probes_max = PROBES_MAX, "health probes begin late");
        } else if late.is_zero() && self.is_late {
            self.is_late = false;
            info!("health probes begin in time again");
        }
    }

    fn own_fault(&mut self, fault: Option<&String>) {
        match fault {
            Some(fault) if !self.has_own_fault => {
                self.has_own_fault = true;
                warn!(%fault, "cannot probe endpoints from this node; their states stay");
            }
            None if self.has_own_fault => {
                self.has_own_fault = false;
                info!("endpoints can be probed again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
