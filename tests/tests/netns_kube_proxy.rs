//! Netns tier: beside kube-proxy's rules. Services are taken over and given back one by one, and the two
//! sides are compared, on rules that a real `nft` or `iptables` holds.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::{Agent, Frontend, Options, Podway, frontend};
use lb_tests::cluster::{TCP_PORT, service};
use lb_tests::kube_proxy::{iptables, nftables};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Manifests, Service};
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::traffic::{Dial, Hold, Server, ask, dial};
use lb_userspace::model::{Protocol, TrafficPolicy};
use serde_json::Value;
use tempfile::TempDir;

/// The label that gives a Service to Podway here.
const LABEL: (&str, &str) = ("podway.io/serve", "yes");

/// Two nodes whose pods are served by kube-proxy's rules on node-a alone.
struct Beside {
    podway: Podway,
    manifests: Manifests,
    _servers: Vec<Server>,
    topology: Topology,
    _dir: TempDir,
}

/// Services `web` at port 80 and `cart` at port 81, or `None` where the machine lacks a need.
fn beside() -> Option<Beside> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(2).unwrap();
    let dir = TempDir::with_prefix("podway-manifests-").unwrap();
    let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
    for (name, port) in [("web", 80), ("cart", 81)] {
        manifests.put(service(name, port).backed_by_all(&topology)).unwrap();
    }
    let servers =
        topology.pods().map(|pod| Server::start(pod, &[(Protocol::Tcp, TCP_PORT)]).unwrap()).collect();
    let beside = Beside { podway, manifests, _servers: servers, topology, _dir: dir };
    beside.load_rules();
    Some(beside)
}

impl Beside {
    fn load_rules(&self) {
        let services: Vec<&Service> = self.manifests.services().collect();
        nftables::load(self.topology.node("node-a"), &services).unwrap();
    }

    fn address(&self, name: &str) -> SocketAddr {
        SocketAddr::new(LOAD_BALANCER_IPS[0], self.manifests.service(name).ports[0].port)
    }

    /// All answer twenty new connections.
    fn all_answer(&self, names: &[&str]) {
        for name in names {
            let answers =
                dial(self.topology.client(), &Dial::times(20, Protocol::Tcp, self.address(name))).unwrap();
            assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{name}: {answers:?}");
        }
    }

    fn agent(&self, flags: &'static [&'static str]) -> Agent {
        let (podway, folder) = (&self.podway, self.manifests.dir());
        let options = Options { further: flags, ..Options::default() };
        Agent::start(podway, &self.topology, "node-a", folder, options).unwrap()
    }

    fn frontends(&self, name: &str) -> BTreeSet<Frontend> {
        let service = self.manifests.service(name);
        let node = self.topology.node("node-a").host();
        let vips = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
        let vips: Vec<IpAddr> = vips.copied().collect();
        let at = |port: &lb_tests::manifests::ServicePort| {
            let at_vips = vips.iter().map(|vip| frontend(port.protocol, *vip, port.port));
            let at_node = [IpAddr::from(node.v4()), node.v6().into()]
                .into_iter()
                .filter_map(|address| Some(frontend(port.protocol, address, port.node_port?)));
            at_vips.chain(at_node).collect::<Vec<_>>()
        };
        service.ports.iter().flat_map(at).collect()
    }

    fn label(&mut self, name: &str, has_label: bool) {
        let labels = has_label.then(|| (LABEL.0.to_owned(), LABEL.1.to_owned())).into_iter().collect();
        self.manifests.edit(name, |service| service.labels = labels).unwrap();
    }

    /// Runs `podway diff-kube-proxy` against the plan; exit status and JSON, or the error's text.
    fn diff(&self, flags: &[&str]) -> (i32, Value, String) {
        let mut command = self.topology.node("node-a").host().command(&self.podway.binary);
        command.args(["diff-kube-proxy", "--node-name", "node-a", "-o", "json", "--manifests"]);
        let output = command.arg(self.manifests.dir()).args(flags).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("an exit status"), value, errors)
    }
}

/// How many flows Podway knows to a frontend.
fn flows_to(agent: &Agent, address: SocketAddr) -> usize {
    let text = agent.get("conntrack").unwrap().to_string();
    text.matches(&format!("\"{address}\"")).count()
}

