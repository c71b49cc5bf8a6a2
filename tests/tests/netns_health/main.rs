//! Health checks by every protocol, of real servers: pods leave and return by what a port of their own says,
//! while their Services' servers go on; and what commands show of it.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{Cluster, TCP_PORT};
use lb_tests::manifests::{Families, LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{self, Dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::{HealthCheck, Protocol};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

mod server;

use server::{Fault, HealthServer, Speech};

const INTERVAL_MS: u32 = 200;
/// Long against what a probe of a loaded machine takes: a late answer is a failure.
const TIMEOUT_MS: u32 = 1_000;
const HEALTHY_THRESHOLD: u32 = 2;
const UNHEALTHY_THRESHOLD: u32 = 3;
const DEADLINE: Duration = Duration::from_secs(60);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;
/// The pod whose servers fail, and the other one.
const PODS: [&str; 2] = ["web-a-1", "web-a-2"];

/// The reason that a check by a protocol gives, where the fault is one for it.
type SeenAs = fn(Speech) -> Option<&'static str>;

/// The faults that last, with what a check sees of each.
const FAULTS: [(Fault, SeenAs); 9] = [
    (Fault::Killed, |_| Some("connect-refused")),
    (Fault::Silent, |_| Some("connect-timeout")),
    (Fault::Mute, |_| Some("connect-timeout")),
    // To accept is all that a check by TCP asks for.
    (Fault::Hung, |speech| (speech != Speech::Tcp).then_some("timeout")),
    (Fault::Slow, |speech| (speech != Speech::Tcp).then_some("timeout")),
    (Fault::Wrong, |speech| match speech {
        Speech::Tcp => None,
        Speech::Grpc | Speech::Grpcs => Some("grpc-not-serving"),
        _ => Some("wrong-code"),
    }),
    (Fault::HangsUp, |speech| match speech {
        Speech::Tcp => None,
        speech if speech.is_tls() => Some("tls"),
        _ => Some("protocol"),
    }),
    (Fault::NoTls, |speech| speech.is_tls().then_some("tls")),
    (Fault::WantsCertificate, |speech| speech.is_tls().then_some("tls")),
];

/// A Service for each protocol, with two pods on the first node.
struct Scene {
    cluster: Cluster,
    /// Of the pod that fails, by protocol.
    servers: Vec<HealthServer>,
    _others: Vec<HealthServer>,
    _runtime: Runtime,
}

impl Scene {
    fn start(speeches: &[Speech]) -> Option<Self> {
        let need = need::netns()?;
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let topology = Topology::two_nodes(2).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let [servers, others] = PODS.map(|pod| {
            let start = |speech: &Speech| HealthServer::start(&runtime, topology.pod(pod), *speech);
            speeches.iter().map(start).collect()
        });
        let services = speeches.iter().map(|speech| service(*speech, &topology)).collect();
        let cluster = Cluster::on(topology, services, &podway, Options::default()).unwrap();
        Some(Self { cluster, servers, _others: others, _runtime: runtime })
    }

    /// What the first node's agent shows of the pod that fails, by protocol.
    fn rows(&self) -> Vec<Value> {
        let rows = self.cluster.agents[0].get("endpoints").unwrap();
        let address = SocketAddr::new(self.cluster.topology.pod(PODS[0]).v4().into(), TCP_PORT).to_string();
        let is_of = |row: &Value, speech: Speech| {
            row["backendService"] == format!("shop/{}:tcp/TCP", speech.name()) && row["address"] == *address
        };
        let row = |speech: &Speech| rows.as_array().unwrap().iter().find(|row| is_of(row, *speech)).cloned();
        Speech::ALL.iter().map(|speech| row(speech).unwrap_or_default()).collect()
    }

    /// Waits until what is shown of all these is as expected, which is looked at for all at once.
    fn wait_for_rows(&self, speeches: &[Speech], what: &str, is_expected: impl Fn(Speech, &Value) -> bool) {
        let mut last = Vec::new();
        let waited = wait_until(DEADLINE, what, || {
            let rows = self.rows();
            let is_other = |speech: &Speech| !is_expected(*speech, &rows[*speech as usize]);
            let others = speeches.iter().copied().filter(is_other);
            last = others.map(|speech| (speech, rows[speech as usize].clone())).collect();
            last.is_empty()
        });
        waited.unwrap_or_else(|error| panic!("{error}: {last:?}"));
    }

    fn wait_for_row(&self, speech: Speech, what: &str, is_expected: impl Fn(&Value) -> bool) {
        self.wait_for_rows(&[speech], what, |_, row| is_expected(row));
    }

    /// Who answers requests to each of these Services, dialled side by side.
    fn answerers(&self, speeches: &[Speech]) -> Vec<(Speech, BTreeSet<String>)> {
        let client = self.cluster.topology.client();
        std::thread::scope(|scope| {
            let asked = speeches.iter().map(|speech| (*speech, self.requests(*speech)));
            let asked = asked.map(|(speech, requests)| {
                (speech, scope.spawn(move || traffic::answerers(client, &requests).unwrap()))
            });
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(|(speech, answerers)| (speech, answerers.join().unwrap())).collect()
        })
    }

    fn address(&self, speech: Speech) -> SocketAddr {
        self.cluster.load_balancer_addresses(speech.name(), Protocol::Tcp)[0]
    }

    fn requests(&self, speech: Speech) -> Dial {
        Dial::times(REQUESTS, Protocol::Tcp, self.address(speech))
    }
}

fn service(speech: Speech, topology: &Topology) -> Service {
    let number = 80 + speech as u8;
    let mut service = Service::new(speech.name(), number).port("tcp", Protocol::Tcp, number.into(), TCP_PORT);
    service.families = Families::V4;
    service.load_balancer_ips = vec![LOAD_BALANCER_IPS[0]];
    service.health_check = Some(HealthCheck {
        kind: speech.kind(),
        port: Some(speech.port()),
        interval_ms: INTERVAL_MS,
        timeout_ms: TIMEOUT_MS,
        healthy_threshold: HEALTHY_THRESHOLD,
        unhealthy_threshold: UNHEALTHY_THRESHOLD,
    });
    let node = topology.node(NODE_NAMES[0]);
    PODS.iter().fold(service, |service, pod| service.backed_by(node, topology.pod(pod)))
}

fn reason(row: &Value) -> &str {
    row["health"]["lastProbe"]["reasonCode"].as_str().unwrap_or_default()
}

fn since(row: &Value) -> u64 {
    row["health"]["sinceUnixMs"].as_u64().unwrap()
}

#[test]
fn faults_of_every_protocol_are_seen_and_new_flows_stop() {
    let Some(mut scene) = Scene::start(&Speech::ALL) else { return };
    scene.wait_for_rows(&Speech::ALL, "a certificate that nobody signed is no fault", |_, row| {
        row["state"] == "healthy" && row["health"]["decidedBy"] == "probe" && reason(row) == "passed"
    });
    for (fault, seen_as) in FAULTS {
        let seen: Vec<Speech> = Speech::ALL.into_iter().filter(|speech| seen_as(*speech).is_some()).collect();
        seen.iter().for_each(|speech| scene.servers[*speech as usize].is(fault));
        scene.wait_for_rows(&seen, &format!("{fault:?} to be seen"), |speech, row| {
            row["state"] == "unhealthy" && Some(reason(row)) == seen_as(speech)
        });
        // At once: what the agent says it has done.
        for (speech, answerers) in scene.answerers(&seen) {
            assert!(answerers.iter().eq([PODS[1]]), "{fault:?}, {speech:?}: {answerers:?}");
        }
        seen.iter().for_each(|speech| scene.servers[*speech as usize].is(Fault::None));
        scene
            .wait_for_rows(&seen, &format!("to be well after {fault:?}"), |_, row| row["state"] == "healthy");
        let all_answer = || scene.answerers(&seen).iter().all(|(_, answerers)| answerers.iter().eq(PODS));
        wait_until(DEADLINE, &format!("both to answer after {fault:?}"), all_answer).unwrap();
    }
}

/// The protocols whose servers flap: to accept is all that TCP asks for, so it has no bad answers.
const FLAPPING: [Speech; 6] =
    [Speech::Http, Speech::Https, Speech::H2c, Speech::Http2, Speech::Grpc, Speech::Grpcs];

/// What a server that answers badly is seen as.
fn bad_answer(speech: Speech) -> &'static str {
    if speech.is_grpc() { "grpc-not-serving" } else { "wrong-code" }
}

/// Sets a fault of all servers and waits until each has answered so many probes.
fn let_pass(scene: &mut Scene, fault: Fault, probes: u32) {
    FLAPPING.iter().for_each(|speech| scene.servers[*speech as usize].is(fault));
    for speech in FLAPPING {
        let what = format!("{probes} probes by {speech:?}");
        wait_until(DEADLINE, &what, || scene.servers[speech as usize].probes() >= probes).unwrap();
    }
}

/// State of each protocol's pod that fails, and since when.
fn states(scene: &Scene) -> Vec<(String, u64)> {
    let rows = scene.rows();
    let state = |row: &Value| (row["state"].as_str().unwrap().to_owned(), since(row));
    FLAPPING.iter().map(|speech| state(&rows[*speech as usize])).collect()
}

#[test]
fn endpoint_leaves_after_as_many_failures_in_a_row_as_asked_for() {
    let Some(mut scene) = Scene::start(&Speech::ALL) else { return };
    scene.wait_for_rows(&FLAPPING, "a first probe", |_, row| reason(row) == "passed");
    let begun = states(&scene);
    assert!(begun.iter().all(|(state, _)| state == "healthy"), "{begun:?}");
    let_pass(&mut scene, Fault::First(UNHEALTHY_THRESHOLD - 1), UNHEALTHY_THRESHOLD + 2);
    assert_eq!(states(&scene), begun, "two failures are not three");
    let_pass(&mut scene, Fault::AllBut(UNHEALTHY_THRESHOLD), 4 * UNHEALTHY_THRESHOLD);
    assert_eq!(states(&scene), begun, "two of three are not three in a row");
    FLAPPING.iter().for_each(|speech| scene.servers[*speech as usize].is(Fault::First(UNHEALTHY_THRESHOLD)));
    let latest = begun.iter().map(|(_, since)| *since).max().unwrap();
    scene.wait_for_rows(&FLAPPING, "three failures to be seen, and all to be well again", |_, row| {
        since(row) > latest && row["state"] == "healthy"
    });
    let log = scene.cluster.agents[0].log();
    assert_eq!(log.matches("healthy=false").count(), FLAPPING.len(), "{log}");
}

#[test]
fn endpoint_returns_after_as_many_passes_in_a_row_as_asked_for() {
    let Some(mut scene) = Scene::start(&Speech::ALL) else { return };
    FLAPPING.iter().for_each(|speech| scene.servers[*speech as usize].is(Fault::Wrong));
    scene.wait_for_rows(&FLAPPING, "to be unhealthy", |speech, row| {
        row["state"] == "unhealthy" && reason(row) == bad_answer(speech)
    });
    let begun = states(&scene);
    let_pass(&mut scene, Fault::AllBut(HEALTHY_THRESHOLD), 4 * HEALTHY_THRESHOLD);
    assert_eq!(states(&scene), begun, "one pass is not two");
    FLAPPING.iter().for_each(|speech| scene.servers[*speech as usize].is(Fault::None));
    scene.wait_for_rows(&FLAPPING, "to be healthy", |_, row| row["state"] == "healthy");
}

#[test]
fn all_endpoints_are_used_when_none_is_healthy() {
    let Some(mut scene) = Scene::start(&[Speech::Http]) else { return };
    for server in scene.servers.iter_mut().chain(&mut scene._others) {
        server.is(Fault::Wrong);
    }
    wait_until(DEADLINE, "both to be unhealthy", || {
        let rows = scene.cluster.agents[0].health("by-http").unwrap();
        rows.iter().all(|row| row["state"] == "unhealthy")
    })
    .unwrap();
    let client = scene.cluster.topology.client();
    traffic::wait_for_answerers(client, &scene.requests(Speech::Http), &PODS, DEADLINE);
}

#[test]
fn commands_show_what_the_agent_knows_and_say_where_none_runs() {
    let Some(mut scene) = Scene::start(&[Speech::Http]) else { return };
    scene.servers[0].is(Fault::Wrong);
    scene.wait_for_row(Speech::Http, "to be unhealthy", |row| row["state"] == "unhealthy");
    let agent = &mut scene.cluster.agents[0];
    let commands: [&[&str]; 3] = [
        &["get-health", "by-http", "-o", "wide"],
        &["get", "endpoints", "-o", "wide"],
        &["describe", "backend-service", "by-http"],
    ];
    for command in commands {
        let (text, remarks) = agent.podway_and_remarks(command).unwrap();
        assert!(text.contains("wrong-code  probe") && text.contains("passed"), "{command:?}: {text}");
        assert_eq!(remarks, "", "{command:?}");
    }
    assert!(agent.podway(commands[0]).unwrap().contains("code 503"));
    agent.kill();
    for command in commands {
        let (text, remarks) = agent.podway_and_remarks(command).unwrap();
        assert!(text.contains("unhealthy") && !text.contains("wrong-code"), "{command:?}: {text}");
        let remark = "podway: only what stands in the maps is shown of health: no agent answers at ";
        assert!(remarks.starts_with(remark) && remarks.lines().count() == 1, "{command:?}: {remarks}");
    }
}
