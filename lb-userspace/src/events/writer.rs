//! Events to the API server.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Fault, Report};
use crate::model::{ObjectName, Protocol};
use crate::plan::{BackendServiceName, Condition};
use crate::source::kube::{Settings, client};
use crate::stable_hash;

/// Longest note of an Event, bytes (events.k8s.io/v1).
const NOTE_BYTES_MAX: usize = 1_024;

/// Bytes of an object's name that the name of an Event on it begins with: 253 are allowed in all (RFC 1123).
const NAME_BYTES_MAX: usize = 200;

/// Writes reports until their sender is gone. One that the server does not take is lost: it is logged.
///
/// # Errors
/// When no client can be made of `config`.
pub async fn run(config: Config, node: String, mut reports: mpsc::Receiver<Report>) -> anyhow::Result<()> {
    let client = client(config, &Settings::default()).context("cannot make a client for Events")?;
    let mut writer = Writer { client, node, period: 0, told: BTreeMap::new() };
    let mut is_failing = false;
    while let Some(report) = reports.recv().await {
        match writer.write(&report).await {
            Err(error) if !is_failing => warn!(%error, "cannot write Events"),
            Ok(()) if is_failing => info!("Events are written again"),
            _ => continue,
        }
        is_failing = !is_failing;
    }
    Ok(())
}

struct Writer {
    client: Client,
    node: String,
    period: u64,
    /// How often each event was told in the period; bounded by the allowances of the ledgers.
    told: BTreeMap<String, i32>,
}

impl Writer {
    async fn write(&mut self, report: &Report) -> kube::Result<()> {
        let period = super::period(SystemTime::now());
        if std::mem::replace(&mut self.period, period) != period {
            self.told.clear();
        }
        let told = Told::of(report);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &told.object.namespace);
        let name = told.event_name(period);
        let count = self.told.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            let series = json!({"series": {"count": *count, "lastObservedTime": now()}});
            match events.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => return patched.map(drop),
            }
        }
        match events.create(&PostParams::default(), &told.event(&name, &self.node)).await {
            // Another agent has told it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop),
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// A report as its Event says it.
struct Told<'a> {
    api_version: &'static str,
    kind: &'static str,
    object: &'a ObjectName,
    uid: &'a str,
    /// What tells it from others on the object.
    what: String,
    type_: &'static str,
    reason: &'static str,
    action: &'static str,
    note: String,
}

impl<'a> Told<'a> {
    fn of(report: &'a Report) -> Self {
        match report {
            Report::Condition { backend_service, uid, condition } => {
                Self::of_condition(backend_service, uid, *condition)
            }
            Report::Fault { fault, uid } => Self::of_fault(fault, uid),
        }
    }

    fn of_condition(service: &'a Arc<BackendServiceName>, uid: &'a str, condition: Condition) -> Self {
        let protocol = match service.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let (type_, note) = match condition {
            Condition::Well => ("Normal", "is well again"),
            Condition::Panic => {
                ("Warning", "uses endpoints that fail their health check, since too few pass it")
            }
            Condition::Empty => ("Warning", "has no endpoint left; new flows are refused"),
            Condition::NoNodePort => (
                "Warning",
                "has no node port for its NEG of type GCE_VM_IP_PORT; requests are answered with 503",
            ),
        };
        Self {
            api_version: "v1",
            kind: "Service",
            object: &service.service,
            uid,
            what: format!("{}-{protocol}.{}", service.port, reason(condition).to_lowercase()),
            type_,
            reason: reason(condition),
            action: "Forward",
            note: format!("backend service {service} {note}"),
        }
    }

    fn of_fault(fault: &'a Fault, uid: &'a str) -> Self {
        let Fault { kind, object, message } = fault;
        let end = (0..=NOTE_BYTES_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
        Self {
            api_version: kind.api_version(),
            kind: kind.name(),
            object,
            uid,
            // Objects of several kinds may have one name.
            what: format!("fault-{:08x}", stable_hash::of(&format!("{} {message}", kind.name())) as u32),
            type_: "Warning",
            reason: kind.reason(),
            action: "Read",
            note: message[..end.unwrap_or(0)].to_owned(),
        }
    }

    /// The same from all agents.
    fn event_name(&self, period: u64) -> String {
        let name = &*self.object.name;
        // Names of objects are ASCII; no label may end with a hyphen or be empty.
        let name = name.get(..NAME_BYTES_MAX).unwrap_or(name).trim_end_matches(['-', '.']);
        format!("{name}.{}.{period:x}", self.what)
    }

    fn event(&self, name: &str, node: &str) -> Event {
        let namespace = self.object.namespace.to_string();
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(self.action.to_owned()),
            event_time: Some(now()),
            note: Some(self.note.clone()),
            reason: Some(self.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(self.api_version.to_owned()),
                kind: Some(self.kind.to_owned()),
                name: Some(self.object.name.to_string()),
                namespace: Some(namespace),
                uid: Some(self.uid.to_owned()).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("podway.io/agent".to_owned()),
            reporting_instance: Some(node.to_owned()),
            type_: Some(self.type_.to_owned()),
            ..Event::default()
        }
    }
}

pub(super) const fn reason(condition: Condition) -> &'static str {
    match condition {
        Condition::Well => "EndpointsWell",
        Condition::Panic => "EndpointsFail",
        Condition::Empty => "NoEndpoints",
        Condition::NoNodePort => "NoNodePort",
    }
}
