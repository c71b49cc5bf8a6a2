//! Which target is probed when, and what its probes add up to. Pure: time and chance are arguments.
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{CheckState, Finding, HealthEvent, Outcome, Target, Targets};
use crate::model::{HealthCheck, ObjectName, Protocol};
use crate::plan::BackendServiceName;

/// What is known of a target.
struct Entry {
    /// Tells a target from one of the same name that was given up before.
    id: u64,
    check: Arc<HealthCheck>,
    state: CheckState,
    has_finding: bool,
    /// When its next probe is due; `None` while one is under way.
    due: Option<Instant>,
}

/// A probe to be made now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) target: Target,
    pub(super) started: Instant,
    pub(super) check: Arc<HealthCheck>,
    id: u64,
}

/// What a probe saw. `Err` is a fault of this node, which says nothing about the endpoint.
pub(super) type Seen = Result<(Outcome, String), String>;

/// All targets.
#[derive(Default)]
pub(super) struct Schedule {
    entries: BTreeMap<Target, Entry>,
    due: BTreeSet<(Instant, Target)>,
    ids_given: u64,
}

impl Schedule {
    /// Takes the new set of a Service's targets, at their cost. The first probe of a new one is due within one interval, at a time
    /// that `random` spreads, so that an agent that starts does not probe all at once.
    pub(super) fn update(
        &mut self,
        service: &ObjectName,
        targets: &Targets,
        now: Instant,
        mut random: impl FnMut() -> u32,
    ) -> Vec<HealthEvent> {
        let known = self.entries.range(least(service)..).map(|(target, _)| target);
        let known = known.take_while(|target| target.backend_service.service == *service);
        let removed: Vec<_> = known.filter(|target| !targets.contains_key(*target)).cloned().collect();
        let events = removed.into_iter().filter_map(|target| self.remove(target)).collect();
        for (target, check) in targets {
            let interval = interval(check);
            let Some(entry) = self.entries.get_mut(target) else {
                let due = now + part_of(interval, random());
                self.add(target, check, due);
                continue;
            };
            if entry.check == *check {
                continue;
            }
            entry.check = Arc::clone(check);
            // A shorter interval holds at once.
            let latest = now + part_of(interval, random());
            if let Some(due) = entry.due.filter(|due| *due > latest) {
                self.due.remove(&(due, target.clone()));
                self.due.insert((latest, target.clone()));
                entry.due = Some(latest);
            }
        }
        events
    }

    /// When the next probe is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next probe that is due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Probe> {
        if self.next_due()? > now {
            return None;
        }
        let (_, target) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&target)?;
        entry.due = None;
        Some(Probe { target, started: now, check: entry.check.clone(), id: entry.id })
    }

    /// Takes what a probe saw. The next one is due an interval after this one began, a tenth more or
    /// less by `random`, so that the probes of many nodes do not fall together.
    pub(super) fn record(
        &mut self,
        probe: &Probe,
        seen: Seen,
        now: Instant,
        wall_clock: SystemTime,
        random: u32,
    ) -> Option<HealthEvent> {
        let entry = self.entries.get_mut(&probe.target).filter(|entry| entry.id == probe.id)?;
        let interval = interval(&entry.check);
        let due = (probe.started + interval * 9 / 10 + part_of(interval / 5, random)).max(now);
        entry.due = Some(due);
        self.due.insert((due, probe.target.clone()));
        let (outcome, reason) = seen.ok()?;
        if !entry.state.record(outcome, &entry.check) {
            return None;
        }
        entry.has_finding = true;
        let finding =
            Finding { is_healthy: entry.state.is_healthy(), since: wall_clock, reason: reason.into() };
        Some(HealthEvent::Found(probe.target.clone(), finding))
    }

    fn add(&mut self, target: &Target, check: &Arc<HealthCheck>, due: Instant) {
        self.ids_given += 1;
        let entry = Entry {
            id: self.ids_given,
            check: Arc::clone(check),
            state: CheckState::default(),
            has_finding: false,
            due: Some(due),
        };
        self.entries.insert(target.clone(), entry);
        self.due.insert((due, target.clone()));
    }

    fn remove(&mut self, target: Target) -> Option<HealthEvent> {
        let entry = self.entries.remove(&target)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, target.clone()));
        }
        entry.has_finding.then_some(HealthEvent::Forgotten(target))
    }
}

/// The least target of a Service, in their order.
fn least(service: &ObjectName) -> Target {
    let backend_service = BackendServiceName {
        service: service.clone(),
        port_name: "".into(),
        port: 0,
        protocol: Protocol::Tcp,
    };
    Target { backend_service: Arc::new(backend_service), address: Ipv4Addr::UNSPECIFIED.into(), port: 0 }
}

fn interval(check: &HealthCheck) -> Duration {
    Duration::from_millis(check.interval_ms.into())
}

/// `random` of `u32::MAX` parts of a time.
fn part_of(time: Duration, random: u32) -> Duration {
    time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
