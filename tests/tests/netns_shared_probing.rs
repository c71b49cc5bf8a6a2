//! Agents that share the probing: each endpoint is probed by one of two nodes, and both act on what that one finds.
use std::collections::BTreeSet;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::cluster::{self, TCP_PORT};
use lb_tests::gateway_api::GatewayApi;
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::Server;
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};

const DEADLINE: Duration = Duration::from_secs(60);
const PODS_PER_NODE: u8 = 4;
const BACKEND_SERVICE: &str = "shop/web:tcp/TCP";

fn check() -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 500,
        timeout_ms: 400,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    }
}

/// The endpoints with a field of that value, as an agent shows them.
fn endpoints(agent: &Agent, pointer: &str, value: &str) -> BTreeSet<String> {
    let rows = agent.health(BACKEND_SERVICE).unwrap_or_default();
    let wanted = rows.iter().filter(|row| row.pointer(pointer).is_some_and(|found| found == value));
    wanted.filter_map(|row| row["address"].as_str().map(str::to_owned)).collect()
}

#[test]
fn each_endpoint_is_probed_by_one_node_and_both_act_on_it() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(PODS_PER_NODE).unwrap();
    let api = GatewayApi::start(&topology).unwrap();
    let mut web = cluster::service("web", 80).backed_by_all(&topology);
    web.health_check = Some(check());
    api.publish(&web);
    let start = |pod| Server::start(pod, &[(Protocol::Tcp, TCP_PORT)]).unwrap();
    let mut servers: Vec<_> = topology.pods().map(|pod| Some(start(pod))).collect();
    let kubeconfig = api.kubeconfig();
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
    let further = &["--share-probing-from", "2", "--probers", "1"];
    let options = Options { further, ..Options::default() };
    let agents = NODE_NAMES.map(|node| Agent::start_from(&podway, &topology, node, source, options).unwrap());
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let logs = || agents.each_ref().map(Agent::log).join("\n");
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| panic!("{error}; logs:\n{}", logs()));
    };
    let probed = || agents.each_ref().map(|agent| endpoints(agent, "/health/decidedBy", "probe"));
    // In both families.
    let all = 2 * 2 * usize::from(PODS_PER_NODE);
    wait_for("each endpoint to be probed by one of two nodes", &|| {
        let [first, second] = probed();
        !first.is_empty()
            && !second.is_empty()
            && first.is_disjoint(&second)
            && first.len() + second.len() == all
    });

    let lost = topology.pods().next().expect("a pod");
    servers[0] = None;
    let of_lost = [format!("{}:{TCP_PORT}", lost.v4()), format!("[{}]:{TCP_PORT}", lost.v6())];
    let of_lost: BTreeSet<String> = of_lost.into();
    let unhealthy = || agents.each_ref().map(|agent| endpoints(agent, "/state", "unhealthy"));
    wait_for("both nodes to take the lost pod out", &|| unhealthy().iter().all(|found| *found == of_lost));
    servers[0] = Some(start(lost));
    wait_for("both nodes to take it back", &|| unhealthy().iter().all(BTreeSet::is_empty));

    // Whoever is left probes all.
    let mut agents = agents;
    agents[1].kill();
    api.server.delete(lb_tests::api_server::Resource::Leases, "podway", "podway.node-b");
    let is_alone = || endpoints(&agents[0], "/health/decidedBy", "probe").len() == all;
    let waited = wait_until(DEADLINE, "one agent to probe all", is_alone);
    waited.unwrap_or_else(|error| panic!("{error}; log:\n{}", agents[0].log()));
}
