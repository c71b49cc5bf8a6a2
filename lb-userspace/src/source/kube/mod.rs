//! Facts from the Kubernetes API: one watch for each kind of object, and none of them ends.
//!
//! A watch begins with a complete list and goes on from its version; whatever breaks it, it is taken
//! up again where it stopped, or with a new list where the server no longer knows that version. Facts
//! are taken away by a deletion event or by a complete list without the object, by nothing else.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config};
use tokio::sync::mpsc;
use tokio::sync::watch::Receiver;

use super::{ProblemList, SourceEvent, apply, objects};
use crate::model::{Change, Problem, Snapshot};
pub(crate) use connection::{REQUESTS_PERIOD, client};
use watch::{Kind, Watch};

mod backoff;
mod connection;
mod known;
mod lenient;
mod named_secrets;
mod watch;

pub use named_secrets::WantedSecrets;

/// What kube-proxy leaves out, and so does Podway: Services that say to be headless, and objects that another proxy
/// serves (kubernetes `cmd/kube-proxy/app/server.go`, `NewProxyServer`'s informer factory). Headless Services that the
/// API server knows by their cluster IP alone come, since Ingresses may lead to them.
const SERVICE_SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// EndpointSlices that no other proxy serves, of which only those with a Service are of use. Their controller marks those
/// of headless Services, which kube-proxy leaves out and Ingresses may lead to.
const SLICE_SELECTOR: &str = "kubernetes.io/service-name,!service.kubernetes.io/service-proxy-name";

/// Events that wait in [`read_once`].
const READ_EVENTS_MAX: usize = 64;

/// How patient the watches are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Wait after the first failure; doubled with each further one, with jitter.
    pub backoff_min: Duration,
    /// Longest wait after a failure.
    pub backoff_max: Duration,
    /// Objects per page where the server cannot stream a list: a bound on memory.
    pub page_objects_max: u32,
    /// Longest time after which the server is asked to end a watch, so that a dead connection is found. Each watch has
    /// one of its own between half of this and the whole: those that began together do not end together.
    pub watch_timeout: Duration,
    /// Time after which a kind that the server lacks, or does not let us read, is asked for again, with
    /// jitter: every node of a cluster asks.
    pub missing_kind_wait: Duration,
    /// The Secrets that are wanted; without it none is read.
    pub secrets: Option<Receiver<WantedSecrets>>,
    /// The node whose pods are watched, for the readiness gates that they name; none without one.
    pub pods_of_node: Option<String>,
    /// Most requests of a client in five seconds; at the bound they wait. Watches need a handful and a list some pages: it is
    /// for a server or proxy that ends each watch at once.
    pub requests_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(800),
            backoff_max: Duration::from_secs(30),
            page_objects_max: 250,
            watch_timeout: Duration::from_secs(240),
            missing_kind_wait: Duration::from_secs(120),
            secrets: None,
            pods_of_node: None,
            requests_max: 50,
        }
    }
}

/// How to reach the API server: by a kubeconfig file's current context, or from inside the cluster.
///
/// # Errors
/// When the file, or the service account's files in the pod, cannot be read or used.
pub async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = kubeconfig else {
        return Config::incluster().context(
            "cannot use the pod's service account; outside a cluster give --kubeconfig or --manifests",
        );
    };
    let read = Kubeconfig::read_from(path);
    let kubeconfig = read.with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use the current context of kubeconfig {}", path.display()))
}

/// The facts of a cluster as they are now, and what is wrong with its objects.
///
/// # Errors
/// No client can be made of `config`, or the API server has not said all within `patience`.
pub async fn read_once(
    config: Config,
    settings: Settings,
    patience: Duration,
) -> anyhow::Result<(Snapshot, Vec<Problem>)> {
    let url = config.cluster_url.to_string();
    let (sender, mut events) = mpsc::channel(READ_EVENTS_MAX);
    let read = async {
        let mut snapshot = Snapshot::default();
        let mut problems = ProblemList::default();
        while let Some(event) = events.recv().await {
            match event {
                SourceEvent::Change(change) => apply(&mut snapshot, change),
                SourceEvent::Problems(found) => drop(problems.update(found)),
                SourceEvent::Interrupted(_) => {}
                SourceEvent::Synced => break,
                SourceEvent::Followed(_) => {}
            }
        }
        Ok((snapshot, problems.iter().cloned().collect()))
    };
    tokio::select! {
        result = read => result,
        ended = run(config, settings, sender) => Err(ended.err().unwrap_or_else(|| anyhow!("the watches have ended"))),
        () = tokio::time::sleep(patience) => Err(anyhow!(
            "cannot read the cluster's objects from {url} within {} s; check the address and the rights to list \
             them",
            patience.as_secs()
        )),
    }
}

