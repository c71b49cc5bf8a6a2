//! Events to the API server.
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

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

use super::Report;
use crate::model::Protocol;
use crate::plan::Condition;
use crate::source::kube::{Settings, client};

/// An event of one kind about one backend service is one object in so many seconds, for as long as an API server
/// keeps an event unless told otherwise (`--event-ttl`).
const PERIOD_S: u64 = 3_600;

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
    /// How often each event was told in the period; bounded by the allowance of the [`super::Ledger`].
    told: BTreeMap<String, i32>,
}

impl Writer {
    async fn write(&mut self, report: &Report) -> kube::Result<()> {
        let period = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / PERIOD_S;
        if std::mem::replace(&mut self.period, period) != period {
            self.told.clear();
        }
        let namespace = &report.backend_service.service.namespace;
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let name = name(report, period);
        let count = self.told.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            let series = json!({"series": {"count": *count, "lastObservedTime": now()}});
            match events.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => return patched.map(drop),
            }
        }
        match events.create(&PostParams::default(), &event(report, &name, &self.node)).await {
            // Another agent has told it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop),
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// The same from all agents.
fn name(report: &Report, period: u64) -> String {
    let service = &report.backend_service;
    let protocol = match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let reason = reason(report.condition).to_lowercase();
    format!("{}.{}-{protocol}.{reason}.{period:x}", service.service.name, service.port)
}

const fn reason(condition: Condition) -> &'static str {
    match condition {
        Condition::Well => "EndpointsWell",
        Condition::Panic => "EndpointsFail",
        Condition::Empty => "NoEndpoints",
        Condition::NoNodePort => "NoNodePort",
    }
}

fn event(report: &Report, name: &str, node: &str) -> Event {
    let service = &report.backend_service.service;
    let (type_, note) = match report.condition {
        Condition::Well => ("Normal", "is well again"),
        Condition::Panic => ("Warning", "uses endpoints that fail their health check, since too few pass it"),
        Condition::Empty => ("Warning", "has no endpoint left; new flows are refused"),
        Condition::NoNodePort => {
            ("Warning", "has no node port for its NEG of type GCE_VM_IP_PORT; requests are answered with 503")
        }
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        action: Some("Forward".to_owned()),
        event_time: Some(now()),
        note: Some(format!("backend service {} {note}", report.backend_service)),
        reason: Some(reason(report.condition).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(service.name.to_string()),
            namespace: Some(service.namespace.to_string()),
            uid: Some(report.uid.to_string()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("podway.io/agent".to_owned()),
        reporting_instance: Some(node.to_owned()),
        type_: Some(type_.to_owned()),
        ..Event::default()
    }
}
