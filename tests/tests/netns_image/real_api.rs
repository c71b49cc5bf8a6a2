//! The manifests applied to a real kube-apiserver by kubectl, and the DaemonSet's container on two nodes with the
//! service account's own token: Services of every type and an Ingress are served, and what agents write is there.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_tests::api_server::Resource;
use lb_tests::manifests::{EXTERNAL_IP, NAMESPACE, Service};
use lb_tests::need::{self, Netns};
use lb_tests::process::Process;
use lb_tests::real_api::RealApi;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::traffic::{self, Server};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask_by_tls, ask_within, certificate};
use lb_userspace::model::Protocol;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::container::{Image, Run, capabilities, pod};

/// Two agents verify their programs at once, beside an API server.
const DEADLINE: Duration = Duration::from_secs(120);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const HOST: &str = "shop.example";
const UDP_PORT: u16 = 5353;
const NODE_PORT: u16 = 30_080;
/// Where the kubelet puts a service account's token.
const ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/podway.yaml");

/// Two nodes with two pods each, behind Services of every type.
struct World {
    agents: Vec<Process>,
    api: RealApi,
    plain: Service,
    trusted: CertificateDer<'static>,
    account: TempDir,
    image: Image,
    /// Stand for the nodes' bpffs.
    bpf: Vec<PathBuf>,
    need: Netns,
    topology: Topology,
    _webs: Vec<Web>,
    _servers: Vec<Server>,
    _runtime: Runtime,
}

impl World {
    /// `None`: a need is not met.
    fn start() -> Option<Self> {
        let (need, cluster) = (need::netns()?, need::cluster()?);
        let image = Image::of_release(&need.podway).unwrap();
        let topology = Topology::two_nodes(2).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let udp = [(Protocol::Udp, UDP_PORT)];
        let servers = topology.pods().map(|pod| Server::start(pod, &udp).unwrap()).collect();
        let api = RealApi::start(&cluster, &topology).unwrap();
        let applied = api.plane().kubectl(&["apply", "--validate=strict", "-f", MANIFESTS]).unwrap();
        assert!(applied.contains("daemonset.apps/podway created"), "{applied}");
        let account = account(&api);
        let plain = ports(Service::new("plain", 10)).backed_by_all(&topology);
        let neg = json!({"exposed_ports": {"80": {"name": "plain-neg"}}});
        let plain = plain.annotated("cloud.google.com/neg", &neg.to_string());
        let (trusted, secret) = certificate("tls", HOST).unwrap();
        let bpf = NODE_NAMES.iter().map(|name| topology.pins(name)).collect();
        let mut world = Self {
            agents: Vec::new(),
            api,
            plain,
            trusted,
            account,
            image,
            bpf,
            need,
            topology,
            _webs: webs,
            _servers: servers,
            _runtime: runtime,
        };
        world.publish(&secret);
        world.agents = NODE_NAMES.iter().map(|name| world.agent(name)).collect();
        Some(world)
    }

