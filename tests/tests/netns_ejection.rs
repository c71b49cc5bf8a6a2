//! Endpoints are ejected for how connections to them begin, without any probe, and come back.
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{Cluster, TCP_PORT};
use lb_tests::manifests::Service;
use lb_tests::need;
use lb_tests::traffic::{self, Dial, Hold, Server};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

const DEADLINE: Duration = Duration::from_secs(60);
/// So many requests miss none of two pods, but once in 2^19.
const REQUESTS: u32 = 20;

/// A cluster whose Service `near` ejects after three failures in a row, or `None` where the machine lacks a need.
fn cluster() -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let options = Options { further: &["--sweep-interval-seconds", "1"], ..Options::default() };
    let mut cluster = Cluster::start(&podway, options).unwrap();
    let change = |service: &mut Service| {
        *service = service
            .clone()
            .annotated("podway.io/passive-health", "true")
            .annotated("podway.io/passive-health-consecutive-failures", "3")
            .annotated("podway.io/passive-health-ejection-seconds", "8")
            .annotated("podway.io/passive-health-ejection-max-seconds", "8");
    };
    cluster.manifests.edit("near", change).unwrap();
    Some(cluster)
}

/// The load-balancer address over IPv4.
fn address(cluster: &Cluster) -> SocketAddr {
    cluster.load_balancer_addresses("near", Protocol::Tcp)[0]
}

/// Connections from outside, each with little time.
fn dial(cluster: &Cluster) {
    let requests = Dial {
        timeout: Duration::from_millis(200),
        ..Dial::times(REQUESTS, Protocol::Tcp, address(cluster))
    };
    traffic::dial(cluster.topology.client(), &requests).unwrap();
}

/// The states of the IPv4 endpoints of `near` over TCP on node-a: of `web-a-1` and of `web-a-2`.
fn states(cluster: &Cluster) -> [String; 2] {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    ["web-a-1", "web-a-2"].map(|pod| {
        let wanted = SocketAddr::new(cluster.topology.pod(pod).v4().into(), TCP_PORT).to_string();
        let is_it = |row: &&serde_json::Value| {
            row["backendService"].as_str().unwrap().contains("/near:tcp/")
                && row["address"] == wanted.as_str()
        };
        let row = rows.as_array().unwrap().iter().find(is_it);
        row.and_then(|row| row["state"].as_str()).unwrap().to_owned()
    })
}

/// Dials until the endpoints are so.
fn dial_until(cluster: &Cluster, what: &str, expected: [&str; 2]) {
    let waited = wait_until(DEADLINE, what, || {
        dial(cluster);
        states(cluster) == expected
    });
    waited.unwrap_or_else(|error| panic!("{error}; the agent's log:\n{}", cluster.agents[0].log()));
}

/// Who answers now; a connection that fails is in it.
fn answerers(cluster: &Cluster) -> Vec<String> {
    let requests = Dial::times(REQUESTS, Protocol::Tcp, address(cluster));
    traffic::answerers(cluster.topology.client(), &requests).unwrap().into_iter().collect()
}

#[test]
fn endpoint_that_refuses_is_ejected_and_comes_back() {
    let Some(mut cluster) = cluster() else { return };
    cluster.kill_server("web-a-1");
    dial_until(&cluster, "the refusing endpoint to be out", ["unhealthy", "healthy"]);
    assert_eq!(answerers(&cluster), ["web-a-2"]);
    assert!(cluster.agents[0].log().contains("reason=ConsecutiveFailures"));

    let pod = cluster.topology.pod("web-a-1");
    let _server = Server::start(pod, &[(Protocol::Tcp, TCP_PORT)]).unwrap();
    wait_until(DEADLINE, "it to be back", || states(&cluster) == ["healthy", "healthy"]).unwrap();
    assert_eq!(answerers(&cluster), ["web-a-1", "web-a-2"]);
}

/// The pod has no way back to the client, so nobody hears an answer.
#[test]
fn endpoint_that_is_silent_is_ejected_and_comes_back() {
    let Some(cluster) = cluster() else { return };
    let pod = cluster.topology.pod("web-a-1");
    let route = |verb: &str| {
        let client = format!("{}/32", cluster.topology.client().v4());
        let done = pod.command("ip").args(["route", verb, "blackhole", &client]).status().unwrap();
        assert!(done.success(), "{verb}");
    };
    route("add");
    dial_until(&cluster, "the silent endpoint to be out", ["unhealthy", "healthy"]);
    assert_eq!(answerers(&cluster), ["web-a-2"]);

    route("delete");
    wait_until(DEADLINE, "it to be back", || states(&cluster) == ["healthy", "healthy"]).unwrap();
    assert_eq!(answerers(&cluster), ["web-a-1", "web-a-2"]);
}

#[test]
fn of_two_endpoints_that_refuse_one_stays() {
    let Some(mut cluster) = cluster() else { return };
    cluster.kill_server("web-a-1");
    cluster.kill_server("web-a-2");
    let out = |cluster: &Cluster| states(cluster).iter().filter(|state| *state == "unhealthy").count();
    wait_until(DEADLINE, "one to be out", || {
        dial(&cluster);
        assert!(out(&cluster) <= 1);
        out(&cluster) == 1
    })
    .unwrap();
    // The other refuses all of these.
    let ejections = |cluster: &Cluster| cluster.agents[0].log().matches("state=Ejected").count();
    let before = ejections(&cluster);
    wait_until(DEADLINE, "a further ejection", || {
        dial(&cluster);
        assert!(out(&cluster) <= 1);
        ejections(&cluster) > before
    })
    .unwrap();
}

/// The pod resets what is new, and goes on with what it has. It passes no check, since it has none: only its new flows
/// speak against it.
#[test]
fn ejection_alone_resets_no_connection_though_the_contract_is_to_reset() {
    let Some(mut cluster) = cluster() else { return };
    let reset = |service: &mut Service| *service = service.clone().annotated("podway.io/drain", "reset");
    cluster.manifests.edit("near", reset).unwrap();
    let hold = Hold::start(cluster.topology.client(), address(&cluster), 20).unwrap();
    let by: Vec<&str> = hold.opened().by.keys().map(String::as_str).collect();
    assert_eq!(by, ["web-a-1", "web-a-2"], "{:?}", hold.opened());
    let rule = format!("tcp dport {TCP_PORT} tcp flags & (syn | ack) == syn reject with tcp reset");
    let script = format!(
        "add table inet refusing; add chain inet refusing input {{ type filter hook input priority 0; }};
         add rule inet refusing input {rule}"
    );
    let pod = cluster.topology.pod("web-a-1");
    assert!(pod.command("nft").arg(script).status().unwrap().success());
    dial_until(&cluster, "the refusing endpoint to be out", ["unhealthy", "healthy"]);
    assert_eq!(answerers(&cluster), ["web-a-2"]);
    assert!(cluster.agents[0].log().contains("state=Ejected"));

    let held = hold.finish().unwrap();
    assert_eq!(held.lost.values().sum::<u32>(), 0, "{held:?}");
    assert_eq!(cluster.agents[0].count("endpoint-gone-reset").unwrap(), 0);
}
