//! Maps at their bound: what does not fit is refused and counted, what others begin goes on, and when there
//! is room again everything is as before, with no restart.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{self, Cluster};
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{Answer, Dial, Failure, Hold, ask, ask_as, dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

/// How long the agent may take to use room that there is again.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(10);
/// How long CONNTRACK may take to grow, with a sweep each second.
const GROWTH_DEADLINE: Duration = Duration::from_secs(60);

/// A cluster whose agents have further flags, or `None` where the machine lacks a need.
fn cluster(further: &'static [&'static str]) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options { further, ..Options::default() }).unwrap())
}

fn tcp(cluster: &Cluster, service: &str) -> SocketAddr {
    cluster.load_balancer_addresses(service, Protocol::Tcp)[0]
}

fn assert_answered(client: &Host, to: SocketAddr, count: u32) {
    let answers = dial(client, &Dial::times(count, Protocol::Tcp, to)).unwrap();
    let failed: Vec<&Answer> = answers.iter().filter(|answer| answer.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{} of {count} to {to} failed: {failed:?}", failed.len());
}

#[test]
fn exhausted_source_nat_refuses_is_counted_and_spares_others() {
    let Some(cluster) = cluster(&["--snat-ports", "61000-61002"]) else { return };
    let (client, far) = (cluster.topology.client(), tcp(&cluster, "far"));
    let hold = Hold::start(client, far, 12).unwrap();
    let opened: u32 = hold.opened().by.values().sum();
    // Two endpoints on the other node with three ports each.
    assert!((3..=6).contains(&opened), "{:?}", hold.opened());
    assert_eq!(hold.opened().failed, BTreeMap::from([(Failure::Refused, 12 - opened)]));
    let refused = cluster.agents[0].count("source-nat-exhausted").unwrap();
    assert!(refused >= u64::from(12 - opened), "{refused} counted");
    // Whoever needs no port of this node's: its own pods' clients, its pods, clients of the other node.
    assert_answered(client, tcp(&cluster, "near"), 5);
    assert_answered(cluster.topology.pod("web-a-3"), far, 5);
    let node_port = SocketAddr::new(cluster.topology.node("node-b").host().v4().into(), 30_082);
    assert_answered(client, node_port, 5);
    assert_eq!(hold.finish().unwrap().lost, BTreeMap::new());
}

#[test]
fn source_nat_ports_of_closed_connections_are_used_again() {
    let Some(cluster) = cluster(&["--snat-ports", "61000-61002"]) else { return };
    let (client, far) = (cluster.topology.client(), tcp(&cluster, "far"));
    let hold = Hold::start(client, far, 12).unwrap();
    assert!(hold.opened().failed.contains_key(&Failure::Refused), "{:?}", hold.opened());
    hold.finish().unwrap();
    assert_answered(client, far, 30);
}

#[test]
fn full_conntrack_takes_new_flows_and_keeps_those_in_use() {
    let Some(cluster) = cluster(&["--conntrack-max", "1024"]) else { return };
    let (client, web) = (cluster.topology.client(), tcp(&cluster, "web"));
    let hold = Hold::start(client, web, 20).unwrap();
    assert_eq!(hold.opened().failed, BTreeMap::new());
    // Two entries each: three times what there is room for.
    assert_answered(client, web, 1_500);
    assert_answered(client, tcp(&cluster, "near"), 5);
    let flows = cluster.agents[0].get("conntrack").unwrap();
    assert!(flows.as_array().unwrap().len() <= 1024, "{} flows", flows.as_array().unwrap().len());
    assert_eq!(hold.finish().unwrap().lost, BTreeMap::new());
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}

/// Whether every endpoint of `near` on `node-a` is withdrawn: only CONNTRACK leads flows to them.
fn is_near_withdrawn(cluster: &Cluster) -> bool {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    let is_near = |row: &&serde_json::Value| {
        row["backendService"].as_str().is_some_and(|name| name.contains("/near:tcp/"))
    };
    rows.as_array().unwrap().iter().filter(is_near).all(|row| row["state"] == "withdrawn")
}

/// How full CONNTRACK of `node-a` is: its bound, and whether flows are still to be moved to a larger map.
fn conntrack_pressure(cluster: &Cluster) -> (u64, bool) {
    let rows = cluster.agents[0].get("pressure").unwrap();
    let is_conntrack = |row: &&serde_json::Value| row["map"] == "CONNTRACK";
    let row = rows.as_array().unwrap().iter().find(is_conntrack).expect("a row of CONNTRACK");
    (row["entriesMax"].as_u64().unwrap(), row["growing"].as_bool().unwrap())
}

#[test]
fn conntrack_grows_to_its_limit_under_new_flows_and_keeps_open_connections() {
    let flags = &["--conntrack-max", "1024", "--conntrack-limit", "4096", "--sweep-interval-seconds", "1"];
    let Some(mut cluster) = cluster(flags) else { return };
    let (client, web) = (cluster.topology.client().clone(), tcp(&cluster, "web"));
    assert_eq!(conntrack_pressure(&cluster), (1_024, false));
    let hold = Hold::start(&client, tcp(&cluster, "near"), 20).unwrap();
    assert_eq!(hold.opened().failed, BTreeMap::new());
    cluster.manifests.edit("near", |service| service.endpoints.clear()).unwrap();
    wait_until(RECOVERY_DEADLINE, "all endpoints of near withdrawn", || is_near_withdrawn(&cluster)).unwrap();
    let grown = wait_until(GROWTH_DEADLINE, "CONNTRACK to double twice", || {
        assert_answered(&client, web, 200);
        conntrack_pressure(&cluster) == (4_096, false)
    });
    assert!(grown.is_ok(), "{grown:?}, {:?}", conntrack_pressure(&cluster));
    // It is full again, and at its limit.
    assert_answered(&client, web, 3_000);
    assert_eq!(conntrack_pressure(&cluster), (4_096, false));
    let held = hold.finish().unwrap();
    assert!(held.lost.is_empty(), "{held:?}");
    cluster.agents[0].verify().unwrap();
}

#[test]
fn full_affinity_forgets_old_clients_and_keeps_new_ones() {
    let Some(mut cluster) = cluster(&["--affinity-max", "64"]) else { return };
    let mut sticky = cluster::service("sticky", 90).backed_by_all(&cluster.topology);
    sticky.affinity_timeout_s = Some(10_800);
    cluster.manifests.put(sticky).unwrap();
    cluster.wait_for_frontends().unwrap();
    let client = cluster.topology.client();
    let to = cluster.load_balancer_addresses("sticky", Protocol::Udp)[0];
    let sources: Vec<IpAddr> = (1..=200).map(|last| IpAddr::from([198, 18, 0, last])).collect();
    let addresses: String = sources.iter().map(|source| format!("addr add {source}/32 dev lo\n")).collect();
    client.namespace().ip_batch(&addresses).unwrap();
    let route = format!("route add 198.18.0.0/24 via {}\n", client.v4());
    for node in cluster.topology.nodes() {
        node.host().namespace().ip_batch(&route).unwrap();
    }
    let asks = |source: IpAddr| {
        let request = Dial { source: Some(source), ..Dial::times(1, Protocol::Udp, to) };
        ask_as(client, &request).unwrap().by
    };
    for source in &sources {
        let first = asks(*source);
        assert_eq!(asks(*source), first, "{source} moved at once");
    }
    let kept = cluster.agents[0].get("affinity").unwrap().as_array().unwrap().len();
    assert!((1..=64).contains(&kept), "{kept} clients are remembered");
}

/// Whether a Service of `node-a` has a ring too few, and not only until the space of former rings is free.
fn is_arena_full(cluster: &Cluster) -> bool {
    let problems = cluster.topology.run_dir("node-a").join("problems-node-a.json");
    let is_told = || std::fs::read_to_string(&problems).unwrap().contains("it has no ring and refuses");
    is_told() && wait_until(Duration::from_secs(3), "the end of a shortage of rings", || !is_told()).is_err()
}

#[test]
fn full_ring_arena_refuses_the_service_without_room_and_serves_it_when_there_is() {
    let Some(mut cluster) = cluster(&["--ring-slots-max", "1024"]) else { return };
    let client = cluster.topology.client().clone();
    let mut fillers = 0;
    while !is_arena_full(&cluster) {
        assert!(fillers < 40, "the arena is never full");
        let filler = cluster::service(&format!("filler-{fillers}"), 100 + fillers);
        cluster.manifests.put(filler.backed_by_all(&cluster.topology)).unwrap();
        cluster.wait_for_frontends().unwrap();
        fillers += 1;
    }
    assert!(fillers > 1, "the arena is full from the start");
    // The ring over UDP in IPv6 is a Service's last.
    let last = cluster.load_balancer_addresses(&format!("filler-{}", fillers - 1), Protocol::Udp)[1];
    let answers = dial(&client, &Dial::times(1, Protocol::Udp, last)).unwrap();
    assert_eq!(answers[0].outcome, Err(Failure::Refused));
    assert!(cluster.agents[0].count("no-endpoint").unwrap() > 0);
    for service in ["web", "near", "far", "filler-0"] {
        ask(&client, Protocol::Tcp, tcp(&cluster, service)).unwrap();
    }
    cluster.manifests.remove("filler-0").unwrap();
    wait_until(RECOVERY_DEADLINE, "the Service without room to be served", || {
        ask(&client, Protocol::Udp, last).is_ok()
    })
    .unwrap();
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}
