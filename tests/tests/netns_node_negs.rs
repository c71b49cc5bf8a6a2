//! An Ingress whose NEG is made of nodes: the front-end of one node sends requests to the node ports of all, its own among
//! them; health, commands, and a node whose Podway is gone.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, frontend};
use lb_tests::manifests::{Families, LOAD_BALANCER_IPS, Manifests, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask};
use lb_userspace::model::{CheckKind, HealthCheck, Protocol, TrafficPolicy};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const DEADLINE: Duration = Duration::from_secs(30);
const NODE_PORT: u16 = 30_080;
const BACKEND_SERVICE: &str = "shop/web:http/TCP";
const VIP: IpAddr = LOAD_BALANCER_IPS[0];
/// Requests of a step; of two endpoints chance leaves one out once in 2^99.
const REQUESTS: usize = 100;

/// Two nodes with a pod each, an agent and a server on each.
struct World {
    agents: Vec<Agent>,
    manifests: Manifests,
    _webs: Vec<Web>,
    _dir: TempDir,
    _runtime: Runtime,
    topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met.
    fn start(external_traffic_policy: TrafficPolicy, health_check: Option<HealthCheck>) -> Option<Self> {
        let need = need::netns()?;
        let topology = Topology::two_nodes(1).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let dir = TempDir::with_prefix("podway-manifests-").unwrap();
        let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
        let mut web = Service::new("web", 80)
            .port("http", Protocol::Tcp, 80, HTTP_PORT)
            .node_port(NODE_PORT)
            .annotated("podway.io/neg-type", "GCE_VM_IP_PORT")
            .backed_by_all(&topology);
        (web.families, web.health_check) = (Families::V4, health_check);
        web.external_traffic_policy = external_traffic_policy;
        manifests.put(web).unwrap();
        std::fs::write(manifests.dir().join("ingress.json"), ingress().to_string()).unwrap();
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let mut agents: Vec<Agent> = NODE_NAMES
            .map(|node| Agent::start(&podway, &topology, node, manifests.dir(), Options::default()).unwrap())
            .into();
        for (agent, node) in agents.iter_mut().zip(topology.nodes()) {
            let at_node = frontend(Protocol::Tcp, node.host().v4().into(), NODE_PORT);
            let vips = manifests.service("web").cluster_addresses().into_iter();
            agent
                .wait_for(&vips.map(|vip| frontend(Protocol::Tcp, vip, 80)).chain([at_node]).collect())
                .unwrap();
        }
        Some(Self { agents, manifests, _webs: webs, _dir: dir, _runtime: runtime, topology })
    }

    fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(DEADLINE, what, condition)
            .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", self.agents[0].log()));
    }

    /// The pods that answer some requests to node-a's front-end, none of which may fail.
    fn answerers(&self) -> BTreeSet<String> {
        let answers = (0..REQUESTS).map(|number| {
            let answer = ask(self.topology.client(), SocketAddr::new(VIP, 80), "shop.example", "/");
            let answer = answer.unwrap_or_else(|error| panic!("request {number}: {error}"));
            assert_eq!(answer.code, 200, "request {number}: {answer:?}");
            answer.pod().to_owned()
        });
        answers.collect()
    }

    fn node_port_of(&self, node: &str) -> String {
        format!("{}:{NODE_PORT}", self.topology.node(node).host().v4())
    }

    fn is_served(&self) -> bool {
        let answer = ask(self.topology.client(), SocketAddr::new(VIP, 80), "shop.example", "/");
        answer.is_ok_and(|answer| answer.code == 200)
    }

    /// The nodes and their states, as `podway get-health` of node-a has them once each was probed.
    fn states(&self) -> BTreeSet<(String, String)> {
        let rows = self.agents[0].health(BACKEND_SERVICE).unwrap();
        let rows = rows
            .iter()
            .filter(|row| row["type"] == "GCE_VM_IP_PORT" && row["health"]["decidedBy"] == "probe");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rows.map(|row| (text(&row["address"]), text(&row["state"]))).collect()
    }

    fn expected_states(&self, states: [&str; 2]) -> BTreeSet<(String, String)> {
        let nodes = self.topology.nodes().iter().zip(states);
        nodes.map(|(node, state)| (format!("{}:{NODE_PORT}", node.host().v4()), state.to_owned())).collect()
    }

    /// What `podway get negs` of node-a has of NEGs of nodes: endpoints and healthy ones.
    fn neg(&self) -> (Value, Value) {
        let rows = self.agents[0].get("negs").unwrap();
        let mut rows = rows.as_array().unwrap().iter().filter(|row| row["type"] == "GCE_VM_IP_PORT");
        let row = rows.next().unwrap_or_else(|| panic!("no NEG of nodes")).clone();
        assert_eq!((&row["backendService"], &row["kind"]), (&BACKEND_SERVICE.into(), &"nodesV4".into()));
        (row["endpoints"].clone(), row["healthy"].clone())
    }
}

const CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval_ms: 200,
    timeout_ms: 200,
    healthy_threshold: 1,
    unhealthy_threshold: 2,
};

fn ingress() -> Value {
    let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "shop", "namespace": NAMESPACE, "annotations": {
            "kubernetes.io/ingress.class": "podway", "podway.io/vips": VIP.to_string(),
        }},
        "spec": {"rules": [
            {"host": "shop.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}},
        ]},
    })
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn requests_go_to_the_node_ports_of_all_nodes_and_on_when_one_is_gone() {
    let Some(mut world) = World::start(TrafficPolicy::Cluster, Some(CHECK)) else { return };
    world.wait_for("the Ingress", || world.is_served());
    let both = world.expected_states(["healthy", "healthy"]);
    world.wait_for("a probe of each node", || world.states() == both);
    assert_eq!(world.neg(), (2.into(), 2.into()));
    // Which pods answer is chance: each of the few kept connections to a node port stays with one of them.
    world.answerers();
    world.agents[0].verify().unwrap();
    let described = world.agents[0].podway(&["describe", "neg", BACKEND_SERVICE]).unwrap();
    let node_b = world.node_port_of(NODE_NAMES[1]);
    assert!(described.contains("GCE_VM_IP_PORT") && described.contains(&node_b), "{described}");
    // Nothing forwards there any more, and nobody has said so.
    world.agents[1].kill();
    let run_dir = world.topology.run_dir(NODE_NAMES[1]);
    world.agents[1].podway(&["remove", "--run-dir", run_dir.to_str().unwrap()]).unwrap();
    world.answerers();
    let one = world.expected_states(["healthy", "unhealthy"]);
    world.wait_for("node-b to be found unhealthy", || world.states() == one);
    world.wait_for("the plan", || world.neg() == (1.into(), 1.into()));
    world.answerers();
    world.agents[0].verify().unwrap();
}

#[test]
fn with_a_local_policy_requests_go_to_the_nodes_that_have_a_pod() {
    let Some(mut world) = World::start(TrafficPolicy::Local, Some(CHECK)) else { return };
    world.wait_for("the Ingress", || world.is_served());
    world.manifests.edit("web", |service| service.endpoint("web-a-1").ready = false).unwrap();
    world.wait_for("node-a to leave", || world.neg().0 == 1);
    assert_eq!(world.answerers(), names(&["web-b-1"]));
    world.manifests.edit("web", |service| service.endpoint("web-a-1").ready = true).unwrap();
    world.wait_for("node-a to be back", || world.neg() == (2.into(), 2.into()));
    // The node itself may reach any pod by its node port, so who answers is chance from here on.
    world.answerers();
}

#[test]
fn requests_come_by_the_node_port_and_are_refused_without_one() {
    // No probe dials it beside them.
    let Some(mut world) = World::start(TrafficPolicy::Cluster, None) else { return };
    world.wait_for("the Ingress", || world.is_served());
    world.answerers();
    let flows = world.agents[1].get("conntrack").unwrap();
    let node_b = world.node_port_of(NODE_NAMES[1]);
    let came = flows.as_array().unwrap().iter().any(|row| row["destination"] == node_b.as_str());
    assert!(came, "{flows:#}");
    world.manifests.edit("web", |service| service.ports[0].node_port = None).unwrap();
    let asked = || ask(world.topology.client(), SocketAddr::new(VIP, 80), "shop.example", "/").unwrap();
    world.wait_for("a refusal", || asked().code == 503);
    assert!(asked().head.contains("x-podway-reason: no-endpoint"), "{:?}", asked());
    world.wait_for("the problem", || world.agents[0].log().contains("and the port has no node port"));
}
