//! Objects whose status is not as it is to be, and when this node is the one that writes it.
use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::clock::now_ms;
use crate::events::writer_rank;
use crate::model::ObjectName;

use super::planner::Planner;

/// Statuses that wait for the API server at most; the rest wait here.
pub(super) const CORRECTIONS_MAX: usize = 20;

/// How much later than the first of the nodes that may write, the next one does, milliseconds: it finds it done.
const RANK_WAIT_MS: u64 = 10_000;

/// Time after which a status that still is not as it is to be is written again, milliseconds.
const RETRY_MS: u64 = 10_000;

/// Those of one kind.
pub(super) struct Unsettled {
    node_name: String,
    /// With the time since when it is so.
    since_ms: BTreeMap<ObjectName, u64>,
}

impl Unsettled {
    /// None so far.
    pub(super) fn new(node_name: &str) -> Self {
        Self { node_name: node_name.to_owned(), since_ms: BTreeMap::new() }
    }

    /// An object that may have to be corrected. One that is here already keeps its time.
    pub(super) fn add(&mut self, object: &ObjectName) {
        self.since_ms.entry(object.clone()).or_insert_with(now_ms);
    }

    /// Sends the corrections that are this node's to write by now, and forgets the objects that need none.
    pub(super) fn send<C>(
        &mut self,
        planner: &Planner,
        sender: &mpsc::Sender<C>,
        correction: impl Fn(&ObjectName) -> Option<C>,
    ) {
        let (now_ms, node) = (now_ms(), &self.node_name);
        self.since_ms.retain(|object, since_ms| {
            let Some(correction) = correction(object) else { return false };
            let rank = writer_rank(object, node, planner.nodes());
            let is_due = rank.is_some_and(|rank| now_ms >= *since_ms + rank as u64 * RANK_WAIT_MS);
            if is_due && sender.try_send(correction).is_ok() {
                *since_ms = now_ms + RETRY_MS;
            }
            true
        });
    }
}
