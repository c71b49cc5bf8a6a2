//! A source that runs against a server, and what its events add up to.
use std::collections::BTreeMap;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Resource};
use lb_userspace::model::{Change, Snapshot};
use lb_userspace::source::kube::{Settings, WantedSecrets, run};
use lb_userspace::source::{ProblemList, SourceEvent, apply};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for what a test expects.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the source asks for.
pub(crate) const SERVICES: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
pub(crate) const SLICES: &str = "kubernetes.io/service-name,!service.kubernetes.io/service-proxy-name";

pub(crate) struct Observer {
    receiver: mpsc::Receiver<SourceEvent>,
    source: JoinHandle<()>,
    pub(crate) snapshot: Snapshot,
    pub(crate) problems: ProblemList,
    pub(crate) synced: usize,
    /// Watches and lists that failed.
    pub(crate) interruptions: usize,
    /// Every fact that was taken away, in order.
    pub(crate) gone: Vec<String>,
    /// How far the source has said that it is, in order.
    pub(crate) followed: Vec<u64>,
    /// Changes so far.
    pub(crate) changes: usize,
}

impl Observer {
    /// Starts a source with short waits and small pages.
    pub(crate) fn start(url: &str) -> Self {
        Self::with_config(kube::Config::new(url.parse().expect("a URL")))
    }

    pub(crate) fn with_config(config: kube::Config) -> Self {
        Self::with_settings(config, Settings::default())
    }

    /// Starts one that also watches the pods of a node.
    pub(crate) fn of_node(url: &str, node: &str) -> Self {
        let settings = Settings { pods_of_node: Some(node.to_owned()), ..Settings::default() };
        Self::with_settings(kube::Config::new(url.parse().expect("a URL")), settings)
    }

    /// Starts one that also watches the Secrets that are wanted.
    pub(crate) fn of_secrets(url: &str, wanted: watch::Receiver<WantedSecrets>) -> Self {
        let settings = Settings { secrets: Some(wanted), ..Settings::default() };
        Self::with_settings(kube::Config::new(url.parse().expect("a URL")), settings)
    }

    /// Starts one that watches all that an agent does: the pods of its node and the Secrets that are wanted too.
    pub(crate) fn of_agent(url: &str, node: &str, wanted: watch::Receiver<WantedSecrets>) -> Self {
        let pods_of_node = Some(node.to_owned());
        let settings = Settings { secrets: Some(wanted), pods_of_node, ..Settings::default() };
        Self::with_settings(kube::Config::new(url.parse().expect("a URL")), settings)
    }

    fn with_settings(config: kube::Config, settings: Settings) -> Self {
        let settings = Settings {
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            page_objects_max: 2,
            missing_kind_wait: Duration::from_millis(20),
            ..settings
        };
        // Small, so that a source that waits for a slow receiver is what is tested.
        let (sender, receiver) = mpsc::channel(4);
        let source = tokio::spawn(async move { run(config, settings, sender).await.expect("a client") });
        Self {
            receiver,
            source,
            snapshot: Snapshot::default(),
            problems: ProblemList::default(),
            synced: 0,
            interruptions: 0,
            gone: Vec::new(),
            followed: Vec::new(),
            changes: 0,
        }
    }

