//! Where the agent under test has its facts from.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_tests::agent::Source;
use lb_tests::api_server::{ApiServer, Resource};
use lb_tests::manifests::{Manifests, NAMESPACE};
use lb_tests::need;
use lb_tests::real_api::RealApi;
use lb_tests::topology::Topology;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::fleet;

/// A source of facts with the fleet in it.
pub(crate) enum Stage {
    /// The API server of the tests, at the gateway of the nodes' segment.
    Server { server: ApiServer, _runtime: Runtime, kubeconfig: PathBuf, dir: TempDir },
    /// A real kube-apiserver, there.
    Real { api: Box<RealApi>, kubeconfig: PathBuf, dir: TempDir },
    /// A folder with two files for each Service.
    Folder { dir: TempDir },
}

impl Stage {
    pub(crate) fn server(topology: &Topology, services: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = topology.run_at_gateway(|| std::net::TcpListener::bind("192.0.2.1:0"))??;
        listener.set_nonblocking(true)?;
        let server = {
            let _guard = runtime.enter();
            ApiServer::serve(tokio::net::TcpListener::from_std(listener)?)
        };
        for node in Manifests::nodes(topology) {
            server.put(Resource::Nodes, node);
        }
        for number in 0..services {
            server.put(Resource::Services, fleet::service(number));
            server.put(Resource::EndpointSlices, fleet::slice(number, None));
        }
        let dir = TempDir::with_prefix("podway-scale-").context("cannot make a folder")?;
        let kubeconfig = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "scale",
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "nobody"}}],
            "clusters": [{"name": "scale", "cluster": {"server": server.url()}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self::Server { server, _runtime: runtime, kubeconfig, dir })
    }

    /// With Services of the fleet alone: the server's own belongs to another proxy.
    pub(crate) fn real(need: &need::Cluster, topology: &Topology, services: u32) -> Result<Self> {
        let api = Box::new(RealApi::start(need, topology)?);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let own = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"service.kubernetes.io/service-proxy-name": "other"},
            },
        });
        api.apply(&namespace)?;
        api.apply(&own)?;
        let objects = |number| [fleet::service(number), fleet::slice(number, None)];
        api.create_all((0..services).flat_map(objects))?;
        let kubeconfig = api.plane().administrator();
        let dir = TempDir::with_prefix("podway-scale-").context("cannot make a folder")?;
        Ok(Self::Real { api, kubeconfig, dir })
    }

    pub(crate) fn folder(topology: &Topology, services: u32) -> Result<Self> {
        let dir = TempDir::with_prefix("podway-scale-").context("cannot make a folder")?;
        for (number, node) in Manifests::nodes(topology).iter().enumerate() {
            write(dir.path(), &format!("node-{number}"), node)?;
        }
        for number in 0..services {
            write(dir.path(), &format!("service-{number}"), &fleet::service(number))?;
            write(dir.path(), &slice_file(number), &fleet::slice(number, None))?;
        }
        Ok(Self::Folder { dir })
    }

    pub(crate) fn source(&self) -> Source<'_> {
        match self {
            Self::Server { kubeconfig, dir, .. } | Self::Real { kubeconfig, dir, .. } => {
                Source::Cluster { kubeconfig, folder: dir.path() }
            }
            Self::Folder { dir } => Source::Folder(dir.path()),
        }
    }

    /// Replaces the slice of a Service.
    pub(crate) fn put_slice(&self, number: u32, slice: Value) -> Result<()> {
        match self {
            Self::Server { server, .. } => drop(server.put(Resource::EndpointSlices, slice)),
            Self::Real { api, .. } => api.apply(&slice)?,
            Self::Folder { dir } => write(dir.path(), &slice_file(number), &slice)?,
        }
        Ok(())
    }
}

fn slice_file(number: u32) -> String {
    format!("slice-{number}")
}

/// Replaces a file in one step.
fn write(dir: &Path, name: &str, object: &Value) -> Result<()> {
    let new = dir.join(format!("{name}.new"));
    std::fs::write(&new, object.to_string()).with_context(|| format!("cannot write {}", new.display()))?;
    Ok(std::fs::rename(new, dir.join(format!("{name}.json")))?)
}
