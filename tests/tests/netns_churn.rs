//! Endpoints that come and go all the time under many short connections: none of these may fail, for every
//! pod serves on, whatever its slice says; and the maps are whole at every look.
//!
//! The test is short and asks for no rate. `cargo xtask churn` runs it for a minute with the release binary
//! with the rates that Podway promises.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service, change_endpoint};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{Load, Loaded, Server};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

const PODS_PER_NODE: u8 = 8;
/// Of each node, the first pods are ready all the time.
const STEADY_PER_NODE: usize = 2;
const SERVICES: [&str; 4] = ["cart", "search", "stock", "users"];
const POD_PORT: u16 = 8080;
const PORT_FIRST: u8 = 80;
/// Changes are made in steps of this, as Kubernetes gathers them too.
const STEP: Duration = Duration::from_millis(50);
/// Time from one look at the maps to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long agents may take for everything at the start, and for the last changes at the end.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// How much is asked for.
struct Demand {
    seconds: u32,
    connections_per_second: u32,
    changes_per_second: u32,
    /// Whether the rates must be reached.
    is_strict: bool,
}

impl Demand {
    /// From `PODWAY_CHURN`, as `SECONDS,CONNECTIONS,CHANGES`.
    fn of_environment() -> Self {
        let text = std::env::var("PODWAY_CHURN").unwrap_or_default();
        let numbers: Vec<u32> = text.split(',').filter_map(|number| number.parse().ok()).collect();
        let (numbers, is_strict) = match numbers[..] {
            [seconds, connections, changes] => ([seconds, connections, changes], true),
            _ => ([6, 400, 200], false),
        };
        let [seconds, connections_per_second, changes_per_second] = numbers;
        Self { seconds, connections_per_second, changes_per_second, is_strict }
    }
}

/// A cluster whose facts come from an API server at the gateway of the nodes' segment.
struct Stage {
    api: GatewayApi,
    services: Vec<Service>,
    topology: Topology,
    /// What the server has, as manifests for `podway verify`.
    snapshot: PathBuf,
    /// Seed of the changes.
    random: u64,
    _servers: Vec<Server>,
}

impl Stage {
    fn start() -> Self {
        let topology = Topology::two_nodes(PODS_PER_NODE).unwrap();
        let api = GatewayApi::start(&topology).unwrap();
        let stage = Self {
            services: SERVICES.into_iter().zip(PORT_FIRST..).map(|of| service(of, &topology)).collect(),
            snapshot: api.dir().join("snapshot"),
            api,
            random: 1,
            _servers: topology.pods().map(|pod| Server::greet(pod, POD_PORT).unwrap()).collect(),
            topology,
        };
        (0..SERVICES.len()).for_each(|index| stage.publish(index));
        stage
    }

    /// An agent on every node that has done all that is published.
    fn agents(&self, podway: &Podway) -> Vec<Agent> {
        let kubeconfig = self.api.kubeconfig();
        let source = Source::Cluster { kubeconfig: &kubeconfig, folder: &self.snapshot };
        let start =
            |node| Agent::start_from(podway, &self.topology, node, source, Options::default()).unwrap();
        let agents: Vec<Agent> = NODE_NAMES.map(start).into();
        self.settle(&agents);
        agents
    }

    /// Gives the API server a Service as it is now.
    fn publish(&self, index: usize) {
        self.api.publish(&self.services[index]);
    }

    /// Waits until the agents have done all that is published.
    fn settle(&self, agents: &[Agent]) {
        let objects = Resource::ALL.into_iter().flat_map(|resource| self.api.server.objects(resource));
        let text: String = objects.map(|object| format!("---\n{object}\n")).collect();
        std::fs::create_dir_all(&self.snapshot).unwrap();
        std::fs::write(self.snapshot.join("all.yaml"), text).unwrap();
        for agent in agents {
            let mut last = Ok(());
            let waited = wait_until(SETTLE_DEADLINE, "the plan in the maps", || {
                last = agent.verify();
                last.is_ok()
            });
            waited.unwrap_or_else(|error| panic!("{error}: {last:?}; log:\n{}", agent.log()));
        }
    }