    /// Gives the server all that is to be served.
    fn publish(&self, secret: &Value) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let pool = json!({
            "apiVersion": "podway.io/v1alpha1", "kind": "LoadBalancerPool", "metadata": {"name": "segment"},
            "spec": {"addresses": ["192.0.2.200-192.0.2.203", "2001:db8:0:1::c8-2001:db8:0:1::cb"]},
        });
        for object in [namespace, pool, secret.clone(), elsewhere(), ingress()] {
            self.api.apply(&object).unwrap();
        }
        for service in services() {
            self.api.publish(&service.backed_by_all(&self.topology)).unwrap();
        }
        self.api.publish(&self.plain).unwrap();
        let pod = waiting_pod(self.topology.pod("web-a-1"));
        self.api.apply(&pod).unwrap();
        self.api.apply_status(&pod).unwrap();
    }

    /// Starts the DaemonSet's container on a node.
    fn agent(&self, name: &str) -> Process {
        let host_paths = [
            ("/sys/fs/bpf", self.topology.pins(name)),
            ("/sys/fs/cgroup", self.topology.node(name).host().cgroup().to_owned()),
            ("/run/podway", self.topology.run_dir(name)),
        ];
        let objects = self.need.ebpf_object.parent().unwrap();
        let object = self.need.ebpf_object.file_name().unwrap().to_str().unwrap();
        let object = format!("--ebpf-object=/given/bpf/{object}");
        let address = self.api.plane().address();
        let run = Run {
            pod: pod().unwrap(),
            capabilities: &capabilities(&pod().unwrap()).unwrap(),
            host_paths: &host_paths,
            given: &[(objects, "/given/bpf"), (self.account.path(), ACCOUNT_FOLDER)],
            environment: &[
                ("KUBERNETES_SERVICE_HOST", address.ip().to_string()),
                ("KUBERNETES_SERVICE_PORT", address.port().to_string()),
            ],
            further: &[&object],
        };
        self.image.start(self.topology.node(name).host(), &run).unwrap()
    }

    fn wait_for(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let mut are_running = true;
        let waited = wait_until(DEADLINE, what, || {
            are_running = self.agents.iter_mut().all(Process::is_running);
            !are_running || holds(self)
        });
        let logs = || self.agents.iter().map(Process::log).collect::<Vec<_>>().join("\n---\n");
        assert!(waited.is_ok() && are_running, "{what}: {waited:?}; the agents say:\n{}", logs());
    }

    /// The one object of a name.
    fn object(&self, resource: Resource, name: &str) -> Value {
        let mut objects = self.api.objects(resource).unwrap().into_iter();
        objects.find(|object| object["metadata"]["name"] == name).unwrap_or_default()
    }

    /// The addresses in the status of an object.
    fn told(&self, resource: Resource, name: &str) -> Vec<IpAddr> {
        let object = self.object(resource, name);
        let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["ip"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until a host is answered over TCP and UDP at the ports of an address.
    fn expect_answers(&mut self, from: &str, address: IpAddr, ports: [u16; 2]) {
        let [tcp, udp] = ports.map(|port| SocketAddr::new(address, port));
        self.wait_for(&format!("an answer to {from} from {tcp}"), |world| {
            answer(world.topology.host(from), tcp, "/").is_some()
        });
        self.wait_for(&format!("an answer to {from} from {udp} by UDP"), |world| {
            traffic::ask(world.topology.host(from), Protocol::Udp, udp).is_ok()
        });
    }

    /// Leaves the plain Service one pod, and waits until no other answers.
    fn expect_to_follow(&mut self, node: &str, pod: &str) {
        let mut service = self.plain.clone();
        service.endpoints.clear();
        let service = service.backed_by(self.topology.node(node), self.topology.pod(pod));
        self.api.publish(&service).unwrap();
        let to = SocketAddr::new(self.plain.cluster_ips[0], 80);
        self.wait_for(&format!("{pod} alone"), |world| {
            (0..8).all(|_| answer(world.topology.client(), to, "/").as_deref() == Some(pod))
        });
    }

    fn logs(&self) -> String {
        self.agents.iter().map(Process::log).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agents.clear();
        for pins in &self.bpf {
            // Not there where the agent never came so far.
            let _ = std::fs::remove_dir_all(pins);
        }
    }
}

/// What the kubelet mounts for the pod of the DaemonSet.
fn account(api: &RealApi) -> TempDir {
    let dir = TempDir::with_prefix("podway-account-").unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
    write("token", api.token_of("podway", "podway").unwrap().as_bytes());
    write("namespace", b"podway");
    write("ca.crt", &std::fs::read(api.plane().authority()).unwrap());
    dir
}

fn ports(service: Service) -> Service {
    service.port("http", Protocol::Tcp, 80, HTTP_PORT).port("dns", Protocol::Udp, 53, UDP_PORT)
}

/// One of each type beside the plain one.
fn services() -> [Service; 4] {
    let nodes = Service::new("nodes", 11).port("http", Protocol::Tcp, 80, HTTP_PORT).node_port(NODE_PORT);
    let nodes = nodes.port("dns", Protocol::Udp, 53, UDP_PORT).node_port(NODE_PORT + 1);
    let balanced = ports(Service::new("balanced", 12)).with_spec("type", json!("LoadBalancer"));
    let mut outside = ports(Service::new("outside", 13));
    outside.external_ips = vec![EXTERNAL_IP];
    let headless = ports(Service::new("headless", 14)).with_spec("clusterIP", json!("None"));
    [nodes, balanced, outside, headless.with_spec("clusterIPs", json!(["None"]))]
}

fn elsewhere() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "elsewhere", "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "db.example"},
    })
}

/// An annotation of it is not served.
fn ingress() -> Value {
    let backend = |service: &str| json!({"service": {"name": service, "port": {"name": "http"}}});
    let path =
        |path: &str, service: &str| json!({"path": path, "pathType": "Prefix", "backend": backend(service)});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": "shop", "namespace": NAMESPACE, "annotations": {"podway.io/other": "x"},
        },
        "spec": {
            "ingressClassName": "podway",
            "tls": [{"hosts": [HOST], "secretName": "tls"}],
            "rules": [{"host": HOST, "http": {"paths": [path("/", "plain"), path("/pods", "headless")]}}],
        },
    })
}

