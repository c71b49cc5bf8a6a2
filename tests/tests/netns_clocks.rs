//! Clocks of nodes are an hour off, one ahead and one behind, and are then set the other way round: nothing that agents do
//! goes by the time of day.
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::cluster::{self, TCP_PORT};
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{Dial, Hold, Server, wait_for_answerers};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(40);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;
const CONNECTIONS: u32 = 20;
const PODS: [&str; 2] = ["web-a-1", "web-b-1"];
const HOUR_S: i64 = 3_600;
/// What a renewal may be old.
const AGE_MAX_S: i64 = 60;

/// The time of day as one program sees it.
struct Clock {
    /// What starts the program.
    script: PathBuf,
    /// By how much it is off.
    offset: PathBuf,
}

impl Clock {
    fn new(folder: &Path, node: &str, (program, library): (&Path, &Path)) -> Self {
        let clock =
            Self { script: folder.join(format!("{node}.sh")), offset: folder.join(format!("{node}.time")) };
        let script = format!(
            "#!/bin/sh\nexec env LD_PRELOAD='{}' FAKETIME_TIMESTAMP_FILE='{}' FAKETIME_NO_CACHE=1 \
             FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1 '{}' \"$@\"\n",
            library.display(),
            clock.offset.display(),
            program.display(),
        );
        std::fs::write(&clock.script, script).unwrap();
        std::fs::set_permissions(&clock.script, std::fs::Permissions::from_mode(0o755)).unwrap();
        clock
    }

    /// Sets it so many seconds ahead.
    fn set(&self, ahead_s: i64) {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{ahead_s:+}\n")).unwrap();
        std::fs::rename(&new, &self.offset).unwrap();
    }
}

/// A Service of one pod on each node, which are asked at a port of their own.
fn checked(topology: &Topology) -> Service {
    let check = cluster::quick_check(cluster::HEALTH_PORT);
    Service { health_check: Some(check), ..cluster::service("checked", 80).backed_by_all(topology) }
}

fn lease(api: &GatewayApi, name: &str) -> Value {
    let leases = api.server.objects(Resource::Leases);
    leases.into_iter().find(|lease| lease["metadata"]["name"] == name).unwrap_or_default()
}

/// Who collects what all agents report, and which of them it misses.
fn collected(api: &GatewayApi) -> (Value, Value) {
    let lease = lease(api, "podway");
    let content = lease["metadata"]["annotations"]["podway.io/content"].as_str().unwrap_or("null");
    let content: Value = serde_json::from_str(content).unwrap();
    (lease["spec"]["holderIdentity"].clone(), content["absent"].clone())
}

/// By how much the clock is ahead that a node's report was renewed by.
fn ahead_s(api: &GatewayApi, node: &str) -> Option<i64> {
    let lease = lease(api, &format!("podway.{node}"));
    let renewed: Timestamp = lease["spec"]["renewTime"].as_str()?.parse().ok()?;
    Some(renewed.as_second() - Timestamp::now().as_second())
}

#[test]
fn agents_with_clocks_an_hour_off_forward_and_agree_as_others_do() {
    let Some((need, library)) = need::clocks() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let api = GatewayApi::start(&topology).unwrap();
    let service = checked(&topology);
    api.publish(&service);
    let clocks = NODE_NAMES.map(|node| Clock::new(api.dir(), node, (&need.podway, &library)));
    let set_clocks =
        |ahead_s: [i64; 2]| clocks.iter().zip(ahead_s).for_each(|(clock, ahead_s)| clock.set(ahead_s));
    set_clocks([HOUR_S, -HOUR_S]);
    let kubeconfig = api.kubeconfig();
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
    let _servers = PODS.map(|pod| Server::start(topology.pod(pod), &[(Protocol::Tcp, TCP_PORT)]).unwrap());
    let mut health = PODS.map(|pod| Some(cluster::start_health(topology.pod(pod)).unwrap()));
    let agents = [0, 1].map(|index| {
        let podway =
            Podway { binary: clocks[index].script.clone(), ebpf_object: Some(need.ebpf_object.clone()) };
        Agent::start_from(&podway, &topology, NODE_NAMES[index], source, Options::default()).unwrap()
    });
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let logs = || agents.each_ref().map(Agent::log).join("\n");
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| panic!("{error}; logs:\n{}", logs()));
    };
    let are_off = |ahead: [i64; 2]| {
        NODE_NAMES.iter().zip(ahead).all(|(node, wanted_s)| {
            ahead_s(&api, node).is_some_and(|found_s| (found_s - wanted_s).abs() < AGE_MAX_S)
        })
    };
    let expect = |pods: &[&str]| {
        for vip in LOAD_BALANCER_IPS {
            let dial = Dial::times(REQUESTS, Protocol::Tcp, (vip, 80).into());
            wait_for_answerers(topology.client(), &dial, pods, DEADLINE);
        }
    };
    wait_for("reports of both clocks", &|| are_off([HOUR_S, -HOUR_S]));
    wait_for("both agents in the summary", &|| collected(&api).1 == json!([]));
    let (collector, _) = collected(&api);
    expect(&PODS);
    health[0] = None;
    expect(&PODS[1..]);
    health[0] = Some(cluster::start_health(topology.pod(PODS[0])).unwrap());
    expect(&PODS);

    let hold = Hold::start(topology.client(), (LOAD_BALANCER_IPS[0], 80).into(), CONNECTIONS).unwrap();
    assert!(hold.opened().failed.is_empty(), "{:?}", hold.opened());
    set_clocks([-HOUR_S, HOUR_S]);
    let held = hold.finish().unwrap();
    assert!(held.lost.is_empty(), "{held:?}");
    health[1] = None;
    expect(&PODS[..1]);
    health[1] = Some(cluster::start_health(topology.pod(PODS[1])).unwrap());
    expect(&PODS);
    api.publish(&cluster::service("checked", 80));
    let tells_loss = |event: &Value| event["reason"] == "NoEndpoints";
    wait_for("the loss of all pods to be told", &|| {
        api.server.objects(Resource::Events).iter().any(tells_loss)
    });
    api.publish(&service);
    expect(&PODS);
    wait_for("reports of both clocks as they were set", &|| are_off([-HOUR_S, HOUR_S]));
    assert_eq!(collected(&api), (collector, json!([])), "nobody took over, nobody is missed");
    agents.iter().for_each(|agent| agent.verify_maps().unwrap());
}
