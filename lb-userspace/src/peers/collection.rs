//! The reports of all agents, and what they come to. Pure.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pacing::round_ms;
use super::report::{KEYS_MAX, Keys, SERVICES_MAX};
use super::{Report, Summary};
use crate::health::Electorate;

/// A report as it was read.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What it says.
    pub report: Report,
    /// When its agent wrote it by its own clock, microseconds since 1970: only whether it changes matters.
    pub renewed_us: i64,
    /// How long it holds, milliseconds.
    pub holds_ms: u64,
}

/// A report, and since when it holds.
#[derive(Clone, Debug)]
struct Entry {
    heard: Heard,
    at_ms: u64,
}

/// What a collector knows.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Agents that probe an endpoint.
    probers: usize,
    entries: BTreeMap<Arc<str>, Entry>,
    /// About what agents were asked last, and when.
    wanted: u64,
    asked_ms: Option<u64>,
}

impl Collection {
    /// An empty one, in a cluster where so many agents probe each endpoint.
    #[must_use]
    pub fn new(probers: usize) -> Self {
        Self { probers, entries: BTreeMap::new(), wanted: 0, asked_ms: None }
    }

    /// Takes a node's report. It holds from now on if it was renewed since it was last taken: two nodes' clocks
    /// are never compared.
    pub fn note(&mut self, node: &str, heard: Heard, now_ms: u64) {
        match self.entries.get_mut(node) {
            Some(entry) if entry.heard.renewed_us == heard.renewed_us => entry.heard = heard,
            Some(entry) => *entry = Entry { heard, at_ms: now_ms },
            None => drop(self.entries.insert(node.into(), Entry { heard, at_ms: now_ms })),
        }
    }

    /// Takes all reports as renewed now: nobody could renew one while the API server was away.
    pub fn pardon(&mut self, now_ms: u64) {
        self.entries.values_mut().for_each(|entry| entry.at_ms = now_ms);
    }

    /// A node's report is gone.
    pub fn forget(&mut self, node: &str) {
        self.entries.remove(node);
    }

    /// A report that no longer holds, of a node that is no more: its Lease may go.
    #[must_use]
    pub fn over(&self, nodes: &BTreeSet<Arc<str>>, now_ms: u64) -> Option<Arc<str>> {
        let mut over =
            self.entries.iter().filter(|(node, entry)| !nodes.contains(*node) && !entry.holds(now_ms));
        over.next().map(|(node, _)| Arc::clone(node))
    }

    /// What the reports come to that hold at `now_ms`, of the nodes that there are. `own` is the collector's, which
    /// always holds.
    pub fn summary(&mut self, own: (&Arc<str>, &Report), nodes: &BTreeSet<Arc<str>>, now_ms: u64) -> Summary {
        let mut live: BTreeMap<&Arc<str>, &Report> = self
            .entries
            .iter()
            .filter(|(node, entry)| nodes.contains(*node) && entry.holds(now_ms))
            .map(|(node, entry)| (node, &entry.heard.report))
            .collect();
        live.insert(own.0, own.1);
        let mut behind: BTreeSet<String> = live.values().flat_map(|report| &report.behind).cloned().collect();
        let mut programmed = live.values().map(|report| report.programmed).min().unwrap_or(0);
        if behind.len() > SERVICES_MAX {
            // Which of them are left out nobody could tell.
            behind.clear();
            programmed = 0;
        }
        let wanted = live.values().map(|report| report.wanted).max().unwrap_or(0);
        let absent = nodes.iter().filter(|node| !live.contains_key(node)).cloned().collect();
        let (unhealthy, left_out) = unhealthy(&live, self.probers);
        let is_asked = self.asked_ms.is_none_or(|at_ms| now_ms >= at_ms + round_ms(nodes.len()));
        if wanted < self.wanted {
            self.wanted = wanted;
        } else if wanted > self.wanted && is_asked {
            (self.wanted, self.asked_ms) = (wanted, Some(now_ms));
        }
        Summary { programmed, behind, wanted: self.wanted, absent, unhealthy, left_out }
    }
}

impl Entry {
    fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.at_ms + self.heard.holds_ms
    }
}

/// The endpoints that fail by most of their live probers, and how many more there are than the bound lets in.
fn unhealthy(live: &BTreeMap<&Arc<str>, &Report>, probers: usize) -> (Keys, usize) {
    let electorate = Electorate::new(live.keys().map(|node| &***node), probers);
    let mut votes: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (node, report) in live {
        for key in &report.unhealthy.0 {
            votes.entry(*key).or_default().push(node);
        }
    }
    let lost = votes.into_iter().filter(|(key, nodes)| electorate.is_carried(*key, nodes));
    let mut keys: BTreeSet<u64> = lost.map(|(key, _)| key).collect();
    let left_out = keys.len().saturating_sub(KEYS_MAX);
    if let Some(first_out) = keys.iter().nth(KEYS_MAX).copied() {
        keys.split_off(&first_out);
    }
    (Keys(keys), left_out)
}

#[cfg(test)]
#[path = "collection_tests.rs"]
mod tests;
