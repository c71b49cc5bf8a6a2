//! The agent dies and comes back under traffic: nothing may be lost, no flow may move.
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{self, Cluster};
use lb_tests::need;
use lb_tests::traffic::{Dial, Hold, UdpStream, dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

/// Connections that stay open over the restart.
const CONNECTIONS: u32 = 1_000;
/// Kills of the agent.
const KILLS: u8 = 3;

/// A cluster, or `None` where the machine lacks a need.
fn cluster() -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options::default()).unwrap())
}

#[test]
fn killed_agent_loses_no_connection_and_no_datagram() {
    let Some(mut cluster) = cluster() else { return };
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|p| cluster.load_balancer_addresses("web", p)[0]);
    let hold = Hold::start(cluster.topology.client(), tcp, CONNECTIONS).unwrap();
    assert_eq!(hold.opened().failed, [].into());
    assert_eq!(hold.opened().by.values().sum::<u32>(), CONNECTIONS);
    let stream = UdpStream::start(cluster.topology.client(), udp, Duration::from_millis(1)).unwrap();
    for kill in 0..KILLS {
        cluster.agents[0].kill();
        // With nobody there, new flows go on too.
        let answers = dial(cluster.topology.client(), &Dial::times(20, Protocol::Tcp, tcp)).unwrap();
        assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
        cluster.agents[0].restart().unwrap();
        // What only a new agent that works can do.
        cluster.manifests.put(cluster::service(&format!("new-{kill}"), 90 + kill)).unwrap();
        cluster.wait_for_frontends().unwrap();
    }
    let streamed = stream.finish().unwrap();
    assert_eq!((&streamed.missing, &streamed.failed), (&vec![], &[].into()), "{streamed:?}");
    assert_eq!(streamed.by.len(), 1, "the stream moved: {streamed:?}");
    let held = hold.finish().unwrap();
    assert_eq!(held.lost, [].into(), "{held:?}");
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}

/// Whether new connections of the client are all answered, and none by `pod`.
fn avoids(cluster: &Cluster, address: SocketAddr, pod: &str) -> bool {
    let answers = dial(cluster.topology.client(), &Dial::times(40, Protocol::Tcp, address)).unwrap();
    answers.iter().all(|answer| answer.outcome.as_ref().is_ok_and(|answered| answered.by != pod))
}

#[test]
fn change_without_an_agent_is_applied_by_the_next_and_moves_no_flow() {
    let Some(mut cluster) = cluster() else { return };
    let address = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let hold = Hold::start(cluster.topology.client(), address, 50).unwrap();
    cluster.agents[0].kill();
    cluster.manifests.edit("near", |service| service.endpoint("web-a-1").ready = false).unwrap();
    assert!(!avoids(&cluster, address, "web-a-1"), "the maps changed with no agent");
    cluster.agents[0].restart().unwrap();
    wait_until(Duration::from_secs(10), "new flows to leave web-a-1", || {
        avoids(&cluster, address, "web-a-1")
    })
    .unwrap();
    assert_eq!(hold.finish().unwrap().lost, [].into());
}

#[test]
fn broken_manifest_leaves_everything_as_it_is() {
    let Some(mut cluster) = cluster() else { return };
    let address = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    std::fs::write(cluster.manifests.dir().join("near.yaml"), "kind: [Service").unwrap();
    let agent = &mut cluster.agents[0];
    wait_until(Duration::from_secs(10), "the broken file in the log", || agent.log().contains("near.yaml"))
        .unwrap();
    let answers = dial(cluster.topology.client(), &Dial::times(20, Protocol::Tcp, address)).unwrap();
    assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
    assert!(agent.process().is_running());
}

#[test]
fn pod_that_dies_resets_its_own_connections_only() {
    let Some(mut cluster) = cluster() else { return };
    let address = cluster.load_balancer_addresses("far", Protocol::Tcp)[0];
    let hold = Hold::start(cluster.topology.client(), address, 100).unwrap();
    let of_the_dead = hold.opened().by["web-b-1"];
    cluster.kill_server("web-b-1");
    let held = hold.finish().unwrap();
    assert_eq!(held.lost.values().sum::<u32>(), of_the_dead, "{held:?}");
}