/// Reports the facts of a cluster, and each later change, until the receiver is gone; of Secrets those that are
/// wanted. No failure of the API server ends it.
///
/// # Errors
/// When no client can be made of `config`: a certificate or a key is unusable. Nothing was sent.
pub async fn run(
    config: Config,
    settings: Settings,
    sender: mpsc::Sender<SourceEvent>,
) -> anyhow::Result<()> {
    let client = client(config, &settings).context("cannot make a client for the API server")?;
    let watches = 9 + usize::from(settings.pods_of_node.is_some());
    let unsynced = Arc::new(AtomicUsize::new(watches));
    let services = Kind {
        name: "Service",
        selector: Some(SERVICE_SELECTOR),
        is_optional: false,
        convert: objects::service,
        gone: Change::ServiceGone,
        fields: None,
        is_followed: false,
    };
    let slices = Kind {
        name: "EndpointSlice",
        selector: Some(SLICE_SELECTOR),
        is_optional: false,
        convert: objects::endpoint_slice,
        gone: Change::EndpointSliceGone,
        fields: None,
        is_followed: true,
    };
    let nodes = Kind {
        name: "Node",
        selector: None,
        is_optional: false,
        convert: objects::node,
        gone: |name| Change::NodeGone(name.name),
        fields: None,
        is_followed: false,
    };
    let service_cidrs = Kind {
        name: "ServiceCIDR",
        selector: None,
        is_optional: true,
        convert: objects::service_cidr,
        gone: |name| Change::ServiceCidrGone(name.name),
        fields: None,
        is_followed: false,
    };
    let backend_configs = Kind {
        name: "BackendConfig",
        selector: None,
        is_optional: true,
        convert: objects::backend_config,
        gone: Change::BackendConfigGone,
        fields: None,
        is_followed: false,
    };
    let pods_of_node = settings.pods_of_node.clone();
    let pods = Kind {
        name: "Pod",
        selector: None,
        is_optional: true,
        convert: objects::pod,
        gone: Change::GatedPodGone,
        fields: pods_of_node.as_ref().map(|node| format!("spec.nodeName={node}")),
        is_followed: false,
    };
    let watch_pods = async {
        if pods_of_node.is_some() {
            let watch = Watch::new(pods, settings.clone(), sender.clone(), Arc::clone(&unsynced));
            watch.run(Api::all(client.clone())).await;
        }
    };
    let ingresses = Kind {
        name: "Ingress",
        selector: None,
        is_optional: true,
        convert: objects::ingress,
        gone: Change::IngressGone,
        fields: None,
        is_followed: false,
    };
    let ingress_classes = Kind {
        name: "IngressClass",
        selector: None,
        is_optional: true,
        convert: objects::ingress_class,
        gone: |name| Change::IngressClassGone(name.name),
        fields: None,
        is_followed: false,
    };
    let frontend_configs = Kind {
        name: "FrontendConfig",
        selector: None,
        is_optional: true,
        convert: objects::frontend_config,
        gone: Change::FrontendConfigGone,
        fields: None,
        is_followed: false,
    };
    let load_balancer_pools = Kind {
        name: "LoadBalancerPool",
        selector: None,
        is_optional: true,
        convert: objects::load_balancer_pool,
        gone: |name| Change::LoadBalancerPoolGone(name.name),
        fields: None,
        is_followed: false,
    };
    tokio::join!(
        Watch::new(services, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(slices, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(nodes, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(service_cidrs, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(backend_configs, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(ingresses, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(ingress_classes, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(frontend_configs, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        Watch::new(load_balancer_pools, settings.clone(), sender.clone(), Arc::clone(&unsynced))
            .run(Api::all(client.clone())),
        named_secrets::run(client.clone(), settings.clone(), sender.clone()),
        watch_pods,
    );
    Ok(())
}