#[test]
fn a_service_is_taken_over_and_given_back_while_both_answer() {
    let Some(mut beside) = beside() else { return };
    beside.all_answer(&["web", "cart"]);
    let mut agent = beside.agent(&["--service-selector", "podway.io/serve=yes"]);
    agent.wait_for(&BTreeSet::new()).unwrap();
    beside.all_answer(&["web", "cart"]);

    beside.label("web", true);
    agent.wait_for(&beside.frontends("web")).unwrap();
    beside.all_answer(&["web", "cart"]);
    assert!(flows_to(&agent, beside.address("web")) >= 20, "Podway serves web");
    assert_eq!(flows_to(&agent, beside.address("cart")), 0, "kube-proxy serves cart");

    beside.label("web", false);
    agent.wait_for(&BTreeSet::new()).unwrap();
    beside.all_answer(&["web", "cart"]);
}

#[test]
fn a_named_service_is_served_and_ports_of_the_others_stay_with_kube_proxy() {
    let Some(beside) = beside() else { return };
    let mut agent = beside.agent(&["--only-service", "shop/web", "--service-cidr", "10.96.0.0/16"]);
    agent.wait_for(&beside.frontends("web")).unwrap();
    beside.all_answer(&["web", "cart"]);
    // The two share the load balancer's address; the cluster IP is cart's own.
    let cluster_ip = SocketAddr::new(beside.manifests.service("cart").cluster_ips[0], 81);
    ask(beside.topology.client(), Protocol::Tcp, cluster_ip).unwrap();
}

#[test]
fn connections_that_podway_opened_outlive_the_step_back_of_their_service() {
    let Some(mut beside) = beside() else { return };
    beside.label("web", true);
    let mut agent = beside.agent(&["--service-selector", "podway.io/serve=yes"]);
    agent.wait_for(&beside.frontends("web")).unwrap();
    let hold = Hold::start(beside.topology.client(), beside.address("web"), 50).unwrap();
    assert_eq!(hold.opened().failed, [].into());
    beside.label("web", false);
    agent.wait_for(&BTreeSet::new()).unwrap();
    beside.all_answer(&["web"]);
    assert_eq!(hold.finish().unwrap().lost, [].into());
}

#[test]
fn connections_that_kube_proxy_opened_to_other_services_outlive_a_take_over() {
    let Some(mut beside) = beside() else { return };
    let mut agent = beside.agent(&["--service-selector", "podway.io/serve=yes"]);
    agent.wait_for(&BTreeSet::new()).unwrap();
    let hold = Hold::start(beside.topology.client(), beside.address("cart"), 50).unwrap();
    assert_eq!(hold.opened().failed, [].into());
    beside.label("web", true);
    agent.wait_for(&beside.frontends("web")).unwrap();
    assert_eq!(hold.finish().unwrap().lost, [].into());
}

#[test]
fn connections_that_kube_proxy_opened_outlive_the_take_over_of_their_service_and_its_end() {
    let Some(mut beside) = beside() else { return };
    let outside = Hold::start(beside.topology.client(), beside.address("web"), 50).unwrap();
    let cluster_ip = SocketAddr::new(beside.manifests.service("web").cluster_ips[0], 80);
    let pod = Hold::start(beside.topology.pod("web-a-1"), cluster_ip, 50).unwrap();
    assert_eq!((&outside.opened().failed, &pod.opened().failed), (&[].into(), &[].into()));
    let mut agent = beside.agent(&["--service-selector", "podway.io/serve=yes"]);
    beside.label("web", true);
    agent.wait_for(&beside.frontends("web")).unwrap();
    beside.all_answer(&["web"]);
    beside.label("web", false);
    agent.wait_for(&BTreeSet::new()).unwrap();
    assert_eq!((outside.finish().unwrap().lost, pod.finish().unwrap().lost), ([].into(), [].into()));
}

