//! Agents tell the API server what befalls a Service.
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::cluster;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::wait::wait_until;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(40);

/// The reasons of all Events about the TCP port.
fn reasons(api: &GatewayApi) -> Vec<Value> {
    let events = api.server.objects(Resource::Events).into_iter();
    let of_tcp = events.filter(|event| event["note"].as_str().is_some_and(|note| note.contains(":tcp/TCP")));
    of_tcp.map(|event| event["reason"].clone()).collect()
}

#[test]
fn a_service_that_loses_its_last_endpoint_and_has_one_again_gets_events() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let api = GatewayApi::start(&topology).unwrap();
    let with_pods = cluster::service("web", 80).backed_by_all(&topology);
    api.publish(&with_pods);
    let kubeconfig = api.kubeconfig();
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
    let agents = ["node-a", "node-b"]
        .map(|node| Agent::start_from(&podway, &topology, node, source, Options::default()).unwrap());
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let logs = || agents.each_ref().map(Agent::log).join("\n");
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| panic!("{error}; logs:\n{}", logs()));
    };
    let are_served = || agents.iter().all(|agent| agent.frontends().is_ok_and(|found| !found.is_empty()));
    wait_for("both nodes to serve", &are_served);

    api.publish(&cluster::service("web", 80));
    wait_for("the loss to be told", &|| reasons(&api) == ["NoEndpoints"]);
    api.publish(&with_pods);
    wait_for("the end of it to be told", &|| reasons(&api) == ["EndpointsWell", "NoEndpoints"]);
}
