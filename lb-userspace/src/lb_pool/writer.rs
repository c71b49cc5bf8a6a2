//! Statuses, and Events about what could not be given, to the API server.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Correction, Owner, OwnerKind};
use crate::source::kube::{Settings, client};
use crate::stable_hash;

/// The same about the same object is one Event in so many seconds, as long as an API server keeps one.
const PERIOD_S: u64 = 3_600;

/// The reason of its Events.
pub const EVENT_REASON: &str = "AddressNotGiven";

/// Longest note of an Event, bytes (events.k8s.io/v1).
const NOTE_BYTES_MAX: usize = 1_024;

/// What an object could not be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The object.
    pub owner: Owner,
    /// Its `metadata.uid`; empty where it is unknown.
    pub uid: Arc<str>,
    /// Why.
    pub message: String,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A status.
    Correct(Correction),
    /// An Event.
    Tell(Notice),
}

/// Writes until the sender of tasks is gone. What the server does not take is logged; its sender sees that it is still
/// missing.
///
/// # Errors
/// No client can be made of `config`.
pub async fn run(config: Config, node: String, mut tasks: mpsc::Receiver<Task>) -> anyhow::Result<()> {
    let cannot = "cannot make a client for load-balancer addresses";
    let client = client(config, &Settings::default()).context(cannot)?;
    let mut is_failing = false;
    while let Some(task) = tasks.recv().await {
        let (owner, written) = match &task {
            Task::Correct(correction) => (&correction.owner, correct(&client, correction).await),
            Task::Tell(notice) => (&notice.owner, tell(&client, notice, &node).await),
        };
        match written {
            Err(error) if !is_failing => warn!(%error, %owner, "cannot write a load-balancer address"),
            Ok(()) if is_failing => info!("load-balancer addresses are written again"),
            _ => continue,
        }
        is_failing = !is_failing;
    }
    Ok(())
}

/// With the version, so that nothing is overwritten that was not seen: its fact comes, and is looked at then.
async fn correct(client: &Client, correction: &Correction) -> kube::Result<()> {
    let Correction { owner, resource_version, addresses } = correction;
    let patch = Patch::Merge(status(resource_version, addresses));
    let (namespace, name) = (&*owner.object.namespace, &*owner.object.name);
    let parameters = PatchParams::default();
    let written = match owner.kind {
        OwnerKind::Service => {
            let services: Api<Service> = Api::namespaced(client.clone(), namespace);
            services.patch_status(name, &parameters, &patch).await.map(drop)
        }
        OwnerKind::Ingress => {
            let ingresses: Api<Ingress> = Api::namespaced(client.clone(), namespace);
            ingresses.patch_status(name, &parameters, &patch).await.map(drop)
        }
    };
    match written {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(()) => {
            let (owner, addresses) = (owner.to_string(), format!("{addresses:?}"));
            info!(owner, addresses, "load-balancer addresses written");
            Ok(())
        }
        failed => failed,
    }
}

fn status(resource_version: &str, addresses: &[IpAddr]) -> Value {
    let entries: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({
        "metadata": {"resourceVersion": resource_version},
        "status": {"loadBalancer": {"ingress": entries}},
    })
}

async fn tell(client: &Client, notice: &Notice, node: &str) -> kube::Result<()> {
    let events: Api<Event> = Api::namespaced(client.clone(), &notice.owner.object.namespace);
    let period = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / PERIOD_S;
    match events.create(&PostParams::default(), &event(notice, node, period)).await {
        // It has been told.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => created.map(drop),
    }
}

/// The name is the same from all agents.
fn event(notice: &Notice, node: &str, period: u64) -> Event {
    let Notice { owner, uid, message } = notice;
    let (namespace, name) = (owner.object.namespace.to_string(), owner.object.name.to_string());
    let (api_version, hash) = (
        match owner.kind {
            OwnerKind::Service => "v1",
            OwnerKind::Ingress => "networking.k8s.io/v1",
        },
        stable_hash::of(&format!("{owner} {message}")) as u32,
    );
    let end = (0..=NOTE_BYTES_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.address-{hash:08x}.{period:x}")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Allocate".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(message[..end.unwrap_or(0)].to_owned()),
        reason: Some(EVENT_REASON.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(owner.kind.name().to_owned()),
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid.to_string()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("podway.io/agent".to_owned()),
        reporting_instance: Some(node.to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}
