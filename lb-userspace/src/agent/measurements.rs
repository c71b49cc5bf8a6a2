//! What the loop notes of itself, for metrics.
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::warn;

use crate::maps::Occupancy;
use crate::metrics::{self, Scraper};
use crate::plain_server::Server;
use crate::web;

use super::Agent;
use super::announcer::Announcer;

impl Agent {
    /// Serves metrics until what this gives is dropped, unless nobody wants them. Without them all else goes on.
    pub(super) fn start_metrics(&self) -> Option<Server> {
        let address = self.options.metrics_address.0?;
        let started = self.applier.maps.reader(&self.pins).and_then(|maps| {
            let services_max = self.options.metrics_backend_services_max;
            let probing = self.known.probing.clone();
            let scraper = Scraper::new(maps, self.observations.clone(), probing, services_max);
            let scraper = std::sync::Mutex::new(scraper);
            metrics::start(address, move |page, format| {
                scraper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).text(page, format)
            })
        });
        started
            .inspect_err(|error| warn!(%address, error = format!("{error:#}"), "no metrics are served"))
            .ok()
    }

    /// Shows the node's chains to browsers until what this gives is dropped, unless nobody wants that. Without it all
    /// else goes on.
    pub(super) fn start_web(&self) -> Option<Server> {
        let address = self.options.web_address.0?;
        let started = web::start(address, self.options.pin_path.clone(), self.options.run_dir.clone());
        started.inspect_err(|error| warn!(%address, error = format!("{error:#}"), "no page is served")).ok()
    }

    /// Notes an apply that began at an instant and is over.
    pub(super) fn observe_apply(&mut self, began: Instant) {
        let now = SystemTime::now();
        let took = self.planner.programming.applied(|service| self.applier.is_pending(service), now);
        let was_refused = self.applier.was_refused();
        let mut observed = self.observations.lock();
        observed.apply.add(began.elapsed());
        took.into_iter().for_each(|time| observed.programming.add(time));
        observed.apply_failures += u64::from(was_refused);
        if !was_refused {
            observed.last_apply = Some(now);
        }
        observed.services_pending = self.applier.services_pending() as u64;
        observed.maps.extend(self.applier.occupancy());
    }

    /// Notes what has changed since a second ago.
    pub(super) fn observe_second(&mut self) {
        let objects = self.planner.objects().map(|(kind, count)| (kind, count as u64));
        let problems = self.report.by_kind();
        let findings = &self.planner.findings;
        let swept = self.sweeper.last.iter().flat_map(|pass| &pass.maps);
        let swept = swept.map(|(map, found)| {
            let (entries, entries_max) = (found.entries.into(), found.entries_max.into());
            (*map, Occupancy { entries, entries_max })
        });
        let announcer = self.api.as_ref().and_then(|api| api.announcer.as_ref());
        let announced = announcer.map(Announcer::announced).unwrap_or_default();
        let mut observed = self.observations.lock();
        observed.vips_announced = announced.vips.len() as u64;
        observed.vip_takeovers = announced.takeovers;
        observed.is_synced = self.is_synced;
        observed.objects = objects.into();
        observed.problems = problems;
        observed.maps.extend(swept);
        observed.state_changes.clone_from(findings.changes());
        observed.ejected = findings.ejected_by_service();
        observed.front_end = self.front_end.counted();
    }
}
