//! Statuses of Ingresses, from the facts to their writer.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use crate::ingress_status::{self, Correction};
use crate::model::ObjectName;
use crate::plan::UrlMaps;

use super::planner::Planner;
use super::unsettled::{CORRECTIONS_MAX, Unsettled};

/// Ingresses whose status may have to be written.
pub(super) struct IngressStatusReports {
    sender: mpsc::Sender<Correction>,
    unsettled: Unsettled,
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
        Self { sender, unsettled: Unsettled::new(node_name), settled: BTreeMap::new(), seen: Arc::default() }
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
        self.unsettled.add(ingress);
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
        let settled = &self.settled;
        self.unsettled.send(planner, &self.sender, |name| {
            let former = settled.get(name).map(Vec::as_slice);
            ingress_status::correction(planner.served_ingress(name)?, former)
        });
    }
}
