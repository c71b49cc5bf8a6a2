//! Annotations of Services to the API server.
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Correction;
use crate::source::kube::{Settings, client};
use crate::source::objects::{NEG_STATUS, NEG_STATUS_WRITER};

/// Writes statuses until their sender is gone. One that the server does not take is logged; its sender sees that it is
/// still missing.
///
/// # Errors
/// When no client can be made of `config`.
pub async fn run(config: Config, mut corrections: mpsc::Receiver<Correction>) -> anyhow::Result<()> {
    let client = client(config, &Settings::default()).context("cannot make a client for NEG statuses")?;
    let mut is_failing = false;
    while let Some(correction) = corrections.recv().await {
        match write(&client, &correction).await {
            Err(error) if !is_failing => {
                warn!(%error, service = %correction.service, "cannot write a Service's NEG status");
            }
            Ok(()) if is_failing => info!("NEG statuses are written again"),
            _ => continue,
        }
        is_failing = !is_failing;
    }
    Ok(())
}

async fn write(client: &Client, correction: &Correction) -> kube::Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), &correction.service.namespace);
    let writer = correction.text.as_ref().map(|_| "agent");
    let annotations = json!({NEG_STATUS: correction.text, NEG_STATUS_WRITER: writer});
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    match services.patch(&correction.service.name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        written => written.map(drop),
    }
}
