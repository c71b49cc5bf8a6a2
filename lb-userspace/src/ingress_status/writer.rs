//! Statuses of Ingresses to the API server.
use anyhow::Context as _;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Correction;
use crate::source::kube::{Settings, client};

/// Writes statuses until their sender is gone. One that the server does not take is logged; its sender sees that it is
/// still missing.
///
/// # Errors
/// When no client can be made of `config`.
pub async fn run(config: Config, mut corrections: mpsc::Receiver<Correction>) -> anyhow::Result<()> {
    let client = client(config, &Settings::default()).context("cannot make a client for Ingress statuses")?;
    let mut is_failing = false;
    while let Some(correction) = corrections.recv().await {
        match write(&client, &correction).await {
            Err(error) if !is_failing => {
                warn!(%error, ingress = %correction.ingress, "cannot write an Ingress's status");
            }
            Ok(()) if is_failing => info!("Ingress statuses are written again"),
            _ => continue,
        }
        is_failing = !is_failing;
    }
    Ok(())
}

/// With the version, so that nothing is overwritten that was not seen: its fact comes, and is looked at then.
async fn write(client: &Client, correction: &Correction) -> kube::Result<()> {
    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), &correction.ingress.namespace);
    let entries: Vec<Value> = correction.vips.iter().map(|vip| json!({"ip": vip})).collect();
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": correction.resource_version},
        "status": {"loadBalancer": {"ingress": entries}},
    }));
    match ingresses.patch_status(&correction.ingress.name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        written => written.map(drop),
    }
}
