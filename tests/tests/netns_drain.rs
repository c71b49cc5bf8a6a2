//! Endpoints go, or fail their checks, under real connections: TCP is kept or reset, connected UDP sockets move.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{self, Cluster};
use lb_tests::manifests::Service;
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{Failure, Hold, Server, UdpStream, ask};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

/// How long a change may take from the manifest to the maps and the sockets.
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);

/// A cluster, or `None` where the machine lacks a need.
fn cluster() -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options::default()).unwrap())
}

/// Lets the Service `near` name these pods of node-a.
fn name(cluster: &mut Cluster, pods: &[&str]) {
    let node = cluster.topology.node("node-a");
    let pods: Vec<&Host> = pods.iter().map(|pod| cluster.topology.pod(pod)).collect();
    cluster
        .manifests
        .edit("near", |service| {
            service.endpoints.clear();
            for pod in pods {
                let with_pod = service.clone().backed_by(node, pod);
                service.endpoints = with_pod.endpoints;
            }
        })
        .unwrap();
}

/// The states of the endpoints of `near` over TCP on node-a.
fn states(cluster: &Cluster) -> Vec<(String, Option<u64>)> {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    let is_near = |row: &&serde_json::Value| {
        row["backendService"].as_str().is_some_and(|name| name.contains("/near:tcp/"))
    };
    let state =
        |row: &serde_json::Value| (row["state"].as_str().unwrap().to_owned(), row["flowsLeft"].as_u64());
    rows.as_array().unwrap().iter().filter(is_near).map(state).collect()
}

/// Sockets that the agent of node-a says to have ended.
fn ended_sockets(cluster: &Cluster) -> u32 {
    let log = cluster.agents[0].log();
    let ended =
        log.lines().filter_map(|line| line.split_once(" ended=")?.1.split(' ').next()?.parse::<u32>().ok());
    ended.sum()
}

fn wait_for(cluster: &Cluster, what: &str, mut holds: impl FnMut() -> bool) {
    if let Err(error) = wait_until(CHANGE_DEADLINE, what, &mut holds) {
        panic!("{error}; the agent's log:\n{}", cluster.agents[0].log());
    }
}

#[test]
fn tcp_connections_outlive_their_endpoints_and_are_reset_by_contract() {
    let Some(mut cluster) = cluster() else { return };
    let address = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let kept = Hold::start(cluster.topology.client(), address, 20).unwrap();
    name(&mut cluster, &[]);
    let withdrawn =
        |cluster: &Cluster| states(cluster).iter().filter(|(state, _)| state == "withdrawn").count();
    // Two pods, of two families each.
    wait_for(&cluster, "all endpoints withdrawn", || withdrawn(&cluster) == 4);
    let flows: u64 = states(&cluster).iter().filter_map(|(_, flows)| *flows).sum();
    assert_eq!(flows, 20, "shown as left");
    assert_eq!(kept.finish().unwrap().lost.values().sum::<u32>(), 0, "kept");

    name(&mut cluster, &["web-a-1", "web-a-2"]);
    wait_for(&cluster, "all endpoints back", || {
        let states = states(&cluster);
        states.len() == 4 && states.iter().all(|(state, _)| state == "healthy")
    });
    let reset = Hold::start(cluster.topology.client(), address, 20).unwrap();
    let contract = |service: &mut Service| {
        *service = service.clone().annotated("podway.io/drain", "reset");
    };
    cluster.manifests.edit("near", contract).unwrap();
    name(&mut cluster, &[]);
    wait_for(&cluster, "all endpoints gone", || states(&cluster).is_empty());
    let held = reset.finish().unwrap();
    assert_eq!(held.lost.get(&Failure::Reset), Some(&20), "{held:?}");
    assert!(cluster.agents[0].count("endpoint-gone-reset").is_ok_and(|count| count >= 20));
}

