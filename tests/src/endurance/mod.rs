//! What must hold however long it goes on and whatever becomes of the agents: a cluster with Services and an
//! Ingress, traffic of both layers that tells each failure, and changes without an end.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_userspace::model::Protocol;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::agent::{Agent, Options, Podway};
use crate::cluster::Cluster;
use crate::manifests::{Manifests, NAMESPACE, Service};
use crate::topology::NODE_NAMES;
use crate::wait::wait_until;
use crate::web::{HTTP_PORT, Web, ask};

mod changes;
mod flows;
mod memory;
mod requests;

pub use changes::Changes;
pub use flows::{Carried, Flows, Rates};
pub use memory::own_memory_bytes;
pub use requests::{Absences, INTERVAL, Requests};

/// The VIP of the Ingress.
const INGRESS_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 81));
/// Where the Ingress is asked.
pub const INGRESS: SocketAddr = SocketAddr::new(INGRESS_IP, 80);
/// The host of its rule.
pub const INGRESS_HOST: &str = "shop.example";
/// How long an agent may take to bring the maps to the plan, or a front-end to serve.
const SYNC_DEADLINE: Duration = Duration::from_secs(180);

/// A cluster and what its Ingress needs: an HTTP server in each pod.
#[derive(Debug)]
pub struct Stage {
    /// The cluster, with the further Service `shop` behind the Ingress.
    pub cluster: Cluster,
    _webs: Vec<Web>,
    _runtime: Runtime,
}

impl Stage {
    /// A cluster in which all is served.
    ///
    /// # Errors
    /// A part cannot be started, or is not ready in time.
    pub fn start(podway: &Podway, options: Options) -> Result<Self> {
        let mut cluster = Cluster::start(podway, options)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let webs =
            cluster.topology.pods().map(|pod| Web::start(runtime.handle(), pod)).collect::<Result<_>>()?;
        let shop = Service::new("shop", 90).port("http", Protocol::Tcp, 80, HTTP_PORT);
        let shop = shop.backed_by_all(&cluster.topology);
        cluster.manifests.put(shop)?;
        put(&cluster.manifests, "class", &ingress_class())?;
        put(&cluster.manifests, "ingress", &ingress())?;
        let stage = Self { cluster, _webs: webs, _runtime: runtime };
        stage.cluster.agents.iter().try_for_each(wait_until_in_sync)?;
        stage.wait_for_ingress()?;
        Ok(stage)
    }

    /// Waits until the Ingress is served to the client outside.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_for_ingress(&self) -> Result<()> {
        let client = self.cluster.topology.client();
        let is_served = || ask(client, INGRESS, INGRESS_HOST, "/").is_ok_and(|answer| answer.code == 200);
        let waited = wait_until(SYNC_DEADLINE, "the Ingress to be served", is_served);
        waited.with_context(|| format!("the log of {}:\n{}", NODE_NAMES[0], self.cluster.agents[0].log()))
    }
}

/// Waits until the maps of an agent's node say what the manifests say.
///
/// # Errors
/// They do not in time; the message holds what is still different, and the log.
pub fn wait_until_in_sync(agent: &Agent) -> Result<()> {
    let mut last = Ok(());
    let waited = wait_until(SYNC_DEADLINE, "the plan in the maps", || {
        last = agent.verify();
        last.is_ok()
    });
    waited.with_context(|| format!("{last:?}; log:\n{}", agent.log()))
}

/// A file that is there as a whole at once, as an editor's rename makes it.
fn put(manifests: &Manifests, name: &str, object: &Value) -> Result<()> {
    let aside = manifests.dir().join(format!(".{name}"));
    std::fs::write(&aside, object.to_string())?;
    Ok(std::fs::rename(&aside, manifests.dir().join(format!("{name}.json")))?)
}

fn ingress_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"},
    })
}

fn ingress() -> Value {
    let backend = json!({"service": {"name": "shop", "port": {"name": "http"}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": "shop", "namespace": NAMESPACE, "annotations": {"podway.io/vips": INGRESS_IP.to_string()},
        },
        "spec": {"ingressClassName": "podway", "rules": [
            {"host": INGRESS_HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}},
        ]},
    })
}
