//! What of objects cannot be used, as Events on them tell it.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Allowance, SETTLE};
use crate::model::ObjectName;

/// The kinds of objects whose faults are told: those that people write for Podway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultyKind {
    /// `Ingress`.
    Ingress,
    /// `Secret`.
    Secret,
    /// `Service`.
    Service,
    /// `FrontendConfig`.
    FrontendConfig,
    /// `BackendConfig`.
    BackendConfig,
}

impl FaultyKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Ingress, Self::Secret, Self::Service, Self::FrontendConfig, Self::BackendConfig];

    /// The one of a name; `None` for kinds whose faults the log alone tells.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As in a manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::FrontendConfig => "FrontendConfig",
            Self::BackendConfig => "BackendConfig",
        }
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Ingress => "networking.k8s.io/v1",
            Self::Secret | Self::Service => "v1",
            Self::FrontendConfig => "networking.gke.io/v1beta1",
            Self::BackendConfig => "cloud.google.com/v1",
        }
    }

    /// The reason of the Events.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ingress => "IngressFault",
            Self::Secret => "SecretFault",
            Self::Service => "ServiceFault",
            Self::FrontendConfig => "FrontendConfigFault",
            Self::BackendConfig => "BackendConfigFault",
        }
    }
}

/// Something of an object that cannot be used, and that its owner must put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The kind of the object.
    pub kind: FaultyKind,
    /// Its name.
    pub object: ObjectName,
    /// One line: operation, datum, cause, remedy.
    pub message: String,
}

/// Since when a fault is there, and when it was told.
#[derive(Debug)]
struct Known {
    since: Instant,
    told_in: Option<u64>,
}

/// All faults that there are, and what was told of them.
#[derive(Debug)]
pub struct FaultLedger {
    known: BTreeMap<Fault, Known>,
    allowance: Allowance,
}

impl FaultLedger {
    /// An empty one.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { known: BTreeMap::new(), allowance: Allowance::full(now) }
    }

    /// Takes the faults as they are now.
    pub fn note(&mut self, faults: BTreeSet<Fault>, now: Instant) {
        self.known.retain(|fault, _| faults.contains(fault));
        for fault in faults {
            self.known.entry(fault).or_insert(Known { since: now, told_in: None });
        }
    }

    /// What is to be told now by this agent, where `is_ours` says that it writes for an object: what has lasted, once
    /// in each `period` in which it does, since an API server forgets Events.
    pub fn due(&mut self, now: Instant, period: u64, is_ours: impl Fn(&ObjectName) -> bool) -> Vec<Fault> {
        self.allowance.grow(now);
        let mut due = Vec::new();
        for (fault, known) in &mut self.known {
            let is_old = now.saturating_duration_since(known.since) >= SETTLE;
            if !is_old || known.told_in == Some(period) || !is_ours(&fault.object) {
                continue;
            }
            if self.allowance.is_spent() {
                break;
            }
            self.allowance.spend();
            known.told_in = Some(period);
            due.push(fault.clone());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PERIOD: u64 = 7;

    fn fault(object: &str) -> Fault {
        let message = "annotation podway.io/other is not served; the rest holds".to_owned();
        Fault { kind: FaultyKind::Ingress, object: ObjectName::new("shop", object), message }
    }

    /// A ledger that has these from the beginning, and its beginning.
    fn ledger(objects: &[&str]) -> (FaultLedger, Instant) {
        let start = Instant::now();
        let mut ledger = FaultLedger::new(start);
        ledger.note(objects.iter().copied().map(fault).collect(), start);
        (ledger, start)
    }

    fn due(ledger: &mut FaultLedger, now: Instant, period: u64) -> Vec<String> {
        ledger.due(now, period, |_| true).into_iter().map(|fault| fault.object.name.to_string()).collect()
    }

    #[test]
    fn a_fault_is_told_once_it_has_lasted_and_again_in_the_next_period() {
        let (mut ledger, start) = ledger(&["web"]);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(due(&mut ledger, at(4), PERIOD), [""; 0]);
        assert_eq!(due(&mut ledger, at(5), PERIOD), ["web"]);
        assert_eq!(due(&mut ledger, at(60), PERIOD), [""; 0]);
        assert_eq!(due(&mut ledger, at(3_600), PERIOD + 1), ["web"]);
    }

    #[test]
    fn a_fault_that_goes_and_returns_must_last_again() {
        let (mut ledger, start) = ledger(&["web"]);
        let at = |seconds| start + Duration::from_secs(seconds);
        ledger.note(BTreeSet::new(), at(1));
        ledger.note([fault("web")].into(), at(2));
        assert_eq!(due(&mut ledger, at(6), PERIOD), [""; 0]);
        assert_eq!(due(&mut ledger, at(7), PERIOD), ["web"]);
    }

    #[test]
    fn an_agent_tells_of_its_own_objects_and_takes_over_those_of_one_that_is_gone() {
        let (mut ledger, start) = ledger(&["cart", "web"]);
        let now = start + SETTLE;
        let ours: Vec<_> = ledger.due(now, PERIOD, |object| &*object.name == "cart");
        assert_eq!(ours, [fault("cart")]);
        assert_eq!(due(&mut ledger, now, PERIOD), ["web"]);
    }

    #[test]
    fn twenty_are_told_at_once_and_all_others_later() {
        let names: Vec<String> = (0..25).map(|number| format!("web-{number}")).collect();
        let (mut ledger, start) = ledger(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut told = |seconds| due(&mut ledger, start + Duration::from_secs(seconds), PERIOD).len();
        assert_eq!([5, 6, 8, 60].map(&mut told), [20, 1, 0, 4]);
    }
}