/// Connections that the socket hooks led to `near`: of a pod and of a process of node-a, in both families.
fn hold_from_inside(cluster: &Cluster) -> Vec<(String, Hold)> {
    let mut holds = Vec::new();
    for address in cluster.cluster_addresses("near", Protocol::Tcp) {
        for client in ["web-a-3", "node-a"] {
            let hold = Hold::start(cluster.topology.host(client), address, 5).unwrap();
            assert!(hold.opened().failed.is_empty(), "{client} to {address}: {:?}", hold.opened());
            holds.push((format!("{client} to {address}"), hold));
        }
    }
    assert_eq!(holds.len(), 4);
    holds
}

/// Each of the connections was reset.
fn assert_reset(holds: Vec<(String, Hold)>) {
    for (what, hold) in holds {
        let held = hold.finish().unwrap();
        assert_eq!(held.lost, BTreeMap::from([(Failure::Reset, 5)]), "{what}: {held:?}");
    }
}

#[test]
fn tcp_sockets_that_hooks_connected_are_reset_by_contract() {
    let Some(mut cluster) = cluster() else { return };
    let contract = |service: &mut Service| *service = service.clone().annotated("podway.io/drain", "reset");
    cluster.manifests.edit("near", contract).unwrap();
    let holds = hold_from_inside(&cluster);
    name(&mut cluster, &[]);
    wait_for(&cluster, "twenty sockets to be ended", || ended_sockets(&cluster) == 20);
    assert_reset(holds);
}

#[test]
fn tcp_sockets_that_hooks_connected_are_reset_at_the_deadline() {
    let Some(mut cluster) = cluster() else { return };
    let deadline = |service: &mut Service| {
        *service = service.clone().annotated("podway.io/drain-deadline-seconds", "3");
    };
    cluster.manifests.edit("near", deadline).unwrap();
    let holds = hold_from_inside(&cluster);
    name(&mut cluster, &[]);
    wait_for(&cluster, "all endpoints withdrawn", || {
        let states = states(&cluster);
        states.len() == 4 && states.iter().all(|(state, _)| state == "withdrawn")
    });
    assert_eq!(ended_sockets(&cluster), 0, "before the deadline");
    wait_for(&cluster, "twenty sockets to be ended", || ended_sockets(&cluster) == 20);
    assert_reset(holds);
}

/// The stream begins with the one endpoint that there is, and moves to another when that goes.
fn moves(cluster: &mut Cluster, client: &str, address: SocketAddr) {
    name(cluster, &["web-a-1"]);
    wait_for(cluster, "one endpoint", || states(cluster).iter().filter(|(s, _)| s == "healthy").count() == 2);
    let host = cluster.topology.host(client);
    let stream = UdpStream::start(host, address, Duration::from_millis(5)).unwrap();
    let count = |cluster: &Cluster| cluster.agents[0].log().matches("moved=1 ").count();
    let before = count(cluster);
    name(cluster, &["web-a-2"]);
    wait_for(cluster, "the socket to move", || count(cluster) > before);
    // Long enough for the stream's next datagrams.
    for _ in 0..10 {
        ask(cluster.topology.host(client), Protocol::Udp, address).unwrap();
    }
    let streamed = stream.finish().unwrap();
    name(cluster, &["web-a-1", "web-a-2"]);
    let names: Vec<&str> = streamed.by.keys().map(String::as_str).collect();
    assert_eq!(names, ["web-a-1", "web-a-2"], "{client} to {address}: {streamed:?}");
    assert!(streamed.failed.is_empty(), "{client} to {address}: {streamed:?}");
}

#[test]
fn connected_udp_sockets_of_pods_and_of_the_node_move_when_their_endpoint_goes() {
    let Some(mut cluster) = cluster() else { return };
    for address in cluster.cluster_addresses("near", Protocol::Udp) {
        for client in ["web-a-3", "node-a"] {
            moves(&mut cluster, client, address);
        }
    }
}

/// Where the pods of `near` are asked how they are.
const HEALTH_PORT: u16 = 9_000;

