//! Conditions of pods to the API server.
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Met;
use crate::source::kube::{Settings, client};

/// Writes conditions until their sender is gone. One that the server does not take is logged; a pod that goes on waiting is
/// told again.
///
/// # Errors
/// When no client can be made of `config`.
pub async fn run(config: Config, mut met: mpsc::Receiver<Met>) -> anyhow::Result<()> {
    let client = client(config, &Settings::default()).context("cannot make a client for pods' conditions")?;
    let mut is_failing = false;
    while let Some(met) = met.recv().await {
        match write(&client, &met).await {
            Err(error) if !is_failing => {
                warn!(%error, pod = %met.pod.name, "cannot write a pod's conditions");
            }
            Ok(()) if is_failing => info!("pods' conditions are written again"),
            _ => continue,
        }
        is_failing = !is_failing;
    }
    Ok(())
}

async fn write(client: &Client, met: &Met) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &met.pod.name.namespace);
    let patch = Patch::Strategic(patch(met, Timestamp::now()));
    match pods.patch_status(&met.pod.name.name, &PatchParams::default(), &patch).await {
        // Gone, or another pod of this name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        written => written.map(drop),
    }
}

/// Conditions are merged by their type; the uid keeps the patch from another pod of the name.
fn patch(met: &Met, now: Timestamp) -> Value {
    let (reason, message) = met.reason.texts();
    let condition = |gate: &crate::model::ReadinessGate| {
        json!({
            "type": gate.condition_type(), "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    };
    let conditions: Vec<Value> = met.gates.iter().map(condition).collect();
    json!({"metadata": {"uid": &*met.pod.uid}, "status": {"conditions": conditions}})
}
