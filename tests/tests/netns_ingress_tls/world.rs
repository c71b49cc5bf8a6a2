//! A node whose agent serves Ingresses with TLS to a client outside.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Manifests, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web};
use lb_userspace::model::Protocol;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::openssl::Pem;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The VIP of all Ingresses.
pub(crate) const VIP: IpAddr = LOAD_BALANCER_IPS[0];

/// Two nodes, a server in the pod of each, the Service `web`, an agent on the first node.
pub(crate) struct World {
    pub(crate) agent: Agent,
    _webs: Vec<Web>,
    manifests: Manifests,
    pub(crate) dir: TempDir,
    _runtime: Runtime,
    pub(crate) topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met.
    pub(crate) fn start(further: &'static [&'static str]) -> Option<Self> {
        let need = need::netns()?;
        let topology = Topology::two_nodes(1).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let dir = TempDir::with_prefix("podway-manifests-").unwrap();
        let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
        let mut service = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
        for node in topology.nodes() {
            service = service.backed_by(node, &node.pods()[0]);
        }
        manifests.put(service).unwrap();
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let options = Options { further, ..Options::default() };
        let mut agent = Agent::start(&podway, &topology, NODE_NAMES[0], manifests.dir(), options).unwrap();
        agent.wait_for(&manifests.cluster_frontends()).unwrap();
        let world = Self { agent, _webs: webs, manifests, dir, _runtime: runtime, topology };
        world.put(
            "class",
            &json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
                "metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"},
            }),
        );
        Some(world)
    }

    /// Puts an object there as a whole, as an editor's rename makes it.
    pub(crate) fn put(&self, name: &str, object: &Value) {
        let dir = self.manifests.dir();
        std::fs::write(dir.join(format!("{name}.new")), object.to_string()).unwrap();
        std::fs::rename(dir.join(format!("{name}.new")), dir.join(format!("{name}.json"))).unwrap();
    }

    /// An Ingress for these hosts, and Secrets with the hosts that each has a certificate for; without any, all.
    pub(crate) fn put_ingress(
        &self,
        name: &str,
        hosts: &[&str],
        secrets: &[(&str, &[&str])],
        annotations: &[(&str, &str)],
    ) {
        let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let rules: Vec<_> =
            hosts.iter().map(|host| json!({"host": host, "http": {"paths": paths}})).collect();
        let tls = secrets.iter().map(|(secret, hosts)| json!({"secretName": secret, "hosts": hosts}));
        let tls: Vec<_> = tls.collect();
        let mut meta = json!({"name": name, "namespace": NAMESPACE, "annotations": {"podway.io/vips": VIP}});
        for (annotation, value) in annotations {
            meta["annotations"][annotation] = (*value).into();
        }
        let spec = json!({"ingressClassName": "podway", "tls": tls, "rules": rules});
        let object =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": spec});
        self.put(name, &object);
    }

    /// A Secret with a certificate, and with `ca.crt` where one is given.
    pub(crate) fn put_secret(&self, name: &str, certificate: Option<&Pem>, authority: Option<&Pem>) {
        let mut data = json!({});
        if let Some(Pem { certificate, key }) = certificate {
            data["tls.crt"] = certificate.as_str().into();
            data["tls.key"] = key.as_str().into();
        }
        if let Some(authority) = authority {
            data["ca.crt"] = authority.certificate.as_str().into();
        }
        let meta = json!({"name": name, "namespace": NAMESPACE});
        self.put(name, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}));
    }

    pub(crate) fn client(&self) -> &Host {
        self.topology.client()
    }

    pub(crate) fn https(&self) -> SocketAddr {
        SocketAddr::new(VIP, 443)
    }

    /// Waits for a fact; the agent's log goes with the fault.
    pub(crate) fn wait(&self, what: &str, is_so: impl FnMut() -> bool) {
        wait_until(DEADLINE, what, is_so)
            .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", self.agent.log()));
    }
}
