//! Secrets, of which only those are read that an Ingress names: each by a watch of its own.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Settings;
use super::watch::{Kind, Watch};
use crate::model::{Change, ObjectName};
use crate::source::{Problems, SourceEvent, objects};

/// Most Secrets that are watched, the first by name; each takes a request that stays open. Of the others no
/// certificate is known.
const SECRETS_MAX: usize = 1_024;

const KIND: &str = "Secret";

/// Names of the Secrets that are wanted.
pub type WantedSecrets = BTreeSet<ObjectName>;

/// Watches what is wanted until the receiver of `sender` is gone.
pub(super) async fn run(client: Client, settings: Settings, sender: mpsc::Sender<SourceEvent>) {
    let Some(mut wanted) = settings.secrets.clone() else { return };
    let mut watched = BTreeMap::<ObjectName, JoinHandle<()>>::new();
    loop {
        let names = first_of(&wanted.borrow_and_update());
        let gone: Vec<_> = watched.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(watch) = watched.remove(&name) {
                watch.abort();
                // What it was about to send comes before this.
                let _ = watch.await;
            }
            // So is what was wrong with it.
            let solved = Problems { kind: KIND, subject: name.clone(), found: Vec::new() };
            for event in [SourceEvent::Change(Change::SecretGone(name)), SourceEvent::Problems(solved)] {
                if sender.send(event).await.is_err() {
                    break;
                }
            }
        }
        for name in names {
            let start = || start(&client, &settings, &name, &sender);
            watched.entry(name.clone()).or_insert_with(start);
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { break },
            () = sender.closed() => break,
        }
    }
    watched.into_values().for_each(|watch| watch.abort());
}

fn first_of(wanted: &WantedSecrets) -> WantedSecrets {
    if wanted.len() > SECRETS_MAX {
        warn!(
            wanted = wanted.len(),
            max = SECRETS_MAX,
            "too many Secrets are named: the last ones by name are not read"
        );
    }
    wanted.iter().take(SECRETS_MAX).cloned().collect()
}

fn start(
    client: &Client,
    settings: &Settings,
    name: &ObjectName,
    sender: &mpsc::Sender<SourceEvent>,
) -> JoinHandle<()> {
    let kind = Kind {
        name: KIND,
        selector: None,
        is_optional: true,
        convert: objects::secret,
        gone: Change::SecretGone,
        fields: Some(format!("metadata.name={}", name.name)),
        is_followed: false,
    };
    // Nobody waits for these first lists: a number that does not come down to zero.
    let unsynced = Arc::new(AtomicUsize::new(usize::MAX));
    let watch = Watch::new(kind, settings.clone(), sender.clone(), unsynced);
    tokio::spawn(watch.run(Api::namespaced(client.clone(), &name.namespace)))
}
