//! An API server at the gateway of a topology's nodes, with the objects of Services, and the kubeconfig that
//! leads agents there.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::api_server::{ApiServer, Resource};
use crate::deployment;
use crate::manifests::{Manifests, Service};
use crate::topology::Topology;

/// The server. Dropping it ends its watches and closes its port.
#[derive(Debug)]
pub struct GatewayApi {
    /// The server.
    pub server: ApiServer,
    dir: TempDir,
    _runtime: Runtime,
}

impl GatewayApi {
    /// A server that has the topology's Nodes and lets agents do what the manifests grant them, nothing else.
    ///
    /// # Errors
    /// There is no socket, thread or folder for it; the manifests cannot be read.
    pub fn start(topology: &Topology) -> Result<Self> {
        let dir = TempDir::with_prefix("podway-api-").context("cannot make a folder")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = topology.run_at_gateway(|| std::net::TcpListener::bind("192.0.2.1:0"))??;
        listener.set_nonblocking(true)?;
        let server = {
            let _guard = runtime.enter();
            ApiServer::serve(tokio::net::TcpListener::from_std(listener)?)
        };
        server.allow_only(deployment::rights()?);
        for node in Manifests::nodes(topology) {
            server.put(Resource::Nodes, node);
        }
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig(&server).to_string())?;
        Ok(Self { server, dir, _runtime: runtime })
    }

    /// Gives the server a Service and its slices as they are now.
    pub fn publish(&self, service: &Service) {
        for object in service.objects(1) {
            let resource = match object["kind"].as_str() {
                Some("Service") => Resource::Services,
                _ => Resource::EndpointSlices,
            };
            self.server.put(resource, object);
        }
    }

    /// The kubeconfig's file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Ends the server, and keeps its folder for agents that are started again.
    #[must_use]
    pub fn end(self) -> TempDir {
        self.dir
    }

    /// A folder that goes with the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn kubeconfig(server: &ApiServer) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "clusters": [{"name": "here", "cluster": {"server": server.url()}}],
        "users": [{"name": "nobody", "user": {}}],
    })
}