/// Gives `near` a check on the health port and the draining time of a BackendConfig.
fn check_and_drain(cluster: &mut Cluster, draining_timeout_s: u32) {
    let config = format!(
        "apiVersion: cloud.google.com/v1\nkind: BackendConfig\nmetadata: {{namespace: shop, name: drain}}\n\
         spec: {{connectionDraining: {{drainingTimeoutSec: {draining_timeout_s}}}}}\n"
    );
    std::fs::write(cluster.manifests.dir().join("drain-config.yaml"), config).unwrap();
    let check = cluster::quick_check(HEALTH_PORT);
    let annotated = |service: &mut Service| {
        *service = service.clone().annotated("cloud.google.com/backend-config", r#"{"default": "drain"}"#);
        service.health_check = Some(check);
    };
    cluster.manifests.edit("near", annotated).unwrap();
}

/// The endpoints of `near` over TCP on node-a that fail their check: whether they have time left.
fn unhealthy(cluster: &Cluster) -> Vec<bool> {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    let is_unhealthy = |row: &&serde_json::Value| {
        row["state"] == "unhealthy" && row["backendService"].as_str().unwrap().contains("/near:tcp/")
    };
    let rows = rows.as_array().unwrap().iter().filter(is_unhealthy);
    rows.map(|row| row["secondsLeft"].is_u64()).collect()
}

#[test]
fn tcp_connections_of_a_pod_that_fails_its_check_are_reset_at_the_deadline() {
    let Some(mut cluster) = cluster() else { return };
    let health_ports = [(Protocol::Tcp, HEALTH_PORT)];
    let [ill, _well] =
        ["web-a-1", "web-a-2"].map(|pod| Server::start(cluster.topology.pod(pod), &health_ports).unwrap());
    check_and_drain(&mut cluster, 3);
    let outside = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let mut holds = vec![Hold::start(cluster.topology.client(), outside, 20).unwrap()];
    holds.extend(hold_from_inside(&cluster).into_iter().map(|(_, hold)| hold));
    let of_ill: u32 = holds.iter().filter_map(|hold| hold.opened().by.get("web-a-1")).sum();
    assert!((1..40).contains(&of_ill), "both pods have some of the 40: {of_ill}");

    ill.kill();
    wait_for(&cluster, "two endpoints to drain", || unhealthy(&cluster) == [true, true]);
    assert_eq!(ended_sockets(&cluster), 0, "before the deadline");
    wait_for(&cluster, "their drain to end", || unhealthy(&cluster) == [false, false]);
    let of_hooks: u32 = holds[1..].iter().filter_map(|hold| hold.opened().by.get("web-a-1")).sum();
    wait_for(&cluster, "their sockets to be ended", || ended_sockets(&cluster) == of_hooks);
    for hold in holds {
        let of_ill = hold.opened().by.get("web-a-1").copied();
        let held = hold.finish().unwrap();
        assert_eq!(held.lost, of_ill.map(|count| (Failure::Reset, count)).into_iter().collect(), "{held:?}");
    }
}

#[test]
fn tcp_connections_of_a_pod_that_passes_its_check_again_in_time_go_on() {
    let Some(mut cluster) = cluster() else { return };
    let health_ports = [(Protocol::Tcp, HEALTH_PORT)];
    let [ill, _well] =
        ["web-a-1", "web-a-2"].map(|pod| Server::start(cluster.topology.pod(pod), &health_ports).unwrap());
    check_and_drain(&mut cluster, 3_600);
    let outside = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let hold = Hold::start(cluster.topology.client(), outside, 20).unwrap();
    ill.kill();
    wait_for(&cluster, "two endpoints to drain", || unhealthy(&cluster) == [true, true]);
    let _back = Server::start(cluster.topology.pod("web-a-1"), &health_ports).unwrap();
    wait_for(&cluster, "both to be back", || unhealthy(&cluster).is_empty());
    assert_eq!(hold.finish().unwrap().lost, BTreeMap::new());
}
