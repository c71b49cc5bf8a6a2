//! Netns tier: agents that take over from one another while Ingresses are asked: no connection is refused, reset or
//! left without its answer.
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, SERVES, end_of_former};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Manifests, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::process::Process;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, ask, ask_by_tls, certificate};
use lb_userspace::model::Protocol;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;

mod clients;
mod endpoint;
mod load;

use clients::{Download, HalfHello, Waiting};
use endpoint::Endpoint;
use load::Load;

const DEADLINE: Duration = Duration::from_secs(60);
/// Agents that follow the first.
const SUCCESSORS: usize = 10;
/// Answers that each kind of client has between two of them.
const ANSWERS: usize = 20;
/// Time between the begins of two handshakes.
const STEP: Duration = Duration::from_secs(1);
const HOST: &str = "shop.example";

/// Two nodes, a pod that answers, an agent that serves an Ingress with and without TLS.
struct World {
    agent: Agent,
    endpoint: Endpoint,
    trusted: CertificateDer<'static>,
    _dir: TempDir,
    topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met.
    fn start() -> Option<Self> {
        let need = need::netns()?;
        let topology = Topology::two_nodes(1).unwrap();
        let endpoint = Endpoint::start(topology.pod("web-b-1"), HTTP_PORT);
        let dir = TempDir::with_prefix("podway-manifests-").unwrap();
        let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
        let node = topology.node(NODE_NAMES[1]);
        let service = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
        manifests.put(service.backed_by(node, &node.pods()[0])).unwrap();
        let (trusted, secret) = certificate("tls", HOST).unwrap();
        for (name, object) in [("class", class()), ("secret", secret), ("ingress", ingress())] {
            std::fs::write(manifests.dir().join(format!("{name}.json")), object.to_string()).unwrap();
        }
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let started = Agent::start(&podway, &topology, NODE_NAMES[0], manifests.dir(), Options::default());
        let mut agent = started.unwrap();
        agent.wait_for(&manifests.cluster_frontends()).unwrap();
        let world = Self { agent, endpoint, trusted, _dir: dir, topology };
        wait_until(DEADLINE, "the Ingress by TLS", || {
            let client = world.topology.client();
            ask_by_tls(client, world.to(443), HOST, "/", &world.trusted)
                .is_ok_and(|answer| answer.code == 200)
        })
        .unwrap();
        Some(world)
    }

    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(LOAD_BALANCER_IPS[0], port)
    }

    /// Another agent takes over and serves; the one that had the node before.
    fn replace(&mut self) -> Process {
        let former = self.agent.take_over().unwrap().expect("one that runs");
        self.agent.wait_until_it_serves(&former, DEADLINE).unwrap();
        former
    }

    /// Another agent begins to take over; the one that has given it the node, and serves on until that one does.
    fn hand_over(&mut self) -> Process {
        let former = self.agent.take_over().unwrap().expect("one that runs");
        let given = "gave the node to another agent";
        wait_until(DEADLINE, given, || former.log().contains(given)).unwrap();
        former
    }
}

fn class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"},
    })
}

fn ingress() -> Value {
    let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": "shop", "namespace": NAMESPACE,
            "annotations": {"podway.io/vips": LOAD_BALANCER_IPS[0].to_string()},
        },
        "spec": {
            "ingressClassName": "podway",
            "tls": [{"hosts": [HOST], "secretName": "tls"}],
            "rules": [{"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
        },
    })
}

/// Ends an agent that was taken over from; it must have let all requests end.
fn end(former: Process) {
    end_of_former(former, DEADLINE).unwrap();
}

#[test]
fn ten_agents_take_over_from_one_another_and_no_request_fails() {
    let Some(mut world) = World::start() else { return };
    let load = Load::start(&world.topology, world.to(80), world.to(443), &world.trusted);
    let mut formers = Vec::new();
    for _ in 0..SUCCESSORS {
        load.wait_for(ANSWERS);
        let former = world.replace();
        former.signal(Signal::TERM).unwrap();
        formers.push(former);
    }
    load.wait_for(ANSWERS);
    assert_eq!(load.end(), Vec::<String>::new());
    formers.into_iter().for_each(end);
    world.agent.verify().unwrap();
}

