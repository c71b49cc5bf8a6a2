//! Which part of the targets this agent probes, and what it makes of what all probers find.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use tracing::info;

use crate::clock::now_ms;
use crate::health::{self, HealthEvent, Moment, Reporter, Resolved, Share, SharedResults, Standing, Targets};
use crate::model::ObjectName;
use crate::peers::{KEYS_MAX, Keys, Known};

use super::{Agent, Options};

/// Time without a renewed summary after which the API server counts as away, milliseconds: longer than it takes for another
/// agent to become the collector.
const STALE_MS: u64 = 30_000;

/// The share, and the results.
pub(super) struct ProbeSharing {
    share: Share,
    results: SharedResults,
    /// Live agents from which on they share.
    agents_min: usize,
    standing: Standing,
}

impl ProbeSharing {
    /// Of an agent that is alone as yet.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            share: Share::new(&options.node_name.as_str().into(), options.probers),
            results: SharedResults::default(),
            agents_min: options.share_probing_from,
            standing: Standing::Alone,
        }
    }

    /// The endpoints for which this agent votes; none while it probes for itself.
    pub(super) fn votes(&self) -> Keys {
        match self.standing {
            Standing::Alone => Keys::default(),
            Standing::Fresh | Standing::Stale => Keys(self.results.votes(now_ms(), KEYS_MAX)),
        }
    }

    /// Takes what all agents come to and the nodes that there are; the Services of which this agent's part has changed.
    fn hear<'a>(&mut self, known: &Known, nodes: impl Iterator<Item = &'a Arc<str>>) -> BTreeSet<ObjectName> {
        let live = nodes.filter(|node| !known.summary.absent.contains(*node));
        let mut live: BTreeSet<Arc<str>> = live.cloned().collect();
        let age_ms = known.renewed_ms.map(|renewed_ms| now_ms().saturating_sub(renewed_ms));
        let standing = match age_ms {
            Some(age_ms) if live.len() >= self.agents_min && age_ms > STALE_MS => Standing::Stale,
            Some(_) if live.len() >= self.agents_min => Standing::Fresh,
            _ => {
                live.clear();
                Standing::Alone
            }
        };
        if std::mem::replace(&mut self.standing, standing) != standing {
            info!(?standing, agents = live.len(), "how probing is shared has changed");
        }
        self.results.hear(standing, &known.summary.unhealthy.0, known.summary.left_out);
        self.share.set_others(&live)
    }

    fn settle(&mut self) -> Vec<(HealthEvent, Reporter)> {
        let share = &self.share;
        let resolve = |keys: &BTreeSet<u64>| -> BTreeMap<u64, Resolved> { share.resolve(keys) };
        self.results.settle(resolve, now_ms(), SystemTime::now())
    }
}

impl Agent {
    /// Tells the prober of the Services that changed, as far as they are this agent's to probe.
    pub(super) fn tell_targets(&mut self, changed: &BTreeSet<ObjectName>) {
        let desired = &self.planner.desired;
        let mut parts = Vec::with_capacity(changed.len());
        for name in changed {
            let all = desired.service(name).map(|plan| health::targets(plan)).unwrap_or_default();
            parts.push((name.clone(), self.sharing.share.replace(name, all)));
        }
        self.sharing.results.note_targets();
        self.send_targets(parts);
    }

    fn send_targets(&self, parts: Vec<(ObjectName, Targets)>) {
        if parts.is_empty() {
            return;
        }
        self.targets.send_modify(|targets| {
            let targets = targets.get_mut().unwrap_or_else(PoisonError::into_inner);
            for (name, of_service) in parts {
                // An event finds its place told.
                self.applier.place_targets(&name, &of_service);
                targets.insert(name, of_service);
            }
        });
    }

    /// Takes what this agent's probes found: in force at once where it probes for itself, else a vote.
    pub(super) fn take_health(&mut self, event: HealthEvent) {
        self.applier.switch.lock().taken(&event);
        if self.sharing.results.own(&event) {
            self.put_in_force(event, Reporter::Probe);
        } else {
            self.tell_peers();
        }
    }

    /// Takes what all agents come to about who probes what and what is unhealthy.
    pub(super) fn share_probing(&mut self) {
        let Some(api) = &self.api else { return };
        let known = api.peers.known();
        let changed = self.sharing.hear(&known, self.planner.node_names());
        let is_alone = self.sharing.standing == Standing::Alone;
        self.applier.switch.lock().set_acts_on_findings(is_alone);
        let parts = changed.into_iter().map(|name| {
            let part = self.sharing.share.of(&name);
            (name, part)
        });
        let parts = parts.collect();
        self.send_targets(parts);
        for (event, reporter) in self.sharing.settle() {
            self.put_in_force(event, reporter);
        }
    }

    /// Brings a finding to the maps and the next plan.
    fn put_in_force(&mut self, event: HealthEvent, reporter: Reporter) {
        if let HealthEvent::Found(target, finding) = &event {
            let endpoint = format!("{}", std::net::SocketAddr::new(target.address, target.port));
            let service = target.backend_service.to_string();
            let (healthy, reason) = (finding.is_healthy, &*finding.reason);
            info!(endpoint, backend_service = service, healthy, reason, "health changed");
        }
        let (HealthEvent::Found(target, _) | HealthEvent::Forgotten(target)) = &event;
        let target = target.clone();
        let service = &target.backend_service.service;
        let policy = self.planner.health_policy(service);
        let is_found = matches!(&event, HealthEvent::Found(..));
        let has_changed = self.planner.findings.apply(event, reporter, &policy, Moment::now());
        if is_found {
            // Also where other findings outweigh it: the switch has acted on it.
            self.follow_health(&target);
        } else if has_changed {
            self.planner.mark(service.clone());
        }
    }
}
