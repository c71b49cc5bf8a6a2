//! What this agent tells the others, and what they come to.
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::warn;

use crate::peers::{self, Keys, Known, Local, Report, SERVICES_MAX, Settings};

/// The link to the task that talks to the API server.
pub(super) struct PeerLink {
    local: watch::Sender<Local>,
    known: watch::Receiver<Known>,
    /// Up to which version the loop has taken all changes of EndpointSlices.
    followed: u64,
    report: Report,
}

impl PeerLink {
    /// Begins to talk. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, settings: Settings) -> Self {
        let (local, locals) = watch::channel(Local::default());
        let (sender, known) = watch::channel(Known::default());
        tokio::spawn(async move {
            if let Err(error) = peers::run(config, settings, locals, sender).await {
                warn!(error = format!("{error:#}"), "nothing is told to other agents");
            }
        });
        Self { local, known, followed: 0, report: Report::default() }
    }

    /// The loop has taken all changes up to a version.
    pub(super) fn follow(&mut self, version: u64) {
        self.followed = version;
    }

    /// The maps hold what the loop has taken, but for these Services. Where these are too many, the node counts as not
    /// having come further.
    pub(super) fn note_programmed(&mut self, behind: BTreeSet<String>) {
        if behind.len() <= SERVICES_MAX {
            self.report.programmed = self.followed;
            self.report.behind = behind;
        }
    }

    /// For which endpoints this node votes that they are unhealthy.
    pub(super) fn note_votes(&mut self, votes: Keys) {
        self.report.unhealthy = votes;
    }

    /// Tells what was noted, with the version for which pods of this node wait.
    pub(super) fn tell<'a>(&mut self, wanted: u64, nodes: impl Iterator<Item = &'a Arc<str>> + Clone) {
        self.report.wanted = wanted;
        self.local.send_if_modified(|local| {
            let mut is_changed = local.report.as_ref() != Some(&self.report);
            if is_changed {
                local.report = Some(self.report.clone());
            }
            if !local.nodes.iter().eq(nodes.clone()) {
                local.nodes = Arc::new(nodes.cloned().collect());
                is_changed = true;
            }
            is_changed
        });
    }

    /// What all agents come to.
    pub(super) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Waits until all agents come to something else.
    pub(super) async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
