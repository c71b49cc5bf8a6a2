//! Statuses of Ingresses, from the facts to their writer.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::now_ms;
use crate::events::writer_rank;
use crate::ingress_status::{self, Correction};
use crate::model::ObjectName;
use crate::plan::UrlMaps;

use super::planner::Planner;

/// Statuses that wait for the API server at most; the rest wait here.
const CORRECTIONS_MAX: usize = 20;

/// How much later than the first of the nodes that may write, the next one does, milliseconds: it finds it done.
const RANK_WAIT_MS: u64 = 10_000;

/// Time after which a status that still is not as it is to be is written again, milliseconds.
const RETRY_MS: u64 = 10_000;

/// Ingresses whose status may have to be written.
pub(super) struct IngressStatusReports {
    node_name: String,
    sender: mpsc::Sender<Correction>,
    /// With the time since when it is not as it is to be.
    unsettled: BTreeMap<ObjectName, u64>,
    /// What statuses were when they were last as they are to be.
    settled: BTreeMap<ObjectName, Vec<IpAddr>>,
    /// All Ingresses of these were looked at.
    seen: Arc<UrlMaps>,
}

impl IngressStatusReports {
    /// Begins to write statuses. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, node_name: &str) -> Self {
        let (sender, corrections) = mpsc::channel(CORRECTIONS_MAX);
        tokio::spawn(async move {
            if let Err(error) = ingress_status::run(config, corrections).await {
                warn!(error = format!("{error:#}"), "no Ingress statuses are written");
            }
        });
        Self {
            node_name: node_name.to_owned(),
            sender,
            unsettled: BTreeMap::new(),
            settled: BTreeMap::new(),
            seen: Arc::default(),
        }
    }

    /// An Ingress's fact has changed. That its status is as it is to be is noted at once: the next change may be of the
    /// annotation, and the status was ours then.
    pub(super) fn follow(&mut self, ingress: &ObjectName, planner: &Planner) {
        match planner.ingress(ingress) {
            Some(facts) if ingress_status::is_settled(facts) => {
                self.settled.insert(ingress.clone(), facts.load_balancer_ips.clone());
            }
            Some(_) => {}
            None => drop(self.settled.remove(ingress)),
        }
        self.unsettled.entry(ingress.clone()).or_insert_with(now_ms);
    }

    /// Tells what this node is to write. What is served is known once all is planned.
    pub(super) fn tell(&mut self, planner: &Planner) {
        if planner.is_dirty() {
            return;
        }
        let url_maps = planner.desired.url_maps();
        if !Arc::ptr_eq(&self.seen, url_maps) {
            self.seen = Arc::clone(url_maps);
            let served = url_maps.maps().iter().flat_map(|map| &map.ingresses);
            served.for_each(|origin| self.follow(&origin.object, planner));
        }
        let now_ms = now_ms();
        let (settled, sender, node) = (&self.settled, &self.sender, &self.node_name);
        self.unsettled.retain(|name, since_ms| {
            let Some(ingress) = planner.served_ingress(name) else { return false };
            let former = settled.get(name).map(Vec::as_slice);
            let Some(correction) = ingress_status::correction(ingress, former) else { return false };
            let rank = writer_rank(name, node, planner.nodes());
            let is_due = rank.is_some_and(|rank| now_ms >= *since_ms + rank as u64 * RANK_WAIT_MS);
            if is_due && sender.try_send(correction).is_ok() {
                *since_ms = now_ms + RETRY_MS;
            }
            true
        });
    }
}
