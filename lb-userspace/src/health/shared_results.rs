//! What the probers of all nodes find, and which of it is in force on this one. Pure.
//!
//! A node tells only which endpoints of its share are unhealthy, and hears only which ones are by most of their
//! probers: what is well costs nothing. Without a word from the API server its own findings go before what was heard last.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Finding, HealthEvent, Reporter, Target, target_key};

/// How much what was heard counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: this node probes all endpoints itself.
    #[default]
    Alone,
    /// All.
    Fresh,
    /// The API server is away: for endpoints about which this node has found something, that.
    Stale,
}

/// A target by its key, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The target.
    pub target: Target,
    /// Of one of this node's share: how long its probes take to find out how it is, milliseconds.
    pub settles_ms: Option<u64>,
}

/// All that is known of unhealthy endpoints.
#[derive(Clone, Debug, Default)]
pub struct SharedResults {
    standing: Standing,
    /// Whether anything may have to be brought into force.
    is_due: bool,
    /// What this node's probes found, of those that they ever found unhealthy.
    own: BTreeMap<u64, Finding>,
    /// Unhealthy by most of their probers.
    heard: BTreeSet<u64>,
    /// Whether there are more of these.
    is_heard_in_part: bool,
    /// What counts as unhealthy here.
    in_force: BTreeMap<u64, Target>,
    /// Of this node's share and heard to be unhealthy: until when it votes so without having found it.
    on_trust: BTreeMap<u64, u64>,
}

impl SharedResults {
    /// Takes what this node's probes found. `true` where it is in force at once.
    pub fn own(&mut self, event: &HealthEvent) -> bool {
        let (HealthEvent::Found(target, _) | HealthEvent::Forgotten(target)) = event;
        let key = target_key(target);
        let is_unhealthy = match event {
            HealthEvent::Found(_, finding) => {
                self.own.insert(key, finding.clone());
                self.on_trust.remove(&key);
                !finding.is_healthy
            }
            HealthEvent::Forgotten(_) => {
                self.own.remove(&key);
                false
            }
        };
        if self.standing != Standing::Alone {
            self.is_due = true;
            return false;
        }
        if is_unhealthy {
            self.in_force.insert(key, target.clone());
        } else {
            self.in_force.remove(&key);
        }
        true
    }

    /// Takes what was heard.
    pub fn hear(&mut self, standing: Standing, unhealthy: &BTreeSet<u64>, left_out: usize) {
        let is_heard_in_part = left_out > 0;
        self.is_due |= self.standing != standing || self.is_heard_in_part != is_heard_in_part;
        self.standing = standing;
        self.is_heard_in_part = is_heard_in_part;
        if self.heard != *unhealthy {
            self.heard.clone_from(unhealthy);
            self.is_due = true;
        }
    }

    /// There are other targets than there were.
    pub fn note_targets(&mut self) {
        self.is_due |= self.standing != Standing::Alone;
    }

    /// Brings into force what is known; what changed by that, and who said so. `resolve` finds the targets of keys.
    pub fn settle(
        &mut self,
        resolve: impl FnOnce(&BTreeSet<u64>) -> BTreeMap<u64, Resolved>,
        now_ms: u64,
        wall: SystemTime,
    ) -> Vec<(HealthEvent, Reporter)> {
        if !std::mem::take(&mut self.is_due) {
            return Vec::new();
        }
        let candidates = self.own.keys().chain(&self.heard).copied();
        let wanted: BTreeSet<u64> = candidates.filter(|key| self.is_unhealthy(*key)).collect();
        let all: BTreeSet<u64> =
            wanted.iter().chain(self.in_force.keys()).chain(&self.heard).copied().collect();
        if all.is_empty() {
            self.on_trust.clear();
            return Vec::new();
        }
        let resolved = resolve(&all);
        self.trust(&resolved, now_ms);
        let mut events = Vec::new();
        for (key, target) in std::mem::take(&mut self.in_force) {
            if !resolved.contains_key(&key) {
                events.push((HealthEvent::Forgotten(target), Reporter::Peer));
            } else if wanted.contains(&key) {
                self.in_force.insert(key, target);
            } else {
                events.push(self.change(key, target, true, wall));
            }
        }
        for key in wanted {
            let Some(Resolved { target, .. }) = resolved.get(&key) else { continue };
            if self.in_force.insert(key, target.clone()).is_none() {
                events.push(self.change(key, target.clone(), false, wall));
            }
        }
        events
    }

    /// The endpoints for which this node votes that they are unhealthy, at most `keys_max`.
    #[must_use]
    pub fn votes(&self, now_ms: u64, keys_max: usize) -> BTreeSet<u64> {
        let found = self.own.iter().filter(|(_, finding)| !finding.is_healthy).map(|(key, _)| *key);
        let trusted = self.on_trust.iter().filter(|(_, until_ms)| now_ms < **until_ms).map(|(key, _)| *key);
        found.chain(trusted).collect::<BTreeSet<u64>>().into_iter().take(keys_max).collect()
    }

    /// A node that takes over a share, or starts, votes as all did until it can have found out: else the restart of two
    /// agents would let an endpoint in that is down.
    fn trust(&mut self, resolved: &BTreeMap<u64, Resolved>, now_ms: u64) {
        let settles_ms = |key: &u64| resolved.get(key).and_then(|resolved| resolved.settles_ms);
        let heard = self.heard.iter().filter(|key| !self.own.contains_key(key));
        let former = std::mem::take(&mut self.on_trust);
        let until_ms = |key: &u64| {
            let until_ms = now_ms + settles_ms(key)?;
            Some((*key, former.get(key).copied().unwrap_or(until_ms)))
        };
        self.on_trust = heard.filter_map(until_ms).collect();
    }

    fn is_unhealthy(&self, key: u64) -> bool {
        let own = self.own.get(&key).map(|finding| !finding.is_healthy);
        let heard = self.heard.contains(&key);
        match self.standing {
            Standing::Alone => own == Some(true),
            Standing::Fresh => heard || self.is_heard_in_part && own == Some(true),
            Standing::Stale => own.unwrap_or(heard),
        }
    }

    fn change(
        &self,
        key: u64,
        target: Target,
        is_healthy: bool,
        wall: SystemTime,
    ) -> (HealthEvent, Reporter) {
        if let Some(finding) = self.own.get(&key).filter(|finding| finding.is_healthy == is_healthy) {
            return (HealthEvent::Found(target, finding.clone()), Reporter::Probe);
        }
        let reason: Arc<str> = match is_healthy {
            true => "most of its probers find it healthy".into(),
            false => "most of its probers find it unhealthy".into(),
        };
        (HealthEvent::Found(target, Finding { is_healthy, since: wall, reason }), Reporter::Peer)
    }
}

#[cfg(test)]
#[path = "shared_results_tests.rs"]
mod tests;
