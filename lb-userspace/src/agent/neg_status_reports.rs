//! NEG statuses of Services, from the facts to their writer.
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use crate::model::ObjectName;
use crate::neg_status::{self, Correction};

use super::planner::Planner;
use super::unsettled::{CORRECTIONS_MAX, Unsettled};

/// Services whose status may have to be written.
pub(super) struct NegStatusReports {
    sender: mpsc::Sender<Correction>,
    unsettled: Unsettled,
    zones: BTreeSet<Arc<str>>,
}

impl NegStatusReports {
    /// Begins to write statuses. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, node_name: &str) -> Self {
        let (sender, corrections) = mpsc::channel(CORRECTIONS_MAX);
        tokio::spawn(async move {
            if let Err(error) = neg_status::run(config, corrections).await {
                warn!(error = format!("{error:#}"), "no NEG statuses are written");
            }
        });
        Self { sender, unsettled: Unsettled::new(node_name), zones: BTreeSet::new() }
    }

    /// A Service's fact has changed.
    pub(super) fn follow(&mut self, service: &ObjectName, planner: &Planner) {
        if planner.served(service).is_some_and(neg_status::concerns) {
            self.unsettled.add(service);
        }
    }

    /// Tells what this node is to write.
    pub(super) fn tell(&mut self, planner: &Planner) {
        let zones = planner.zones();
        if zones != self.zones {
            self.zones = zones;
            let all: Vec<_> = planner.service_names().cloned().collect();
            all.iter().for_each(|service| self.follow(service, planner));
        }
        let zones = &self.zones;
        self.unsettled
            .send(planner, &self.sender, |service| neg_status::correction(planner.served(service)?, zones));
    }
}
