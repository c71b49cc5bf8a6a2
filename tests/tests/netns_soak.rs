//! A long run with everything at once: traffic of both layers, changes of manifests, agents that are killed, pods whose
//! health check fails and passes again. No failure may be without a cause, the maps are whole at every look, and the
//! agent that is never killed keeps to its memory.
//!
//! `PODWAY_SOAK_SECONDS` sets how long. `cargo xtask soak` runs it for half an hour with the release binary.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::cluster;
use lb_tests::endurance::{
    Absences, Changes, Flows, Rates, Requests, Stage, own_memory_bytes, wait_until_in_sync,
};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::packet::Random;
use lb_tests::topology::Topology;
use lb_tests::traffic::{Dial, Server, answerers};
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};

/// Without `PODWAY_SOAK_SECONDS`: the short one of every run of the tests.
const SECONDS: u64 = 180;
/// Time from one change of manifests to the next.
const CHANGE_INTERVAL: Duration = Duration::from_millis(250);
/// Time from one kill to the next, and of one health check's failure to the next.
const FAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Time from one look at the maps and at the memory to the next; in a short run a part of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const LOOKS_MIN: u32 = 5;
const HEALTH_PORT: u16 = 9_000;
const HEALTH_DEADLINE: Duration = Duration::from_secs(30);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;
const CHECKED_PODS: [&str; 2] = ["web-a-2", "web-b-2"];
/// What an agent may have more at the end than when it was warm: an allocator gives back in whole pages what is
/// scattered, and a plan of a change is a copy.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// The agent that is killed, whose node has the front-end that is asked, and the one that is not.
const KILLED: usize = 0;
const STEADY: usize = 1;

/// A Service whose pods are asked at a port of their own, so that they serve on while their check fails.
fn checked(topology: &Topology) -> Service {
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(HEALTH_PORT),
        interval_ms: 200,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 3,
    };
    let service = cluster::service("checked", 95);
    let pods = topology.nodes().iter().zip(CHECKED_PODS);
    let service = pods.fold(service, |service, (node, pod)| service.backed_by(node, topology.pod(pod)));
    Service { health_check: Some(check), ..service }
}

/// The health servers of the pods; one of them fails at a time.
struct Health {
    servers: Vec<Option<Server>>,
}

impl Health {
    fn start(stage: &mut Stage) -> Self {
        let service = checked(&stage.cluster.topology);
        stage.cluster.manifests.put(service).unwrap();
        let mut health = Self { servers: vec![None, None] };
        (0..CHECKED_PODS.len()).for_each(|index| health.serve(stage, index));
        health.expect(stage, &CHECKED_PODS);
        health
    }

    fn serve(&mut self, stage: &Stage, index: usize) {
        let pod = stage.cluster.topology.pod(CHECKED_PODS[index]);
        self.servers[index] = Some(Server::start(pod, &[(Protocol::Tcp, HEALTH_PORT)]).unwrap());
    }

    /// A pod's check fails until new connections avoid it, and passes until they do not.
    fn fail(&mut self, stage: &Stage, index: usize) {
        drop(self.servers[index].take());
        self.expect(stage, &[CHECKED_PODS[1 - index]]);
        self.serve(stage, index);
        self.expect(stage, &CHECKED_PODS);
    }

    /// The pods that answer are these; every request is answered all the time.
    fn expect(&self, stage: &Stage, pods: &[&str]) {
        let expected: BTreeSet<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let to = (LOAD_BALANCER_IPS[0], 95).into();
        let dial = Dial::times(REQUESTS, Protocol::Tcp, to);
        let mut seen = BTreeSet::new();
        let waited = wait_until(HEALTH_DEADLINE, "the pods whose check passes", || {
            seen = answerers(stage.cluster.topology.client(), &dial).unwrap();
            assert!(
                seen.iter().all(|who| CHECKED_PODS.contains(&who.as_str())),
                "a request failed: {seen:?}"
            );
            seen == expected
        });
        waited.unwrap_or_else(|error| panic!("{error}: {expected:?}; seen: {seen:?}"));
    }
}

