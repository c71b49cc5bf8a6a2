//! Events, from the plan and the problems to their writer.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::warn;

use crate::events::{self, Fault, FaultLedger, FaultyKind, Ledger, Report, is_writer};
use crate::model::{ObjectName, Problem};

use super::planner::Planner;

/// Reports that wait for the API server; more than the ledgers tell at once.
const REPORTS_MAX: usize = 64;

/// What was told, and to whom it is told.
pub(super) struct EventReports {
    node_name: String,
    ledger: Ledger,
    faults: FaultLedger,
    sender: mpsc::Sender<Report>,
}

impl EventReports {
    /// Begins to write Events to an API server. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, node_name: &str) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let node = node_name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = events::run(config, node, reports).await {
                warn!(error = format!("{error:#}"), "no Events are written");
            }
        });
        let now = Instant::now();
        let (ledger, faults) = (Ledger::new(now), FaultLedger::new(now));
        Self { node_name: node_name.to_owned(), ledger, faults, sender }
    }

    /// Takes what was planned anew.
    pub(super) fn note(&mut self, planner: &Planner, changed: &BTreeSet<ObjectName>) {
        let now = Instant::now();
        for service in changed {
            let plan = planner.desired.service(service).map(|plan| &**plan);
            self.ledger.note(service, plan, now);
        }
    }

    /// Tells what has lasted.
    pub(super) fn tell(&mut self, planner: &Planner) {
        let is_ours = |service: &ObjectName| is_writer(service, &self.node_name, planner.nodes());
        for (backend_service, condition) in self.ledger.due(Instant::now(), is_ours) {
            let uid = planner.uid_of(FaultyKind::Service, &backend_service.service);
            self.send(Report::Condition { backend_service, uid, condition });
        }
    }

    /// Tells what has lasted of the problems that there are now.
    pub(super) fn tell_problems<'a>(
        &mut self,
        problems: impl Iterator<Item = &'a Problem>,
        planner: &Planner,
    ) {
        let now = Instant::now();
        self.faults.note(faults(problems, planner), now);
        let is_ours = |object: &ObjectName| is_writer(object, &self.node_name, planner.nodes());
        for fault in self.faults.due(now, events::period(SystemTime::now()), is_ours) {
            let uid = planner.uid_of(fault.kind, &fault.object);
            self.send(Report::Fault { fault, uid });
        }
    }

    fn send(&self, report: Report) {
        if self.sender.try_send(report).is_err() {
            warn!(reports_max = REPORTS_MAX, "an Event is lost: too many wait for the API server");
        }
    }
}

/// The problems of objects that Podway serves. One of a Secret stands on the Ingresses that name it too: who wrote these
/// looks there, and a Secret that does not exist has nobody who looks.
fn faults<'a>(problems: impl Iterator<Item = &'a Problem>, planner: &Planner) -> BTreeSet<Fault> {
    let mut faults = BTreeSet::new();
    let mut users: Option<BTreeMap<ObjectName, BTreeSet<ObjectName>>> = None;
    for Problem { kind, object, message } in problems {
        let Some(kind) = FaultyKind::of(kind) else { continue };
        if kind == FaultyKind::Secret {
            let users = users.get_or_insert_with(|| planner.secret_users());
            faults.extend(users.get(object).into_iter().flatten().map(|ingress| Fault {
                kind: FaultyKind::Ingress,
                object: ingress.clone(),
                message: format!("Secret {}: {message}", object.name),
            }));
        }
        if planner.is_told_of(kind, object) {
            faults.insert(Fault { kind, object: object.clone(), message: message.clone() });
        }
    }
    faults
}

#[cfg(test)]
#[path = "event_reports_tests.rs"]
mod tests;
