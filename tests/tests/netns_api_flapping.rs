//! The API server comes and goes, breaks off, drips, forgets its history and answers with errors, while endpoints change
//! and clients connect: no connection fails, and in the end the maps say what the server says.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::{Fault, Resource};
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service, change_endpoint};
use lb_tests::need;
use lb_tests::packet::Random;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{Load, Server};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

const POD_PORT: u16 = 8_080;
const PORT: u8 = 80;
const PODS_PER_NODE: u8 = 2;
const CONNECTIONS_PER_SECOND: u32 = 100;
const SECONDS: u64 = 4;
/// Time from one fault, and from one change, to the next.
const STEP: Duration = Duration::from_millis(60);
/// Waits between two tries grow to half a minute.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// One thing that is wrong with the server from now.
fn break_something(api: &GatewayApi, random: &mut Random) {
    let resource = Resource::ALL[random.below(Resource::ALL.len())];
    let faults = [
        Fault::Status(500, None),
        Fault::Status(504, None),
        Fault::Status(429, Some(1)),
        Fault::ProxyError(502),
        Fault::GoneEvent,
        Fault::CutShort,
        Fault::Drip,
    ];
    match random.below(6) {
        0 => api.server.set_away(true),
        1 => api.server.set_away(false),
        2 => api.server.disconnect(),
        3 => api.server.compact(),
        4 => api.server.set_streams_lists(random.chance(50)),
        _ => api.server.fail_watch(resource, faults[random.below(faults.len())].clone()),
    }
}

/// Waits until the maps of each node say what the server says.
fn settle(api: &GatewayApi, agents: &[Agent]) {
    let objects = Resource::ALL.into_iter().flat_map(|resource| api.server.objects(resource));
    let text: String = objects.map(|object| format!("---\n{object}\n")).collect();
    let folder = api.dir().join("snapshot");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("all.yaml"), text).unwrap();
    for agent in agents {
        let mut last = Ok(());
        let waited = wait_until(SETTLE_DEADLINE, "what the server says in the maps", || {
            last = agent.verify();
            last.is_ok()
        });
        waited.unwrap_or_else(|error| panic!("{error}: {last:?}; log:\n{}", agent.log()));
    }
}

#[test]
fn no_connection_fails_while_the_api_server_does() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(PODS_PER_NODE).unwrap();
    let api = GatewayApi::start(&topology).unwrap();
    let mut service = Service::new("web", PORT).port("tcp", Protocol::Tcp, PORT.into(), POD_PORT);
    service.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
    let mut service = service.backed_by_all(&topology);
    api.publish(&service);
    let _servers: Vec<Server> = topology.pods().map(|pod| Server::greet(pod, POD_PORT).unwrap()).collect();
    let (kubeconfig, folder) = (api.kubeconfig(), api.dir().join("snapshot"));
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: &folder };
    let agents = NODE_NAMES
        .map(|node| Agent::start_from(&podway, &topology, node, source, Options::default()).unwrap());
    settle(&api, &agents);
    let to = LOAD_BALANCER_IPS.map(|address| SocketAddr::new(address, PORT.into()));
    let load = Load::start(topology.client(), &to, CONNECTIONS_PER_SECOND).unwrap();
    let (mut random, begun) = (Random::new(1), Instant::now());
    let (node, pod) = (topology.node("node-b"), topology.pod("web-b-2"));
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        break_something(&api, &mut random);
        change_endpoint(&mut service, node, pod, random.below(3));
        api.publish(&service);
        std::thread::sleep(STEP);
    }
    api.server.set_away(false);
    settle(&api, &agents);
    let loaded = load.finish().unwrap();
    assert!(loaded.failed.is_empty() && loaded.greeted() > 0, "{loaded:?}");
    for agent in &agents {
        let failures = agent.metrics("/metrics").unwrap();
        assert!(failures.sum("podway_watch_failures_total", &[]) >= 1.0, "nothing was wrong");
    }
}
