//! Netns tier: stepping back leaves a node as it was.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::cluster::{TCP_PORT, service};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Manifests};
use lb_tests::need;
use lb_tests::topology::{Host, Topology};
use lb_tests::traffic::{Server, ask};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(10);

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All in which an agent could leave a trace on a node, by the command that lists it.
fn state(host: &Host) -> BTreeMap<String, String> {
    let cgroup = host.cgroup().to_str().unwrap();
    let lists: [&[&str]; 9] = [
        &["bpftool", "net", "show", "-j"],
        &["bpftool", "cgroup", "show", cgroup, "-j"],
        &["tc", "qdisc", "show"],
        &["ip", "-d", "-o", "link", "show"],
        &["ip", "-o", "address", "show"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "rule", "show"],
        &["nft", "list", "ruleset"],
    ];
    let mut state: BTreeMap<String, String> = lists
        .into_iter()
        .map(|list| (list.join(" "), output(host.command(list[0]).args(&list[1..]))))
        .collect();
    // The rest of what sysctl lists is counters and hashes.
    let sysctls = output(host.command("sysctl").args(["-a", "-e", "-r", "^net.ipv[46].conf"]));
    state.insert("sysctl".to_owned(), sysctls);
    state
}

/// A node before and under an agent.
struct Stage {
    before: BTreeMap<String, String>,
    agent: Agent,
    ids: Vec<[String; 2]>,
    topology: Topology,
    _server: Server,
    manifests: TempDir,
}

/// An agent that has forwarded, or `None` where the machine lacks a need.
fn stage(further: &'static [&'static str]) -> Option<Stage> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let dir = TempDir::with_prefix("podway-manifests-").unwrap();
    let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
    let web = service("web", 80).backed_by(topology.node("node-a"), topology.pod("web-a-1"));
    manifests.put(web).unwrap();
    let server = Server::start(topology.pod("web-a-1"), &[(Protocol::Tcp, TCP_PORT)]).unwrap();
    let before = state(topology.node("node-a").host());
    let options = Options { further, ..Options::default() };
    let agent = Agent::start(&podway, &topology, "node-a", dir.path(), options).unwrap();
    let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 80);
    wait_until(DEADLINE, "the Service to answer", || ask(topology.client(), Protocol::Tcp, to).is_ok())
        .unwrap();
    let ids = kernel_ids(&agent, &topology);
    assert!(ids.len() > 10 && ids.iter().all(is_in_kernel), "{ids:?}");
    assert_ne!(state(topology.node("node-a").host()), before);
    Some(Stage { before, agent, ids, topology, _server: server, manifests: dir })
}

/// The ids of the programs that are attached and of the maps that are pinned.
fn kernel_ids(agent: &Agent, topology: &Topology) -> Vec<[String; 2]> {
    let programs = agent.get("programs").unwrap();
    let programs = programs.as_array().unwrap().iter().map(|row| row["programId"].to_string());
    let mut ids: Vec<[String; 2]> = programs.map(|id| ["prog".to_owned(), id]).collect();
    let pins = output(Command::new("find").arg(topology.pins("node-a")).args(["-path", "*/maps/*"]));
    for pin in pins.lines() {
        let map = output(Command::new("bpftool").args(["map", "show", "pinned", pin, "-j"]));
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        ids.push(["map".to_owned(), map["id"].to_string()]);
    }
    ids
}

fn is_in_kernel(id: &[String; 2]) -> bool {
    Command::new("bpftool").args([&id[0], "show", "id", &id[1]]).output().unwrap().status.success()
}

impl Stage {
    fn remove(&self) -> anyhow::Result<String> {
        let run_dir = self.topology.run_dir("node-a");
        self.agent.podway(&["remove", "--run-dir", run_dir.to_str().unwrap()])
    }

    /// Nothing is left, as soon as the kernel has let go: it frees what nobody holds in its own time.
    fn assert_bare(&self) {
        let is_left = |id: &&[String; 2]| is_in_kernel(id);
        let waited =
            wait_until(DEADLINE, "programs and maps to be freed", || !self.ids.iter().any(is_in_kernel));
        waited.unwrap_or_else(|error| {
            panic!("{error}: {:?}", self.ids.iter().filter(is_left).collect::<Vec<_>>())
        });
        let after = state(self.topology.node("node-a").host());
        for (list, text) in &self.before {
            assert_eq!(&after[list], text, "{list}");
        }
        for left in [self.topology.pins("node-a"), self.topology.run_dir("node-a")] {
            assert!(!left.exists(), "{} is left", left.display());
        }
    }
}

#[test]
fn remove_leaves_nothing_behind_and_may_be_said_twice() {
    let Some(mut stage) = stage(&[]) else { return };
    stage.agent.kill();
    assert!(stage.remove().unwrap().starts_with("removed what was in "));
    stage.assert_bare();
    assert_eq!(stage.remove().unwrap(), "nothing to remove\n");
    stage.assert_bare();
}

#[test]
fn an_agent_that_detaches_on_exit_leaves_nothing_behind() {
    let Some(mut stage) = stage(&["--detach-on-exit"]) else { return };
    let id = Pid::from_raw(stage.agent.process().id() as i32).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    wait_until(DEADLINE, "the agent to end", || !stage.agent.process().is_running()).unwrap();
    stage.assert_bare();
}

#[test]
fn remove_refuses_while_an_agent_runs() {
    let Some(mut stage) = stage(&[]) else { return };
    let told = stage.remove().unwrap_err().to_string();
    let id = stage.agent.process().id();
    assert!(told.contains(&format!("the agent with process id {id} does; stop it")), "{told}");
    let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 80);
    ask(stage.topology.client(), Protocol::Tcp, to).unwrap();
}

#[test]
fn a_second_agent_refuses_and_names_the_first() {
    let Some(mut stage) = stage(&[]) else { return };
    let pins = stage.topology.pins("node-a");
    let arguments = ["agent", "--node-name", "node-a", "--uplink", "eth0", "--no-socket-hooks", "--pin-path"];
    let mut second = stage.topology.node("node-a").host().command(need::netns().unwrap().podway);
    let second = second.args(arguments).arg(&pins).arg("--manifests").arg(stage.manifests.path());
    let output = second.args(["--metrics-address", ""]).output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let id = stage.agent.process().id();
    let expected = format!(
        "cannot manage the pins in {}: the agent with process id {id} does; stop it or give another --pin-path",
        pins.display()
    );
    assert!(told.contains(&expected), "{told}");
    ask(stage.topology.client(), Protocol::Tcp, SocketAddr::new(LOAD_BALANCER_IPS[0], 80)).unwrap();
    stage.agent.verify().unwrap();
}

#[test]
fn pins_of_an_older_layout_go_too() {
    let Some(mut stage) = stage(&[]) else { return };
    let older = stage.topology.pins("node-a").join("v1").join("maps");
    std::fs::create_dir_all(older).unwrap();
    stage.agent.kill();
    stage.remove().unwrap();
    stage.assert_bare();
}