    /// A number below `bound`: splitmix64 (Steele, Lea, Flood 2014).
    fn random(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// Makes so many changes of single endpoints, and publishes the Services that they are of.
    fn change(&mut self, count: u32) {
        let mut changed = BTreeSet::new();
        for _ in 0..count {
            let service = self.random(SERVICES.len());
            let node = self.random(NODE_NAMES.len());
            let pod = STEADY_PER_NODE + self.random(usize::from(PODS_PER_NODE) - STEADY_PER_NODE);
            let choice = self.random(3);
            let node = &self.topology.nodes()[node];
            change_endpoint(&mut self.services[service], node, &node.pods()[pod], choice);
            changed.insert(service);
        }
        changed.into_iter().for_each(|service| self.publish(service));
    }
}

fn service((name, port): (&str, u8), topology: &Topology) -> Service {
    let mut service = Service::new(name, port).port("tcp", Protocol::Tcp, port.into(), POD_PORT);
    service.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
    service.backed_by_all(topology)
}

/// Changes endpoints at the rate for the time. Returns the number of changes.
fn churn(stage: &mut Stage, demand: &Demand) -> u32 {
    let start = Instant::now();
    let per_step = demand.changes_per_second * STEP.as_millis() as u32 / 1000;
    let (mut changes, mut due) = (0, start);
    while start.elapsed() < Duration::from_secs(demand.seconds.into()) {
        stage.change(per_step);
        changes += per_step;
        due += STEP;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    changes
}

/// Looks at the maps of one node after the other until told to stop. Returns the number of looks.
fn watch(agents: &[Agent], is_over: &AtomicBool) -> u32 {
    let mut looks = 0;
    for agent in agents.iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
        agent.verify_maps().unwrap_or_else(|error| panic!("look {looks}: {error:#}"));
        looks += 1;
        std::thread::sleep(LOOK_INTERVAL);
    }
    looks
}

/// The load-balancer addresses of all Services in both families.
fn addresses() -> Vec<SocketAddr> {
    let ports = (PORT_FIRST..).take(SERVICES.len());
    ports.flat_map(|port| LOAD_BALANCER_IPS.map(|address| SocketAddr::new(address, port.into()))).collect()
}

fn assert_whole(who: &str, loaded: &Loaded) {
    assert!(
        loaded.failed.is_empty(),
        "{who}: {:?} of {} failed: {loaded:?}",
        loaded.failed,
        loaded.greeted()
    );
    for steady in ["web-a-1", "web-a-2", "web-b-1", "web-b-2"] {
        assert!(loaded.by.contains_key(steady), "{who}: {steady} greeted nobody: {loaded:?}");
    }
}

#[test]
fn no_connection_fails_while_endpoints_come_and_go() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let demand = Demand::of_environment();
    let mut stage = Stage::start();
    let agents = stage.agents(&podway);
    let rate = demand.connections_per_second;
    let outside = Load::start(stage.topology.client(), &addresses(), rate * 3 / 4).unwrap();
    let inside = Load::start(stage.topology.pod("web-a-1"), &addresses(), rate / 4).unwrap();
    let is_over = AtomicBool::new(false);
    let (changes, looks, agents) = std::thread::scope(|scope| {
        let is_over = &is_over;
        let watch = scope.spawn(move || (watch(&agents, is_over), agents));
        let changes = churn(&mut stage, &demand);
        is_over.store(true, Ordering::Relaxed);
        let (looks, agents) = watch.join().unwrap();
        (changes, looks, agents)
    });
    let loads = [("client", outside.finish().unwrap()), ("web-a-1", inside.finish().unwrap())];
    stage.settle(&agents);
    let mut reached = 0.0;
    for (who, loaded) in &loads {
        assert_whole(who, loaded);
        let per_second = loaded.greeted() as f64 / (loaded.elapsed_us as f64 / 1e6);
        reached += per_second;
        println!(
            "{who}: {} connections, {per_second:.0} a second, none failed, the slowest took {} ms",
            loaded.greeted(),
            loaded.slowest_us / 1000
        );
    }
    println!("{changes} endpoint changes in {} s; {looks} looks at the maps, all clean", demand.seconds);
    if demand.is_strict {
        assert!(reached >= f64::from(rate) * 0.98, "{reached:.0} connections a second, {rate} are asked for");
        let wanted = demand.changes_per_second * demand.seconds;
        assert!(changes * 100 >= wanted * 98, "{changes} changes, {wanted} are asked for");
    }
}
