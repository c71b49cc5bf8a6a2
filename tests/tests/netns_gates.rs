//! A pod with Podway's readiness gate gets its condition once every node's agent holds it; and Services are told which
//! NEGs they have.
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::cluster;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(40);

/// The pod that waits, and its node.
const POD: (&str, &str) = ("web-a-1", "node-a");

/// Two nodes with agents that serve `web`, without the pod as yet.
struct Stage {
    agents: [Agent; 2],
    web: Service,
    api: GatewayApi,
    topology: Topology,
}

impl Stage {
    fn start(podway: &Podway) -> Self {
        let topology = Topology::two_nodes(2).unwrap();
        let api = GatewayApi::start(&topology).unwrap();
        let mut web = cluster::service("web", 80).backed_by_all(&topology);
        web = web.annotated("cloud.google.com/neg", "{\"exposed_ports\":{\"80\":{\"name\":\"web-neg\"}}}");
        web.endpoints.retain(|endpoint| endpoint.pod != POD.0);
        api.publish(&web);
        let kubeconfig = api.kubeconfig();
        let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
        let options = Options::default();
        let agents =
            NODE_NAMES.map(|node| Agent::start_from(podway, &topology, node, source, options).unwrap());
        let stage = Self { agents, web, api, topology };
        let are_served =
            || stage.agents.iter().all(|agent| agent.frontends().is_ok_and(|all| !all.is_empty()));
        stage.wait_for("both nodes to serve", are_served);
        let tells_all = || stage.summary()["absent"] == json!([]);
        stage.wait_for("both agents in the summary", tells_all);
        stage
    }

    fn wait_for(&self, what: &str, holds: impl FnMut() -> bool) {
        let logs = || self.agents.each_ref().map(Agent::log).join("\n");
        let lost = || format!("summary {}; logs:\n{}", self.summary(), logs());
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| panic!("{error}; {}", lost()));
    }

    /// What all agents come to, as the collector wrote it.
    fn summary(&self) -> Value {
        let leases = self.api.server.objects(Resource::Leases);
        let lease =
            leases.into_iter().find(|lease| lease["metadata"]["name"] == "podway").unwrap_or_default();
        let content = lease["metadata"]["annotations"]["podway.io/content"].as_str();
        content.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Adds the pod, which waits for its gate, and its endpoint, which is not ready.
    fn add_pod(&mut self) {
        let pod = self.topology.pod(POD.0);
        let node = self.topology.node(POD.1);
        let object = json!({
            "metadata": {"namespace": NAMESPACE, "name": POD.0, "uid": "0d4f"},
            "spec": {
                "nodeName": POD.1, "containers": [],
                "readinessGates": [{"conditionType": "podway.io/programmed"}],
            },
            "status": {"podIPs": [{"ip": pod.v4()}, {"ip": pod.v6()}], "conditions": []},
        });
        self.api.server.put(Resource::Pods, object);
        self.web = self.web.clone().backed_by(node, pod);
        let endpoint = self.web.endpoint(POD.0);
        (endpoint.ready, endpoint.serving) = (false, false);
        self.api.publish(&self.web);
    }

    /// The pod's conditions, as type, status and reason.
    fn conditions(&self) -> Value {
        let pods = self.api.server.objects(Resource::Pods);
        let all = pods[0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().map(|c| json!([c["type"], c["status"], c["reason"]])).collect()
    }
}

#[test]
fn a_pod_is_let_ready_once_every_node_holds_it() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut stage = Stage::start(&podway);
    stage.agents[1].process().signal(Signal::STOP).unwrap();
    stage.add_pod();
    let wants = |report: &Value| report["wanted"].as_u64().is_some_and(|wanted| wanted > 0);
    let report = |stage: &Stage| {
        let leases = stage.api.server.objects(Resource::Leases);
        let lease = leases.into_iter().find(|lease| lease["metadata"]["name"] == "podway.node-a");
        let content = lease.map(|lease| lease["metadata"]["annotations"]["podway.io/content"].clone());
        let text = content.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    };
    // The pod's node holds it and has said for what it waits.
    stage.wait_for("the wish of the pod's node", || {
        let said = report(&stage);
        wants(&said) && said["programmed"].as_u64() >= said["wanted"].as_u64()
    });
    assert_eq!(stage.conditions(), json!([]));
    stage.agents[1].process().signal(Signal::CONT).unwrap();
    let met = json!([["podway.io/programmed", "True", "Programmed"]]);
    stage.wait_for("the condition", || stage.conditions() == met);
}

#[test]
fn a_service_is_told_its_negs_and_their_zones() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let stage = Stage::start(&podway);
    let annotations = || stage.api.server.objects(Resource::Services)[0]["metadata"]["annotations"].clone();
    let expected = "{\"network_endpoint_groups\":{\"80\":\"web-neg\"},\"zones\":[\"east\"]}";
    stage.wait_for("the status", || annotations()["cloud.google.com/neg-status"] == expected);
    assert_eq!(annotations()["podway.io/neg-status"], "agent");
}
