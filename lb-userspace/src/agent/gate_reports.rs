//! Pods of this node that wait for a readiness gate, from the facts to the writer of their conditions.
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::clock::now_ms;
use crate::gates::{self, Gates, Met};
use crate::model::{ObjectName, ReadinessGate};
use crate::peers::Summary;

use super::planner::Planner;

/// Conditions that wait for the API server: more than a node has pods. What does not fit is told a little later.
const MET_MAX: usize = 1_024;

/// Who waits, and to whom the end of it is told.
pub(super) struct GateReports {
    gates: Gates,
    sender: mpsc::Sender<Met>,
}

impl GateReports {
    /// Begins to write conditions of pods. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, asked: Vec<ReadinessGate>) -> Self {
        let (sender, met) = mpsc::channel(MET_MAX);
        tokio::spawn(async move {
            if let Err(error) = gates::run(config, met).await {
                warn!(error = format!("{error:#}"), "no conditions of pods are written");
            }
        });
        Self { gates: Gates::new(asked), sender }
    }

    /// A pod's fact has changed.
    pub(super) fn follow(&mut self, pod: &ObjectName, planner: &Planner) {
        let Some(facts) = planner.gated_pod(pod) else {
            self.gates.forget(pod);
            return;
        };
        if self.gates.wait(facts, now_ms()) {
            for service in planner.services_with_slices(&pod.namespace) {
                self.gates.look(service, &planner.slices(service));
            }
        }
    }

    /// Takes Services that were planned anew.
    pub(super) fn note<'a>(&mut self, services: impl Iterator<Item = &'a ObjectName>, planner: &Planner) {
        if !self.gates.is_empty() {
            services.for_each(|service| self.gates.look(service, &planner.slices(service)));
        }
    }

    /// The version for which pods wait.
    pub(super) fn wanted(&self) -> u64 {
        self.gates.wanted()
    }

    /// Tells which gates are met by what all agents come to.
    pub(super) fn tell(&mut self, summary: &Summary) {
        for met in self.gates.met(summary, now_ms()) {
            let (pod, reason) = (met.pod.name.to_string(), met.reason);
            if self.sender.try_send(met).is_ok() {
                info!(pod, ?reason, "readiness gate is met");
            }
        }
    }
}