/// A pod that is let ready by an agent.
fn waiting_pod(host: &Host) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": host.name(), "namespace": NAMESPACE},
        "spec": {
            "nodeName": "node-a",
            "containers": [{"name": "web", "image": "registry.example/web"}],
            "readinessGates": [{"conditionType": "podway.io/programmed"}],
        },
        "status": {
            "phase": "Running", "podIP": host.v4(), "podIPs": [{"ip": host.v4()}, {"ip": host.v6()}],
        },
    })
}

/// The pod that answers.
fn answer(client: &Host, to: SocketAddr, path: &str) -> Option<String> {
    let answer = ask_within(ANSWER_TIMEOUT, client, to, HOST, path).ok()?;
    (answer.code == 200).then(|| answer.pod().to_owned())
}

#[test]
fn agents_with_the_rights_of_the_chart_serve_what_a_real_api_server_has() {
    let Some(mut world) = World::start() else { return };
    every_type_is_served(&mut world);
    the_ingress_is_served(&mut world);
    the_api_server_itself_is_served(&mut world);
    what_agents_write_is_there(&mut world);
    world.expect_to_follow("node-b", "web-b-1");
    let logs = world.logs();
    assert!(!logs.contains("ERROR") && !logs.contains("orbidden"), "{logs}");

    let (topology, to) = (&world.topology, SocketAddr::new(world.plain.cluster_ips[0], 80));
    let served = || assert!(answer(topology.client(), to, "/").is_some(), "without an API server");
    world.api.restart(served).unwrap();
    world.expect_to_follow("node-a", "web-a-2");
}

fn every_type_is_served(world: &mut World) {
    for address in world.plain.cluster_ips {
        world.expect_answers("client", address, [80, 53]);
        world.expect_answers("web-a-2", address, [80, 53]);
    }
    for node in NODE_NAMES {
        let host = world.topology.node(node).host();
        for address in [host.v4().into(), host.v6().into()] {
            world.expect_answers("client", address, [NODE_PORT, NODE_PORT + 1]);
        }
    }
    world.expect_answers("client", EXTERNAL_IP, [80, 53]);
    world
        .wait_for("two addresses of the pool", |world| world.told(Resource::Services, "balanced").len() == 2);
    for address in world.told(Resource::Services, "balanced") {
        world.expect_answers("client", address, [80, 53]);
    }
}

fn the_ingress_is_served(world: &mut World) {
    world.wait_for("two addresses of the pool", |world| world.told(Resource::Ingresses, "shop").len() == 2);
    for address in world.told(Resource::Ingresses, "shop") {
        world.wait_for(&format!("a certificate at {address}"), |world| {
            let to = SocketAddr::new(address, 443);
            let answer = ask_by_tls(world.topology.client(), to, HOST, "/", &world.trusted);
            answer.is_ok_and(|answer| answer.code == 200)
        });
        world.wait_for(&format!("pods of the headless Service at {address}"), |world| {
            answer(world.topology.client(), SocketAddr::new(address, 80), "/pods").is_some()
        });
    }
}

/// By the Service that the server makes for itself, whose endpoint is no pod.
fn the_api_server_itself_is_served(world: &mut World) {
    let to = "10.96.0.1:443".parse().unwrap();
    world.wait_for("the API server's version, asked by a pod", |world| {
        let certificate = world.api.plane().certificate();
        let pod = world.topology.pod("web-b-2");
        ask_by_tls(pod, to, "kubernetes.default.svc", "/version", certificate)
            .is_ok_and(|answer| answer.code == 200 && answer.body.contains("gitVersion"))
    });
}

fn what_agents_write_is_there(world: &mut World) {
    world.wait_for("the pod's condition", |world| {
        let pod = world.object(Resource::Pods, "web-a-1");
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "podway.io/programmed" && condition["status"] == "True")
    });
    world.wait_for("the Service's NEGs", |world| {
        let service = world.object(Resource::Services, "plain");
        let status = &service["metadata"]["annotations"]["cloud.google.com/neg-status"];
        status.as_str().is_some_and(|status| status.contains("plain-neg"))
    });
    world.wait_for("an Event on the Ingress", |world| {
        world.api.objects(Resource::Events).unwrap().iter().any(|event| {
            event["regarding"]["name"] == "shop"
                && event["note"] == "annotation podway.io/other is not served; the rest holds"
        })
    });
    world.wait_for("the agents' Leases", |world| {
        let leases = world.api.objects(Resource::Leases).unwrap().into_iter();
        let names: BTreeSet<String> = leases
            .filter(|lease| lease["metadata"]["namespace"] == "podway")
            .filter_map(|lease| lease["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        ["podway", "podway.node-a", "podway.node-b"].iter().all(|name| names.contains(*name))
    });
}
