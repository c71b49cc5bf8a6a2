//! Events on Services, from the plan to their writer.
use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::warn;

use crate::events::{self, Ledger, Report, is_writer};
use crate::model::ObjectName;

use super::planner::Planner;

/// Reports that wait for the API server; more than the ledger tells at once.
const REPORTS_MAX: usize = 64;

/// What was told, and to whom it is told.
pub(super) struct EventReports {
    node_name: String,
    ledger: Ledger,
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
        Self { node_name: node_name.to_owned(), ledger: Ledger::new(Instant::now()), sender }
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
            let uid = planner.uid(&backend_service.service);
            if self.sender.try_send(Report { backend_service, uid, condition }).is_err() {
                warn!(reports_max = REPORTS_MAX, "an Event is lost: too many wait for the API server");
            }
        }
    }
}
