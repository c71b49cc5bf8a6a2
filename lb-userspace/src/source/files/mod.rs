//! Facts from a folder of manifests (`*.yaml`, `*.yml`, `*.json`; not from folders inside it),
//! watched for changes.
//!
//! What the kernel says about the folder only marks it; once it is quiet for a moment the folder is
//! read again as a whole and compared with what was reported. So it does not matter which events come
//! in which order, or whether some are lost: a slow poll finds what no event told.
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use notify::Watcher;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::{ProblemList, SourceEvent, apply};
use crate::model::{Problem, Snapshot};
use folder::Folder;

mod folder;
mod manifest;
mod reading;

/// Quiet time after the last event before the folder is read, so that a file being written is
/// complete.
const SETTLE: Duration = Duration::from_millis(50);

/// Longest wait for that quiet.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// Time between two looks without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The same where the kernel tells of no events.
const POLL_INTERVAL_UNWATCHED: Duration = Duration::from_secs(1);

/// Reads a folder once: the facts in it, and what is wrong with its files and objects.
///
/// # Errors
/// When the folder cannot be listed.
pub fn read_once(dir: &Path) -> anyhow::Result<(Snapshot, Vec<Problem>)> {
    let mut folder = Folder::new(dir);
    let events = folder.scan().with_context(|| format!("cannot list the manifests in {}", dir.display()))?;
    let mut snapshot = Snapshot::default();
    let mut problems = ProblemList::default();
    for event in events {
        match event {
            SourceEvent::Change(change) => apply(&mut snapshot, change),
            SourceEvent::Problems(found) => {
                problems.update(found);
            }
            SourceEvent::Synced | SourceEvent::Followed(_) | SourceEvent::Interrupted(_) => {}
        }
    }
    Ok((snapshot, problems.iter().cloned().collect()))
}

/// Reports the facts of a folder, and each later change, until the receiver is gone. No fault of the
/// folder or its files ends it; a folder that does not exist yet is waited for.
pub async fn run(dir: PathBuf, sender: mpsc::Sender<SourceEvent>) {
    let mut folder = Folder::new(&dir);
    let mut watch = Watch::new(dir);
    let mut is_synced = false;
    loop {
        // Before the look, so that a change during it is an event after it.
        watch.renew();
        let look = tokio::task::spawn_blocking(move || {
            let events = folder.scan();
            (folder, events)
        });
        // A panic in the look has been reported by its thread; a runtime that shuts down ends us.
        let Ok((returned, events)) = look.await else { return };
        folder = returned;
        let events = match events {
            Ok(mut events) => {
                if !is_synced {
                    is_synced = true;
                    events.push(SourceEvent::Synced);
                }
                events
            }
            Err(error) => folder.unreadable(&error).into_iter().collect(),
        };
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = watch.changed() => {}
            () = sender.closed() => return,
        }
    }
}

/// The kernel's watch on a folder, where there is one.
struct Watch {
    dir: PathBuf,
    mark: Arc<Notify>,
    /// The watcher and the folder it is on: a folder that was replaced needs a new one.
    current: Option<(notify::RecommendedWatcher, FolderId)>,
    /// Whether the last attempt failed, so that a failure is logged once.
    has_failed: bool,
}

/// Device and inode.
type FolderId = (u64, u64);

impl Watch {
    fn new(dir: PathBuf) -> Self {
        Self { dir, mark: Arc::new(Notify::new()), current: None, has_failed: false }
    }

    /// Sees to it that the watch is on the folder that now has the name.
    fn renew(&mut self) {
        let Ok(metadata) = std::fs::metadata(&self.dir) else {
            self.current = None;
            return;
        };
        let id = (metadata.dev(), metadata.ino());
        if self.current.as_ref().is_some_and(|(_, watched)| *watched == id) {
            return;
        }
        let mark = Arc::clone(&self.mark);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A read is no change, and looking at the folder reads it.
            if event.map_or(true, |event| !event.kind.is_access()) {
                mark.notify_one();
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(&self.dir, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.current = Some((watcher, id));
                self.has_failed = false;
            }
            Err(error) => {
                self.current = None;
                if !std::mem::replace(&mut self.has_failed, true) {
                    warn!(dir = %self.dir.display(), %error, "cannot watch the manifests; looking every second");
                }
            }
        }
    }

    /// Waits for an event and then for quiet, or for the next poll.
    async fn changed(&self) {
        let interval = if self.current.is_some() { POLL_INTERVAL } else { POLL_INTERVAL_UNWATCHED };
        if timeout(interval, self.mark.notified()).await.is_err() {
            return;
        }
        let latest = Instant::now() + SETTLE_MAX;
        loop {
            let now = Instant::now();
            let quiet = (now + SETTLE).min(latest);
            if now >= latest || timeout_at(quiet, self.mark.notified()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