    /// Takes events until a condition holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let done = timeout(DEADLINE, async {
            while !holds(self) {
                let event = self.receiver.recv().await.expect("the source runs on");
                self.take(event);
            }
        });
        if done.await.is_err() {
            let names: Vec<_> = self.snapshot.services.keys().map(ToString::to_string).collect();
            panic!(
                "after {DEADLINE:?} still not: {what}; Services are {names:?}, problems {:?}",
                self.problems
            );
        }
    }

    /// Takes events until the facts are the server's objects.
    pub(crate) async fn until_equal(&mut self, server: &ApiServer) {
        let expected = expected(server);
        self.until("facts equal the server's objects", |o| o.synced == 1 && o.versions() == expected).await;
    }

    /// Waits until the server has seen what a test expects, while events are taken.
    pub(crate) async fn until_server(&mut self, what: &str, holds: impl Fn() -> bool) {
        let done = timeout(DEADLINE, async {
            while !holds() {
                if let Ok(event) = timeout(Duration::from_millis(5), self.receiver.recv()).await {
                    self.take(event.expect("the source runs on"));
                }
            }
        });
        assert!(done.await.is_ok(), "after {DEADLINE:?} still not: {what}");
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Change(change) => {
                self.changes += 1;
                match &change {
                    Change::ServiceGone(name) => self.gone.push(format!("Service {name}")),
                    Change::EndpointSliceGone(name) => self.gone.push(format!("EndpointSlice {name}")),
                    Change::NodeGone(name) => self.gone.push(format!("Node {name}")),
                    Change::ServiceCidrGone(name) => self.gone.push(format!("ServiceCIDR {name}")),
                    Change::BackendConfigGone(name) => self.gone.push(format!("BackendConfig {name}")),
                    Change::IngressGone(name) => self.gone.push(format!("Ingress {name}")),
                    Change::IngressClassGone(name) => self.gone.push(format!("IngressClass {name}")),
                    Change::SecretGone(name) => self.gone.push(format!("Secret {name}")),
                    Change::FrontendConfigGone(name) => self.gone.push(format!("FrontendConfig {name}")),
                    Change::LoadBalancerPoolGone(name) => self.gone.push(format!("LoadBalancerPool {name}")),
                    _ => {}
                }
                apply(&mut self.snapshot, change);
            }
            SourceEvent::Interrupted(_) => self.interruptions += 1,
            SourceEvent::Synced => self.synced += 1,
            SourceEvent::Followed(version) => self.followed.push(version),
            SourceEvent::Problems(problems) => {
                self.problems.update(problems);
            }
        }
    }

    /// Name and version of every fact but the Nodes', of which the name alone: a Node's version moves
    /// without a change that matters.
    pub(crate) fn versions(&self) -> Versions {
        let services =
            self.snapshot.services.iter().map(|(n, s)| (n.to_string(), s.resource_version.to_string()));
        let slices = &self.snapshot.endpoint_slices;
        let slices = slices.iter().map(|(n, s)| (n.to_string(), s.resource_version.to_string()));
        let cidrs = &self.snapshot.service_cidrs;
        let cidrs = cidrs.iter().map(|(name, cidr)| (format!("/{name}"), cidr.resource_version.to_string()));
        let configs = &self.snapshot.backend_configs;
        let configs = configs.iter().map(|(n, c)| (n.to_string(), c.resource_version.to_string()));
        let ingresses = &self.snapshot.ingresses;
        let ingresses = ingresses.iter().map(|(n, i)| (n.to_string(), i.resource_version.to_string()));
        let classes = &self.snapshot.ingress_classes;
        let classes = classes.iter().map(|(name, c)| (format!("/{name}"), c.resource_version.to_string()));
        let frontend = &self.snapshot.frontend_configs;
        let frontend = frontend.iter().map(|(n, c)| (n.to_string(), c.resource_version.to_string()));
        let pools = &self.snapshot.load_balancer_pools;
        let pools = pools.iter().map(|(name, pool)| (format!("/{name}"), pool.resource_version.to_string()));
        Versions {
            services: services.collect(),
            slices: slices.collect(),
            nodes: self.snapshot.nodes.keys().map(ToString::to_string).collect(),
            service_cidrs: cidrs.collect(),
            backend_configs: configs.collect(),
            ingresses: ingresses.collect(),
            ingress_classes: classes.collect(),
            frontend_configs: frontend.collect(),
            load_balancer_pools: pools.collect(),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.source.abort();
    }
}

/// Names and versions by kind.
#[derive(Debug, PartialEq)]
pub(crate) struct Versions {
    pub(crate) services: BTreeMap<String, String>,
    pub(crate) slices: BTreeMap<String, String>,
    pub(crate) nodes: Vec<String>,
    service_cidrs: BTreeMap<String, String>,
    backend_configs: BTreeMap<String, String>,
    ingresses: BTreeMap<String, String>,
    ingress_classes: BTreeMap<String, String>,
    frontend_configs: BTreeMap<String, String>,
    load_balancer_pools: BTreeMap<String, String>,
}

fn expected(server: &ApiServer) -> Versions {
    let nodes = server.versions(Resource::Nodes, "").into_keys();
    Versions {
        services: server.versions(Resource::Services, SERVICES),
        slices: server.versions(Resource::EndpointSlices, SLICES),
        nodes: nodes.map(|name| name.trim_start_matches('/').to_owned()).collect(),
        service_cidrs: server.versions(Resource::ServiceCidrs, ""),
        backend_configs: server.versions(Resource::BackendConfigs, ""),
        ingresses: server.versions(Resource::Ingresses, ""),
        ingress_classes: server.versions(Resource::IngressClasses, ""),
        frontend_configs: server.versions(Resource::FrontendConfigs, ""),
        load_balancer_pools: server.versions(Resource::LoadBalancerPools, ""),
    }
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {}},
    })
}

pub(crate) fn slice(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["198.51.100.1"], "nodeName": "node-a", "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
    })
}

pub(crate) fn service_cidr(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": ["198.51.100.0/24"]}})
}

pub(crate) fn backend_config(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"healthCheck": {"requestPath": "/healthz"}}})
}

pub(crate) fn ingress(name: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "annotations": {"podway.io/vips": "203.0.113.80", "networking.gke.io/v1beta1.FrontendConfig": "a"},
        },
        "spec": {
            "ingressClassName": "podway",
            "rules": [{"host": "a.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}},
            ]}}],
        },
    })
}

pub(crate) fn ingress_class(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"controller": "podway.io/ingress"}})
}

pub(crate) fn frontend_config(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"redirectToHttps": {"enabled": true}}})
}

pub(crate) fn load_balancer_pool(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"addresses": ["203.0.113.0/28", "2001:db8:113::/124"]}})
}

/// A server with a few objects of most kinds.
pub(crate) async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.put(Resource::Services, service(name));
        server.put(Resource::EndpointSlices, slice(name));
        server.put(Resource::Nodes, node(name));
    }
    server.put(Resource::ServiceCidrs, service_cidr("kubernetes"));
    server.put(Resource::BackendConfigs, backend_config("a"));
    server
}