/// What is due when.
struct Clock {
    change: Instant,
    fault: Instant,
    look: Instant,
}

/// What a look has found of the memory of the agent that is not killed.
#[derive(Debug, Default)]
struct Memory(Vec<u64>);

impl Memory {
    fn look(&mut self, agent: &mut Agent) {
        self.0.push(own_memory_bytes(agent.process().id()).unwrap());
    }

    /// After a fifth of the time the agent is warm: it has seen every kind of change and fault.
    fn assert_flat(&self) {
        let warm = self.0[self.0.len() / 5];
        let last = *self.0.last().unwrap();
        assert!(last <= warm + GROWTH_BYTES_MAX, "memory grew from {warm} to {last} bytes: {:?}", self.0);
    }
}

fn duration() -> Duration {
    let asked = std::env::var("PODWAY_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(asked.unwrap_or(SECONDS))
}

/// Kills the one agent and waits until the next one has caught up.
fn kill(stage: &mut Stage, absences: &mut Absences, changes: &mut Changes) {
    let began = Instant::now();
    stage.cluster.agents[KILLED].kill();
    stage.cluster.agents[KILLED].verify_maps().unwrap();
    changes.make(&mut stage.cluster).unwrap();
    stage.cluster.agents[KILLED].restart().unwrap();
    wait_until_in_sync(&stage.cluster.agents[KILLED]).unwrap();
    stage.wait_for_ingress().unwrap();
    absences.end(began);
}

#[test]
fn nothing_fails_without_a_cause_and_memory_stays_flat() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let duration = duration();
    let look_interval = LOOK_INTERVAL.min(duration / LOOKS_MIN);
    let fault_interval = FAULT_INTERVAL.min(look_interval);
    let mut stage = Stage::start(&podway, Options::default()).unwrap();
    let mut health = Health::start(&mut stage);
    let (mut random, mut changes) = (Random::new(1), Changes::new(1));
    let (mut absences, mut memory) = (Absences::default(), Memory::default());
    let flows = Flows::start(&stage.cluster, Rates::default()).unwrap();
    let requests = Requests::start(stage.cluster.topology.client());
    let begun = Instant::now();
    let mut due = Clock { change: begun, fault: begun + fault_interval / 2, look: begun };
    let (mut change_count, mut kills, mut failed_checks) = (0, 0, 0);
    while begun.elapsed() < duration {
        let now = Instant::now();
        if now >= due.look {
            stage.cluster.agents.iter().for_each(|agent| wait_until_in_sync(agent).unwrap());
            memory.look(&mut stage.cluster.agents[STEADY]);
            due.look += look_interval;
        } else if now >= due.fault {
            if kills <= failed_checks {
                kill(&mut stage, &mut absences, &mut changes);
                kills += 1;
            } else {
                health.fail(&stage, random.below(CHECKED_PODS.len()));
                failed_checks += 1;
            }
            due.fault = Instant::now() + fault_interval;
        } else {
            std::thread::sleep(due.change.saturating_duration_since(now));
            changes.make(&mut stage.cluster).unwrap();
            change_count += 1;
            due.change = Instant::now() + CHANGE_INTERVAL;
        }
    }
    stage.cluster.agents.iter().for_each(|agent| wait_until_in_sync(agent).unwrap());
    memory.look(&mut stage.cluster.agents[STEADY]);
    let answered = requests.finish(&absences).unwrap();
    println!("{:?}; {answered} requests answered", flows.finish().unwrap());
    println!("{change_count} changes, {kills} kills, {failed_checks} failed checks; memory: {:?}", memory.0);
    memory.assert_flat();
    assert!(kills > 0 && failed_checks > 0, "{kills} kills, {failed_checks} failed checks");
}
