//! NEG statuses of Services, from the facts to their writer.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::now_ms;
use crate::events::writer_rank;
use crate::model::ObjectName;
use crate::neg_status::{self, Correction};

use super::planner::Planner;

/// Statuses written in a second at most; the rest wait.
const CORRECTIONS_MAX: usize = 20;

/// How much later than the first of the nodes that may write, the next one does, milliseconds: it finds it done.
const RANK_WAIT_MS: u64 = 10_000;

/// Time after which a status that still is not as it is to be is written again, milliseconds.
const RETRY_MS: u64 = 10_000;

/// Services whose status may have to be written.
pub(super) struct NegStatusReports {
    node_name: String,
    sender: mpsc::Sender<Correction>,
    /// With the time since when it is not as it is to be.
    unsettled: BTreeMap<ObjectName, u64>,
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
        let (unsettled, zones) = (BTreeMap::new(), BTreeSet::new());
        Self { node_name: node_name.to_owned(), sender, unsettled, zones }
    }

    /// A Service's fact has changed.
    pub(super) fn follow(&mut self, service: &ObjectName, planner: &Planner) {
        if planner.served(service).is_some_and(neg_status::concerns) {
            self.unsettled.entry(service.clone()).or_insert_with(now_ms);
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
        let now_ms = now_ms();
        let (zones, sender, node) = (&self.zones, &self.sender, &self.node_name);
        self.unsettled.retain(|service, since_ms| {
            let correction = planner.served(service).and_then(|facts| neg_status::correction(facts, zones));
            let Some(correction) = correction else { return false };
            let rank = writer_rank(service, node, planner.nodes());
            let is_due = rank.is_some_and(|rank| now_ms >= *since_ms + rank as u64 * RANK_WAIT_MS);
            if is_due && sender.try_send(correction).is_ok() {
                *since_ms = now_ms + RETRY_MS;
            }
            true
        });
    }
}
