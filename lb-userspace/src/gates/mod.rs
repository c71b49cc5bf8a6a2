//! Readiness gates (KEP-580): a pod of this node becomes ready once the nodes of the cluster can choose it, so that a
//! rollout does not outrun the data path. [`Gates`] decides, and is pure; [`run`] writes.
//!
//! A pod that waits is not ready, so it is in no ring yet. What is waited for is that every node's maps hold it in
//! ENDPOINTS with its address. A node that has come that far has done all changes of EndpointSlices before it too, those of
//! the rollout's former steps among them; and it takes the pod into its rings with the next change, the one that says that
//! the pod is ready.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{EndpointSlice, GatedPod, ObjectName, ReadinessGate};
use crate::peers::Summary;

mod writer;

pub use writer::run;

/// How long a pod waits for a Service to name it, milliseconds from when it has an address. One that none names is not
/// waited for.
const SERVICE_WAIT_MS: u64 = 15_000;

/// How long a pod waits at most, milliseconds: a node whose maps are full must not hold up all rollouts for ever.
const WAIT_MAX_MS: u64 = 600_000;

/// Time after which what was told is told again where the pod still waits, milliseconds.
const TELL_INTERVAL_MS: u64 = 5_000;

/// Why a gate is met. The names are those of the condition's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateReason {
    /// All live agents' maps hold the pod.
    Programmed,
    /// No Service names the pod.
    NoService,
    /// Some do not hold it, but it has waited long enough.
    TimedOut,
}

impl GateReason {
    /// `reason` and `message` of the condition.
    #[must_use]
    pub const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Programmed => ("Programmed", "the nodes that serve its Services hold the pod"),
            Self::NoService => ("NoService", "no Service names the pod"),
            Self::TimedOut => {
                ("TimedOut", "some nodes do not hold the pod after ten minutes; it is ready all the same")
            }
        }
    }
}

/// A pod whose gates are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// The pod.
    pub pod: Arc<GatedPod>,
    /// Its gates that are asked for.
    pub gates: Vec<ReadinessGate>,
    /// Why.
    pub reason: GateReason,
}

/// A pod that waits.
#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<GatedPod>,
    begun_ms: u64,
    /// The slices that name it: their Service, and the version at which they did first.
    named_by: BTreeMap<ObjectName, (ObjectName, u64)>,
    told_ms: Option<u64>,
}

/// The pods of this node that wait.
#[derive(Clone, Debug)]
pub struct Gates {
    asked: Vec<ReadinessGate>,
    waiting: BTreeMap<ObjectName, Waiting>,
}

impl Gates {
    /// No pods as yet; the gates that the agent is asked to meet.
    #[must_use]
    pub fn new(asked: Vec<ReadinessGate>) -> Self {
        Self { asked, waiting: BTreeMap::new() }
    }

    /// Whether no pod waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A pod waits. `true` where that is news: then [`Gates::look`] must see the slices of its namespace.
    pub fn wait(&mut self, pod: &Arc<GatedPod>, now_ms: u64) -> bool {
        let is_asked = pod.unmet.iter().any(|gate| self.asked.contains(gate));
        if !is_asked || pod.addresses.is_empty() {
            return self.forget(&pod.name);
        }
        let former = self.waiting.get_mut(&pod.name);
        if let Some(former) = former.filter(|f| f.pod.uid == pod.uid && f.pod.addresses == pod.addresses) {
            former.pod = Arc::clone(pod);
            return false;
        }
        let waiting =
            Waiting { pod: Arc::clone(pod), begun_ms: now_ms, named_by: BTreeMap::new(), told_ms: None };
        self.waiting.insert(pod.name.clone(), waiting);
        true
    }

    /// A pod waits no more. Always `false`: there is nothing to look for.
    pub fn forget(&mut self, pod: &ObjectName) -> bool {
        self.waiting.remove(pod);
        false
    }

    /// Takes the slices of a Service as they are in this node's maps.
    pub fn look<'a>(
        &mut self,
        service: &ObjectName,
        slices: &(impl Iterator<Item = &'a EndpointSlice> + Clone),
    ) {
        let of_namespace = |waiting: &&mut Waiting| waiting.pod.name.namespace == service.namespace;
        for waiting in self.waiting.values_mut().filter(of_namespace) {
            let pod = &waiting.pod;
            let names = |slice: &&'a EndpointSlice| {
                slice.endpoints.iter().any(|endpoint| pod.addresses.contains(&endpoint.address))
            };
            let former = std::mem::take(&mut waiting.named_by);
            let (of_service, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                former.into_iter().partition(|(_, (of, _))| of == service);
            waiting.named_by = others;
            for slice in slices.clone().filter(names) {
                let since = of_service.get(&slice.name).map(|(_, version)| *version);
                // One that is no number cannot be compared: then this node alone is waited for.
                let version = since.unwrap_or_else(|| slice.resource_version.parse().unwrap_or(0));
                waiting.named_by.insert(slice.name.clone(), (service.clone(), version));
            }
        }
    }

    /// The resourceVersion to which all agents must come for the pods that wait; zero where none waits.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        let untold = self.waiting.values().filter(|waiting| waiting.told_ms.is_none());
        untold.flat_map(|waiting| waiting.named_by.values()).map(|(_, version)| *version).max().unwrap_or(0)
    }

    /// The pods whose gates are met, by what all agents say; each is told again where it goes on waiting.
    pub fn met(&mut self, summary: &Summary, now_ms: u64) -> Vec<Met> {
        let mut all = Vec::new();
        for waiting in self.waiting.values_mut() {
            let is_told = waiting.told_ms.is_some_and(|told_ms| now_ms < told_ms + TELL_INTERVAL_MS);
            let Some(reason) = waiting.reason(summary, now_ms).filter(|_| !is_told) else { continue };
            waiting.told_ms = Some(now_ms);
            let gates = waiting.pod.unmet.iter().filter(|gate| self.asked.contains(gate)).copied().collect();
            all.push(Met { pod: Arc::clone(&waiting.pod), gates, reason });
        }
        all
    }
}

impl Waiting {
    fn reason(&self, summary: &Summary, now_ms: u64) -> Option<GateReason> {
        let waited_ms = now_ms.saturating_sub(self.begun_ms);
        let holds = |(service, version): &(ObjectName, u64)| {
            *version <= summary.programmed && !summary.behind.contains(&service.to_string())
        };
        if self.named_by.is_empty() {
            (waited_ms >= SERVICE_WAIT_MS).then_some(GateReason::NoService)
        } else if self.named_by.values().all(holds) {
            Some(GateReason::Programmed)
        } else {
            (waited_ms >= WAIT_MAX_MS).then_some(GateReason::TimedOut)
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
