//! What is known of an endpoint's health, from all who know something of it. Pure.
use std::time::SystemTime;

use serde::Serialize;

use crate::model::{HealthPolicy, PassivePolicy};

use super::{Outlier, Signal};

/// Parts of its share in which an endpoint that is healthy again comes back.
pub const WARMING_STEPS: u64 = 10;

/// How an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Takes its share of new flows.
    #[default]
    Healthy,
    /// Healthy again, and takes a share that rises.
    Warming,
    /// Ejected for how flows and requests to it fare.
    Ejected,
    /// Fails its health check, whether ejected or not.
    Unhealthy,
}

impl HealthState {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Warming, Self::Ejected, Self::Unhealthy];

    /// The name in every output, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warming => "warming",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Whether the endpoint may take new flows.
    #[must_use]
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy | Self::Warming)
    }
}

/// Why an endpoint is as it is. The names in output are stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateReason {
    /// Nothing is known against it.
    #[default]
    NothingKnown,
    /// So many probes in a row passed.
    ProbesPassed,
    /// So many probes in a row failed.
    ProbesFailed,
    /// So many flows or requests in a row failed.
    ConsecutiveFailures,
    /// Too great a share of flows or requests failed.
    FailureShare,
    /// The time of its ejection is over.
    EjectionOver,
    /// It has its whole share again.
    WarmedUp,
}

impl StateReason {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::NothingKnown,
        Self::ProbesPassed,
        Self::ProbesFailed,
        Self::ConsecutiveFailures,
        Self::FailureShare,
        Self::EjectionOver,
        Self::WarmedUp,
    ];

    /// The name in every output, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NothingKnown => "nothing-known",
            Self::ProbesPassed => "probes-passed",
            Self::ProbesFailed => "probes-failed",
            Self::ConsecutiveFailures => "consecutive-failures",
            Self::FailureShare => "failure-share",
            Self::EjectionOver => "ejection-over",
            Self::WarmedUp => "warmed-up",
        }
    }
}

/// Who said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reporter {
    /// A probe of this node; and before anybody has said anything.
    #[default]
    Probe,
    /// The packet path, by the flows that it carried.
    Path,
    /// The front-end, by the requests that it carried.
    FrontEnd,
    /// Another node's agent.
    Peer,
}

/// One moment by two clocks: the monotonic one for spans, the other for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of the monotonic clock.
    pub monotonic_ms: u64,
    /// Wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { monotonic_ms: crate::clock::now_ms(), wall: SystemTime::now() }
    }
}

/// How an endpoint is, since when, why, and who said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The state.
    pub state: HealthState,
    /// Its begin; `None` while nothing has changed it.
    pub since: Option<SystemTime>,
    /// Why.
    pub reason: StateReason,
    /// Who said so.
    pub reporter: Reporter,
}

/// Reason and reporter.
type Cause = (StateReason, Reporter);

/// The state machine of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointHealth {
    fails_probes: bool,
    outlier: Outlier,
    /// Why it is ejected, while it is.
    ejected: Cause,
    /// When warming began and how long it takes, milliseconds.
    warming: Option<(u64, u64)>,
    health: Health,
}

impl EndpointHealth {
    /// What is known.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Whether it is ejected, whatever its probes say.
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        self.outlier.is_ejected()
    }

    /// Whether time alone changes it.
    #[must_use]
    pub const fn is_timed(&self) -> bool {
        self.warming.is_some() || self.outlier.is_ejected()
    }

    /// Percent of its share of new flows that it takes: while it warms up in steps of a tenth, from the first.
    #[must_use]
    pub fn share_percent(&self, now: Moment) -> u8 {
        let Some((began_ms, length_ms)) = self.warming else { return 100 };
        let step = now.monotonic_ms.saturating_sub(began_ms) * WARMING_STEPS / length_ms.max(1) + 1;
        (step.min(WARMING_STEPS) * 100 / WARMING_STEPS) as u8
    }

    /// Takes what probes add up to.
    pub fn probe(&mut self, passes: bool, reporter: Reporter, policy: &HealthPolicy, now: Moment) {
        self.fails_probes = !passes;
        let reason = if passes { StateReason::ProbesPassed } else { StateReason::ProbesFailed };
        self.settle((reason, reporter), policy, now);
    }

    /// Takes how a flow or request fared that began at `began_ms`. Where it should be ejected for that,
    /// `may_eject` says whether it may be.
    pub fn signal(
        &mut self,
        (signal, began_ms, reporter): (Signal, u64, Reporter),
        policy: &HealthPolicy,
        passive: &PassivePolicy,
        now: Moment,
        may_eject: impl FnOnce() -> bool,
    ) {
        let reason = self.outlier.record(signal, began_ms, now.monotonic_ms, passive);
        if let Some(reason) = reason.filter(|_| may_eject()) {
            self.outlier.eject(now.monotonic_ms, passive);
            self.ejected = (reason, reporter);
            self.settle(self.ejected, policy, now);
        }
    }

    /// Lets time pass: ejections and warming end.
    pub fn tick(&mut self, policy: &HealthPolicy, now: Moment) {
        if self.outlier.release(now.monotonic_ms) {
            self.settle((StateReason::EjectionOver, self.ejected.1), policy, now);
        }
        let is_warm = |(began_ms, length_ms)| now.monotonic_ms >= began_ms + length_ms;
        if self.warming.is_some_and(is_warm) {
            self.warming = None;
            self.settle((StateReason::WarmedUp, self.health.reporter), policy, now);
        }
    }

    /// The state that follows from all that is known; a probe goes before an ejection.
    fn settle(&mut self, cause: Cause, policy: &HealthPolicy, now: Moment) {
        let is_in = !self.fails_probes && !self.outlier.is_ejected();
        if !is_in {
            self.warming = None;
        } else if !self.health.state.is_healthy() && policy.slow_start_s > 0 {
            self.warming = Some((now.monotonic_ms, u64::from(policy.slow_start_s) * 1_000));
        }
        let (state, (reason, reporter)) = match (self.fails_probes, self.outlier.is_ejected()) {
            (true, _) => (HealthState::Unhealthy, cause),
            (false, true) => (HealthState::Ejected, self.ejected),
            (false, false) if self.warming.is_some() => (HealthState::Warming, cause),
            (false, false) => (HealthState::Healthy, cause),
        };
        if state != self.health.state {
            self.health = Health { state, since: Some(now.wall), reason, reporter };
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
