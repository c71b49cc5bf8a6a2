//! A real kube-apiserver at the gateway of a topology's nodes, to which a test gives objects of any kind.
use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::api_server::Resource;
use crate::control_plane::{ControlPlane, Place};
use crate::manifests::{Manifests, Service};
use crate::need;
use crate::topology::Topology;
use crate::wiring::{GATEWAY_LAST, SEGMENT};

/// Who the fields belong to that a test has written.
const MANAGER: &str = "test";
/// Most writes at once.
const WRITES_MAX: usize = 32;

/// The server. Dropping it ends it.
pub struct RealApi {
    plane: ControlPlane,
    client: Client,
    /// Its threads are in the gateway's namespace.
    runtime: Runtime,
}

impl RealApi {
    /// A server that is ready and has the topology's Nodes, and nothing else of the test's.
    ///
    /// # Errors
    /// The server does not come up.
    pub fn start(need: &need::Cluster, topology: &Topology) -> Result<Self> {
        let gateway = topology.gateway();
        // The server asks itself, and answers pods by the way that their packets came.
        let routes = topology.nodes().iter().map(|node| {
            let [v4, _] = node.pod_cidrs();
            format!("route replace {v4} via {}\n", node.host().v4())
        });
        gateway.ip_batch(&("link set lo up\n".to_owned() + &routes.collect::<String>()))?;
        let (address, _) = SEGMENT.addresses(GATEWAY_LAST);
        let mut plane = ControlPlane::start(need, Place::Namespace(gateway.clone(), address))?;
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = gateway.run(runtime)??;
        let client = {
            let _guard = runtime.enter();
            Client::try_from(plane.config())?
        };
        runtime.block_on(plane.ready(&client))?;
        let api = Self { plane, client, runtime };
        for node in Manifests::nodes(topology) {
            api.apply(&node)?;
            api.apply_status(&node)?;
        }
        Ok(api)
    }

    /// The processes.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Kills the server and starts it again, once `meanwhile` is done.
    ///
    /// # Errors
    /// It does not come up again.
    pub fn restart(&mut self, meanwhile: impl FnOnce()) -> Result<()> {
        self.plane.kill_api_server();
        meanwhile();
        self.plane.start_api_server()?;
        self.runtime.block_on(self.plane.ready(&self.client))
    }

    /// Makes an object what it is given as, without its status. The server refuses what the kind has not.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let object = without_what_the_server_writes(object.clone())?;
        let (api, name) = self.api_of(&object)?;
        let params = PatchParams::apply(MANAGER).force().validation_strict();
        let what = format!("{} {name}", object["kind"]);
        self.run(async move { api.patch(&name, &params, &Patch::Apply(&object)).await })
            .with_context(|| format!("the API server refuses {what}"))?;
        Ok(())
    }

    /// Gives an object that is there the status that it is given with.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn apply_status(&self, object: &Value) -> Result<()> {
        let (api, name) = self.api_of(object)?;
        let status = json!({"status": object["status"]});
        let what = format!("{} {name}", object["kind"]);
        self.run(
            async move { api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await },
        )
        .with_context(|| format!("the API server refuses the status of {what}"))?;
        Ok(())
    }

    /// Makes many objects, several at once.
    ///
    /// # Errors
    /// The server refuses one; others may be there by then.
    pub fn create_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let mut writes = JoinSet::new();
        for object in objects {
            let object = without_what_the_server_writes(object)?;
            let (api, name) = self.api_of(&object)?;
            let object = serde_json::from_value(object)?;
            let write = async move { (api.create(&PostParams::default(), &object).await, name) };
            writes.spawn_on(write, self.runtime.handle());
            if writes.len() == WRITES_MAX {
                self.runtime.block_on(written(&mut writes))?;
            }
        }
        while !writes.is_empty() {
            self.runtime.block_on(written(&mut writes))?;
        }
        Ok(())
    }

    /// Gives the server a Service and its slices as they are now.
    ///
    /// # Errors
    /// The server refuses one.
    pub fn publish(&self, service: &Service) -> Result<()> {
        service.objects(1).iter().try_for_each(|object| self.apply(object))
    }

    /// Removes an object.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, object: &Value) -> Result<()> {
        let (api, name) = self.api_of(object)?;
        self.run(async move { api.delete(&name, &DeleteParams::default()).await })?;
        Ok(())
    }

    /// All objects of a kind, in all namespaces.
    ///
    /// # Errors
    /// The server gives no list.
    pub fn objects(&self, resource: Resource) -> Result<Vec<Value>> {
        let (api_version, kind) = resource.kind();
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &api_resource(api_version, kind));
        let list = self.run(async move { api.list(&ListParams::default()).await })?;
        list.items.iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// A token of a service account, as the kubelet asks for one.
    ///
    /// # Errors
    /// There is no such account.
    pub fn token_of(&self, namespace: &str, account: &str) -> Result<String> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let name = account.to_owned();
        let made =
            self.run(async move { api.create_token_request(&name, &PostParams::default(), &request).await });
        let made = made.with_context(|| format!("no token for {namespace}/{account}"))?;
        made.status.and_then(|status| status.token).context("an answer without a token")
    }

    /// Runs work on the threads in the gateway's namespace.
    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, kube::Error>> + Send + 'static,
    ) -> Result<T> {
        Ok(self.runtime.block_on(self.runtime.spawn(work))??)
    }

    fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let api_version = text(&object["apiVersion"]).context("an object without a version")?;
        let kind = text(&object["kind"]).context("an object without a kind")?;
        let name = text(&object["metadata"]["name"]).context("an object without a name")?;
        let resource = api_resource(&api_version, &kind);
        let api = match text(&object["metadata"]["namespace"]) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        Ok((api, name))
    }
}

/// Waits for one write.
async fn written(writes: &mut JoinSet<(Result<DynamicObject, kube::Error>, String)>) -> Result<()> {
    let Some(write) = writes.join_next().await else { return Ok(()) };
    let (made, name) = write?;
    made.with_context(|| format!("the API server refuses {name}"))?;
    Ok(())
}

fn without_what_the_server_writes(mut object: Value) -> Result<Value> {
    for field in ["resourceVersion", "uid", "creationTimestamp"] {
        object["metadata"].as_object_mut().context("an object without metadata")?.remove(field);
    }
    object.as_object_mut().context("no object")?.remove("status");
    Ok(object)
}

fn api_resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}
