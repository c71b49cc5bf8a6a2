//! VIPs by BGP: the agent's routes are taken by BIRD or by FRR on the node, and by another BIRD on the router before the
//! client.
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::manifests::{Manifests, Service};
use lb_tests::need;
use lb_tests::process::Process;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask_within};
use lb_userspace::model::Protocol;
use serde_json::json;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
const VIP: &str = "198.51.100.129";
const POOL: &str = "198.51.100.129-198.51.100.130";

/// What `docs/load-balancer-addresses.md` shows, with short waits.
const NODE: &str = "
log stderr all;
router id 192.0.2.11;
protocol device { scan time 1; }
ipv4 table vips;
protocol kernel podway {
  kernel table 4200;
  learn;
  scan time 1;
  ipv4 { table vips; import all; export none; };
}
protocol bgp upstream {
  local 192.0.2.11 as 64512;
  neighbor 192.0.2.1 as 64513;
  connect delay time 1;
  connect retry time 1;
  ipv4 { table vips; import none; export all; next hop self; };
}
";

/// The same for FRR, whose tables end at 252: what zebra is told, and bgpd.
const NODE_ZEBRA: &str = "ip import-table 200\n";
const NODE_BGPD: &str = "
router bgp 64512
 bgp router-id 192.0.2.11
 no bgp ebgp-requires-policy
 neighbor 192.0.2.1 remote-as 64513
 neighbor 192.0.2.1 timers connect 1
 address-family ipv4 unicast
  redistribute table 200
 exit-address-family
";

const ROUTER: &str = "
log stderr all;
router id 192.0.2.1;
protocol device { scan time 1; }
protocol kernel { scan time 1; ipv4 { import none; export all; }; }
protocol bgp downstream {
  local 192.0.2.1 as 64513;
  neighbor 192.0.2.11 as 64512;
  connect delay time 1;
  connect retry time 1;
  ipv4 { import all; export none; };
}
";

fn start_bird(bird: &Path, host: &Host, dir: &Path, config: &str) -> Process {
    let file = |end: &str| dir.join(format!("{}.{end}", host.name()));
    std::fs::write(file("conf"), config).unwrap();
    let mut command = host.command(bird);
    command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl"));
    Process::start(command, &format!("BIRD on {}", host.name())).unwrap()
}

/// zebra and bgpd, as the user that FRR's package made, who needs a folder to write to.
fn start_frr(daemons: &Path, host: &Host, dir: &Path) -> Vec<Process> {
    let folder = dir.join("frr");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let socket = folder.join("zserv");
    let start = |daemon: &str, config: &str| {
        let file = |end: &str| folder.join(format!("{daemon}.{end}"));
        std::fs::write(file("conf"), config).unwrap();
        let mut command = host.command(daemons.join(daemon));
        command.args(["--log", "stdout", "-A", "127.0.0.1", "-P", "0", "--vty_socket"]).arg(&folder);
        command.arg("-z").arg(&socket).arg("-i").arg(file("pid")).arg("-f").arg(file("conf"));
        Process::start(command, &format!("{daemon} on {}", host.name())).unwrap()
    };
    let zebra = start("zebra", NODE_ZEBRA);
    // bgpd looks for it every ten seconds.
    wait_until(DEADLINE, "zebra's socket", || socket.exists())
        .unwrap_or_else(|error| panic!("{error}: {}", zebra.log()));
    vec![zebra, start("bgpd", NODE_BGPD)]
}

fn balanced(kind: &str, topology: &Topology) -> Service {
    let service = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
    service.with_spec("type", json!(kind)).backed_by_all(topology)
}

#[test]
fn a_router_learns_a_vip_from_bird_and_forgets_it() {
    let Some((need, bird)) = need::routing() else { return };
    let table = &["--lb-pool", POOL, "--lb-route-table", "4200"];
    assert_vip_comes_and_goes(need, &bird, table, |node, dir| vec![start_bird(&bird, node, dir, NODE)]);
}

#[test]
fn a_router_learns_a_vip_from_frr_and_forgets_it() {
    let Some((need, bird, frr)) = need::routing_by_frr() else { return };
    let table = &["--lb-pool", POOL, "--lb-route-table", "200"];
    assert_vip_comes_and_goes(need, &bird, table, |node, dir| start_frr(&frr, node, dir));
}

/// With BIRD on the router, and on the node what is started there.
fn assert_vip_comes_and_goes(
    need: need::Netns,
    bird: &Path,
    further: &'static [&str; 4],
    start_on_node: impl FnOnce(&Host, &Path) -> Vec<Process>,
) {
    let topology = Topology::three_nodes(1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _webs: Vec<Web> = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
    let dir = TempDir::with_prefix("podway-bgp-").unwrap();
    let folder = dir.path().join("manifests");
    std::fs::create_dir(&folder).unwrap();
    let mut manifests = Manifests::new(&folder, &topology).unwrap();
    manifests.put(balanced("LoadBalancer", &topology)).unwrap();
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let options = Options { further, ..Options::default() };
    let agent = Agent::start(&podway, &topology, NODE_NAMES[0], manifests.dir(), options).unwrap();
    let (node, router) = (topology.node(NODE_NAMES[0]).host(), topology.host("router"));
    let mut speakers = vec![start_bird(bird, router, dir.path(), ROUTER)];
    speakers.extend(start_on_node(node, dir.path()));
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| {
            let logs: Vec<String> = speakers.iter().map(Process::log).collect();
            panic!("{error}; the agent says:\n{}\nthe daemons say:\n{}", agent.log(), logs.join("\n---\n"))
        });
    };
    let routes = |host: &Host, table: &str| {
        let output = host.command("ip").args(["route", "show", "table", table]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let table = further[3];
    let is_learnt = || routes(router, "main").contains(&format!("{VIP} via 192.0.2.11 dev eth0 proto bird"));
    let to = SocketAddr::new(VIP.parse().unwrap(), 80);
    let ask = || ask_within(ANSWER_TIMEOUT, topology.client(), to, "shop.example", "/").is_ok();

    wait_for("the route on the router", &is_learnt);
    wait_for("an answer at the VIP", &ask);
    assert_eq!(routes(node, table).trim(), format!("blackhole {VIP} proto 112"));

    manifests.put(balanced("ClusterIP", &topology)).unwrap();
    wait_for("the end of the route", &|| !is_learnt());
    assert_eq!(routes(node, table), "");

    // What stays when an agent is killed is found by the next one, and goes with Podway.
    manifests.put(balanced("LoadBalancer", &topology)).unwrap();
    wait_for("the route once more", &is_learnt);
    let mut agent = agent;
    agent.kill();
    assert!(is_learnt(), "forwarding goes on, and so does the route");
    let run_dir = topology.run_dir(NODE_NAMES[0]);
    agent.podway(&["remove", "--run-dir", run_dir.to_str().unwrap()]).unwrap();
    wait_until(DEADLINE, "the end of the route with Podway", || !is_learnt()).unwrap();
}