#[test]
fn nftables_rules_of_the_same_services_do_not_differ_from_the_plan() {
    let Some(mut beside) = beside() else { return };
    beside.manifests.edit("web", |service| service.affinity_timeout_s = Some(600)).unwrap();
    let local = |service: &mut Service| {
        service.external_traffic_policy = TrafficPolicy::Local;
        service.endpoints.retain(|endpoint| endpoint.node == "node-b");
    };
    beside.manifests.edit("cart", local).unwrap();
    beside.manifests.put(service("idle", 82)).unwrap();
    beside.load_rules();
    let (status, report, errors) = beside.diff(&[]);
    assert_eq!((status, &report["equal"]), (0, &true.into()), "{report:#}\n{errors}");
    // Three Services, two protocols, ten addresses: cluster IPs, load balancer and node of both families, and
    // the external one.
    assert_eq!(report["kubeProxyFrontends"], 42, "{report:#}");
}

#[test]
fn nftables_rules_that_differ_are_listed() {
    let Some(mut beside) = beside() else { return };
    beside.manifests.edit("web", |service| service.endpoint("web-a-1").ready = false).unwrap();
    beside.manifests.edit("web", |service| service.external_ips.clear()).unwrap();
    let (status, report, _) = beside.diff(&["--only-service", "shop/web"]);
    assert_eq!((status, &report["equal"]), (1, &false.into()), "{report:#}");
    let differences = report["differences"].as_array().unwrap();
    let of = |frontend: &str| -> Vec<&Value> {
        differences.iter().filter(|difference| difference["frontend"] == frontend).collect()
    };
    let missing = of("198.51.100.20:80/TCP");
    assert_eq!((&missing[0]["what"], &missing[0]["podway"]), (&"frontend".into(), &"missing".into()));
    let internal = of("10.96.0.80:80/TCP")[0];
    assert_eq!(internal["what"], "internal");
    assert!(internal["kubeProxy"].as_str().unwrap().starts_with("10.244.1.11:8080 "), "{internal:#}");
    assert!(internal["podway"].as_str().unwrap().starts_with("10.244.1.12:8080 "), "{internal:#}");
    assert!(differences.iter().all(|difference| difference["service"] == "shop/web"), "{report:#}");
}

#[test]
fn a_live_agent_is_compared_by_its_maps() {
    let Some(beside) = beside() else { return };
    let mut agent = beside.agent(&[]);
    let all = beside.frontends("web").union(&beside.frontends("cart")).cloned().collect();
    agent.wait_for(&all).unwrap();
    let text = agent.podway(&["diff-kube-proxy"]).unwrap();
    assert_eq!(text, "no difference in 28 frontends\n");
}

#[test]
fn a_node_without_kube_proxy_cannot_be_compared() {
    let Some(beside) = beside() else { return };
    nftables::remove(beside.topology.node("node-a")).unwrap();
    let (status, _, errors) = beside.diff(&[]);
    assert_eq!(status, 2);
    assert!(errors.starts_with("podway: cannot find kube-proxy's rules: neither tables named"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn iptables_rules_are_compared_where_there_are_no_nftables_tables() {
    let Some(mut beside) = beside() else { return };
    let node = |name| beside.topology.node(name);
    nftables::remove(node("node-a")).unwrap();
    let one = Service::new("one", 90)
        .port("http", Protocol::Tcp, 90, 8080)
        .backed_by(node("node-a"), beside.topology.pod("web-a-1"))
        .backed_by(node("node-b"), beside.topology.pod("web-b-1"));
    let without_one = Service { endpoints: one.endpoints[..1].to_vec(), ..one.clone() };
    iptables::load(node("node-a"), &[&without_one]).unwrap();
    beside.manifests.put(one.clone()).unwrap();
    let (_, report, errors) = beside.diff(&["--only-service", "shop/one"]);
    let differences = report["differences"].as_array().unwrap_or_else(|| panic!("{errors}"));
    let frontends: BTreeSet<&str> = differences.iter().filter_map(|d| d["frontend"].as_str()).collect();
    assert_eq!(frontends, ["10.96.0.90:90/TCP", "[2001:db8:96::90]:90/TCP"].into(), "{report:#}");
    iptables::load(beside.topology.node("node-a"), &[&one]).unwrap();
    let (_, report, errors) = beside.diff(&["--only-service", "shop/one"]);
    assert_eq!(report["differences"].as_array().map(Vec::len), Some(0), "{report:#} {errors}");
}
