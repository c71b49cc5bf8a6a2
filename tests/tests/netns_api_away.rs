//! The API server is killed, and pods fail and return: forwarding follows their health all the time.
//!
//! The test takes a few rounds. With `PODWAY_API_AWAY_SECONDS` it goes on for so long.
//!
//! An agent that is started again meanwhile has no facts, so it leaves the maps as they are and probes nobody.
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::cluster;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::traffic::{Dial, Server, wait_for_answerers};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

const DEADLINE: Duration = Duration::from_secs(20);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;
const PODS: [&str; 2] = ["web-a-1", "web-b-1"];

/// A Service of one pod on each node, which are asked at a port of their own.
fn checked(topology: &Topology) -> Service {
    let check = cluster::quick_check(cluster::HEALTH_PORT);
    let service = cluster::service("checked", 80);
    let pods = topology.nodes().iter().zip(PODS);
    let service = pods.fold(service, |service, (node, pod)| service.backed_by(node, topology.pod(pod)));
    Service { health_check: Some(check), ..service }
}

fn seconds_asked_for() -> Duration {
    let seconds = std::env::var("PODWAY_API_AWAY_SECONDS").unwrap_or_default();
    Duration::from_secs(seconds.parse().unwrap_or(0))
}

#[test]
fn forwarding_follows_health_while_the_api_server_is_gone() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let api = GatewayApi::start(&topology).unwrap();
    api.publish(&checked(&topology));
    let kubeconfig = api.kubeconfig();
    let folder = api.dir().to_owned();
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: &folder };
    let _servers =
        PODS.map(|pod| Server::start(topology.pod(pod), &[(Protocol::Tcp, cluster::TCP_PORT)]).unwrap());
    let mut health: Vec<Server> =
        PODS.iter().map(|pod| cluster::start_health(topology.pod(pod)).unwrap()).collect();
    let mut agents = ["node-a", "node-b"]
        .map(|node| Agent::start_from(&podway, &topology, node, source, Options::default()).unwrap());
    let expect = |pods: &[&str]| {
        for vip in LOAD_BALANCER_IPS {
            let dial = Dial::times(REQUESTS, Protocol::Tcp, (vip, 80).into());
            wait_for_answerers(topology.client(), &dial, pods, DEADLINE);
        }
    };
    expect(&PODS);
    let _folder = api.end();
    let gone_since = Instant::now();
    wait_until(DEADLINE, "both agents to miss the server", || {
        agents.iter().all(|agent| agent.log().contains("watch failed; what is known stays"))
    })
    .unwrap();

    let mut rounds = 0;
    while rounds < 2 || gone_since.elapsed() < seconds_asked_for() {
        for index in [0, 1] {
            health.remove(index).kill();
            expect(&PODS[1 - index..2 - index]);
            health.insert(index, cluster::start_health(topology.pod(PODS[index])).unwrap());
            expect(&PODS);
        }
        rounds += 1;
    }
    println!("{rounds} rounds in {} s without an API server", gone_since.elapsed().as_secs());
    for agent in &agents {
        agent.verify_maps().unwrap();
        let failures = agent.metrics("/metrics").unwrap();
        for kind in ["Service", "EndpointSlice", "Node"] {
            assert!(failures.sum("podway_watch_failures_total", &[("kind", kind)]) >= 1.0, "{kind}");
        }
    }

    health.remove(0).kill();
    expect(&PODS[1..]);
    agents[0].restart().unwrap();
    wait_until(DEADLINE, "the new agent to miss the server, and to have attached its programs", || {
        let log = agents[0].log();
        log.contains("watch failed; what is known stays") && log.contains(" attached interface=")
    })
    .unwrap_or_else(|error| panic!("{error}; log:\n{}", agents[0].log()));
    // What was out stays out, and what was in stays in whatever becomes of it.
    health.remove(0).kill();
    expect(&PODS[1..]);
    let metrics = agents[0].metrics("/metrics").unwrap();
    assert_eq!(metrics.value("podway_facts_synced", &[]), Some(0.0));
    assert_eq!(metrics.value("podway_apply_duration_seconds_count", &[]), Some(0.0));
    assert_eq!(metrics.value("podway_health_targets", &[]), Some(0.0));
    assert_eq!(metrics.sum("podway_health_probes_total", &[]), 0.0);
    expect(&PODS[1..]);
    agents[0].verify_maps().unwrap();
}