#[test]
fn what_is_under_way_ends_with_the_agent_that_it_began_with() {
    let Some(mut world) = World::start() else { return };
    let (plain, secure) = (world.to(80), world.to(443));
    let download = Download::begin(world.topology.client(), plain);
    let waiting = Waiting::begin(world.topology.client(), secure, &world.trusted);
    world.endpoint.wait_for("/wait");
    let former = world.agent.take_over().unwrap().expect("one that runs");
    // A handshake has ten seconds: the last of many begins shortly before the successor serves.
    let hello = loop {
        let hello = HalfHello::send(world.topology.client(), secure, &world.trusted);
        if wait_until(STEP, SERVES, || world.agent.log().contains(SERVES)).is_ok() {
            break hello;
        }
    };
    former.signal(Signal::TERM).unwrap();
    assert_eq!(ask(world.topology.client(), plain, HOST, "/").unwrap().code, 200, "the successor serves");
    // The client of HTTP/2 is told to go, and its request goes on.
    waiting.wait_for_goaway();
    assert_eq!(hello.finish(), 200);
    world.endpoint.go();
    assert_eq!(waiting.code(), 200);
    assert_eq!(download.finish(), endpoint::LONG_BYTES);
    end(former);
}

#[test]
fn an_agent_that_is_told_to_end_before_its_successor_serves_refuses_nobody() {
    let Some(mut world) = World::start() else { return };
    let load = Load::start(&world.topology, world.to(80), world.to(443), &world.trusted);
    load.wait_for(ANSWERS);
    let former = world.hand_over();
    // The next one has its programs to load yet: connections wait in the sockets.
    former.signal(Signal::TERM).unwrap();
    load.wait_for(ANSWERS);
    assert_eq!(load.end(), Vec::<String>::new());
    end(former);
    world.agent.verify().unwrap();
}

#[test]
fn an_agent_whose_successor_fails_goes_on() {
    let Some(mut world) = World::start() else { return };
    let load = Load::start(&world.topology, world.to(80), world.to(443), &world.trusted);
    load.wait_for(ANSWERS);
    let former = world.hand_over();
    world.agent.kill();
    let back = "does not serve; going on";
    wait_until(DEADLINE, back, || former.log().contains(back))
        .unwrap_or_else(|error| panic!("{error}: {}", former.log()));
    load.wait_for(ANSWERS);
    // It has the pins again: another agent is refused by its process id, and one that takes over is not.
    let holder = format!("the agent with process id {} does", former.id());
    let mut second = world.agent.beside().unwrap();
    assert!(!second.wait(DEADLINE).unwrap().success());
    assert!(second.log().contains(&holder), "{}", second.log());
    world.agent.go_on_with(former);
    let former = world.replace();
    former.signal(Signal::TERM).unwrap();
    load.wait_for(ANSWERS);
    assert_eq!(load.end(), Vec::<String>::new());
    end(former);
    world.agent.verify().unwrap();
}

#[test]
fn an_agent_takes_the_node_back_from_a_successor_that_has_ended() {
    let Some(mut world) = World::start() else { return };
    let former = world.replace();
    let waits = "waiting to be told to end";
    wait_until(DEADLINE, waits, || former.log().contains(waits)).unwrap();
    world.agent.kill();
    wait_until(DEADLINE, "an answer by the former agent", || {
        ask(world.topology.client(), world.to(80), HOST, "/").is_ok_and(|answer| answer.code == 200)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", former.log()));
    world.agent.go_on_with(former);
    world.agent.verify().unwrap();
    // There need be no agent to take over from.
    world.agent.kill();
    assert!(world.agent.take_over().unwrap().is_none());
    wait_until(DEADLINE, "an answer by the next agent", || {
        ask(world.topology.client(), world.to(80), HOST, "/").is_ok_and(|answer| answer.code == 200)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", world.agent.log()));
    assert!(world.agent.log().contains("no agent to take over from"));
}
