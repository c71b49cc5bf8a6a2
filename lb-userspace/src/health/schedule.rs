//! Which target is probed when, and what its probes add up to. Pure: time and chance are arguments.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::reason::Seen;
use super::{
    CheckState, DecidedBy, Finding, HealthEvent, LastProbe, ProbingStats, Target, TargetHealth, Targets,
};
use crate::model::{HealthCheck, ObjectName, Protocol};
use crate::plan::BackendServiceName;

/// What is known of a target.
struct Entry {
    /// Tells a target from one of the same name that was given up before.
    id: u64,
    check: Arc<HealthCheck>,
    state: CheckState,
    /// When it became what it is.
    since: SystemTime,
    /// Whether a probe has said anything about it.
    is_probed: bool,
    last_probe: Option<LastProbe>,
    has_finding: bool,
    /// When its next probe is due; `None` while one is under way.
    due: Option<Instant>,
}

impl Entry {
    fn health(&self, target: &Target) -> TargetHealth {
        TargetHealth {
            backend_service: target.backend_service.to_string(),
            endpoint: SocketAddr::new(target.address, target.port),
            healthy: self.state.is_healthy(),
            since_unix_ms: unix_ms(self.since),
            decided_by: if self.is_probed { DecidedBy::Probe } else { DecidedBy::Readiness },
            last_probe: self.last_probe.clone(),
        }
    }
}

/// A probe to be made now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) target: Target,
    pub(super) started: Instant,
    pub(super) check: Arc<HealthCheck>,
    id: u64,
}

/// All targets.
#[derive(Default)]
pub(super) struct Schedule {
    entries: BTreeMap<Target, Entry>,
    due: BTreeSet<(Instant, Target)>,
    ids_given: u64,
    /// But for the targets.
    stats: ProbingStats,
}

impl Schedule {
    /// Takes the new set of a Service's targets, at their cost. The first probe of a new one is due within one interval, at a time
    /// that `random` spreads, so that an agent that starts does not probe all at once.
    pub(super) fn update(
        &mut self,
        service: &ObjectName,
        targets: &Targets,
        now: Instant,
        wall_clock: SystemTime,
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
                self.add(target, check, due, wall_clock);
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
        let (due, target) = self.due.pop_first()?;
        self.stats.lateness.add(now.saturating_duration_since(due));
        let entry = self.entries.get_mut(&target)?;
        entry.due = None;
        Some(Probe { target, started: now, check: entry.check.clone(), id: entry.id })
    }

    /// Takes what a probe saw. The next one is due an interval after this one began, up to a fifth less by `random`, so
    /// that the probes of many nodes do not fall together. Never more: an endpoint that fails is found unhealthy within
    /// its interval times its threshold and one timeout, as long as its timeout is not longer than its interval.
    pub(super) fn record(
        &mut self,
        probe: &Probe,
        seen: Seen,
        now: Instant,
        wall_clock: SystemTime,
        random: u32,
    ) -> Option<HealthEvent> {
        let latency = now.saturating_duration_since(probe.started);
        *self.stats.probes.entry(seen.code).or_default() += 1;
        self.stats.latency.add(latency);
        let entry = self.entries.get_mut(&probe.target).filter(|entry| entry.id == probe.id)?;
        let interval = interval(&entry.check);
        let due = (probe.started + interval * 4 / 5 + part_of(interval / 5, random)).max(now);
        entry.due = Some(due);
        self.due.insert((due, probe.target.clone()));
        let outcome = seen.code.outcome();
        let has_changed = outcome.is_some_and(|outcome| entry.state.record(outcome, &entry.check));
        let reason: Option<Arc<str>> = has_changed.then(|| seen.to_string().into());
        entry.last_probe = Some(LastProbe {
            at_unix_ms: unix_ms(wall_clock),
            latency_us: latency.as_micros() as u64,
            reason_code: seen.code,
            detail: seen.detail,
        });
        entry.is_probed |= outcome.is_some();
        let reason = reason?;
        entry.has_finding = true;
        entry.since = wall_clock;
        let finding = Finding { is_healthy: entry.state.is_healthy(), since: wall_clock, reason };
        Some(HealthEvent::Found(probe.target.clone(), finding))
    }

    /// What is known of at most `targets_max` targets that come after one, or of the first, in their order. Of
    /// one backend service, where its name is given. With the target to go on after.
    pub(super) fn page(
        &self,
        after: Option<&Target>,
        backend_service: Option<&str>,
        targets_max: usize,
    ) -> (Vec<TargetHealth>, Option<Target>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at: Vec<_> = self.entries.range((from, Bound::Unbounded)).take(targets_max).collect();
        let is_wanted = |target: &Target| {
            backend_service.is_none_or(|wanted| target.backend_service.to_string() == wanted)
        };
        let wanted = looked_at.iter().filter(|(target, _)| is_wanted(target));
        let page = wanted.map(|(target, entry)| entry.health(target)).collect();
        (page, looked_at.last().map(|(target, _)| (*target).clone()))
    }

    /// What probing amounts to.
    pub(super) fn stats(&self) -> ProbingStats {
        let unhealthy = self.entries.values().filter(|entry| !entry.state.is_healthy()).count();
        ProbingStats { targets: self.entries.len(), unhealthy, ..self.stats.clone() }
    }

    /// Notes that new flows follow a finding, so long after it was made.
    pub(super) fn note_effect(&mut self, after: Duration) {
        self.stats.effect.add(after);
    }

    fn add(&mut self, target: &Target, check: &Arc<HealthCheck>, due: Instant, wall_clock: SystemTime) {
        self.ids_given += 1;
        let entry = Entry {
            id: self.ids_given,
            check: Arc::clone(check),
            state: CheckState::default(),
            since: wall_clock,
            is_probed: false,
            last_probe: None,
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

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// `random` of `u32::MAX` parts of a time.
fn part_of(time: Duration, random: u32) -> Duration {
    time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
