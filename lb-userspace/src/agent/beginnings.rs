//! What an agent that starts does side by side: reading the facts, making the maps, and loading the programs,
//! each of which takes a second or so in a large cluster.
use anyhow::{Context as _, Result};
use aya::Ebpf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::attach::{Attachments, Programs};
use crate::maps::{self, Maps, Object, Pins};
use crate::source::kube::WantedSecrets;
use crate::source::{self, SourceEvent};

use super::Options;
use super::api_links::ApiLinks;

/// Events of the source that wait for the loop: it reads on while the maps are made. At the bound it waits.
const SOURCE_EVENTS_MAX: usize = 65_536;

/// Begins to read the facts, of Secrets those that are wanted, and to write to the API server where they come from one.
pub(super) async fn start_source(
    options: &Options,
    secrets: watch::Receiver<WantedSecrets>,
) -> Result<(mpsc::Receiver<SourceEvent>, Option<ApiLinks>)> {
    let (sender, events) = mpsc::channel(SOURCE_EVENTS_MAX);
    if let Some(folder) = options.manifests.clone() {
        std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read the folder of manifests {}", folder.display()))?;
        tokio::spawn(source::files::run(folder, sender));
        return Ok((events, None));
    }
    let config = source::kube::config(options.kubeconfig.as_deref()).await?;
    let api = ApiLinks::start(&config, options)?;
    let pods_of_node = Some(options.node_name.clone());
    let settings =
        source::kube::Settings { pods_of_node, secrets: Some(secrets), ..source::kube::Settings::default() };
    tokio::spawn(async move {
        if let Err(error) = source::kube::run(config, settings, sender).await {
            tracing::error!(error = format!("{error:#}"), "the watches of the API server have ended");
        }
    });
    Ok((events, Some(api)))
}

/// Makes the maps beside the source: the counters of many endpoints take the kernel a while.
pub(super) async fn load_maps(object: Object, pins: &Pins, options: &Options) -> Result<(Ebpf, Maps)> {
    let (pins, sizes) = (pins.clone(), options.sizes());
    tokio::task::spawn_blocking(move || maps::load(&object, &pins, &sizes)).await?
}

/// Loads the programs beside the loop: the verifier takes about as long as reading the facts of a large
/// cluster.
pub(super) fn load_programs(ebpf: Ebpf, pins: &Pins, options: &Options) -> JoinHandle<Result<Attachments>> {
    let (pins, settings) = (pins.clone(), options.attach_settings());
    tokio::task::spawn_blocking(move || Attachments::new(Programs::load(ebpf)?, &pins, settings))
}
