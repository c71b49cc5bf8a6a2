//! Netns tier: `podway doctor` sees real faults of a node, and sees when they are mended.
use std::process::Command;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::topology::{Host, Topology};
use lb_tests::{foreign, need};
use serde_json::Value;

/// What a command of the diagnosis wrote, and whether it ended well.
struct Told {
    findings: Vec<Value>,
    is_success: bool,
}

fn told(mut command: Command) -> Told {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let findings = serde_json::from_str(&text);
    let findings = findings.unwrap_or_else(|error| panic!("{error}: {text}{:?}", output.stderr));
    Told { findings, is_success: output.status.success() }
}

impl Told {
    /// What a check found about a subject that is not ok, as its result and what was seen.
    fn of(&self, check: &str, subject: &str) -> Option<(&str, &str)> {
        let is_about = |finding: &&Value| {
            finding["check"] == check
                && finding["subject"].as_str().unwrap_or("") == subject
                && finding["result"] != "ok"
        };
        let finding = self.findings.iter().find(is_about)?;
        assert!(finding["remedy"].is_string(), "{finding}");
        Some((finding["result"].as_str()?, finding["seen"].as_str()?))
    }
}

/// A node without an agent, or `None` where the machine lacks a need.
struct Bare {
    topology: Topology,
    podway: std::path::PathBuf,
}

impl Bare {
    fn start() -> Option<Self> {
        let need = need::netns()?;
        Some(Self { topology: Topology::two_nodes(1).unwrap(), podway: need.podway })
    }

    fn node(&self) -> &Host {
        self.topology.node("node-a").host()
    }

    fn told(&self) -> Told {
        let mut command = self.node().command(&self.podway);
        command.args(["doctor", "--json", "--uplink", "eth0", "--pod-interface", "vethpod*"]);
        command.arg("--pin-path").arg(self.topology.pins("node-a"));
        command.arg("--run-dir").arg(self.topology.run_dir("node-a"));
        command.arg("--cgroup").arg(self.node().cgroup());
        told(command)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.node().command(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn sysctls_that_stand_in_the_way_are_seen_and_no_more_once_they_are_mended() {
    let Some(bare) = Bare::start() else { return };
    let sound = bare.told();
    assert!(sound.is_success, "{:#?}", sound.findings);
    let sysctls =
        [("ipv4/conf/eth0/rp_filter", "1"), ("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")];
    bare.node().namespace().set_sysctls(&sysctls).unwrap();
    let faulty = bare.told();
    assert!(!faulty.is_success);
    assert_eq!(faulty.of("rp-filter", "eth0").map(|(result, _)| result), Some("warn"));
    assert_eq!(faulty.of("ip-forward", "ipv4").map(|(result, _)| result), Some("fail"));
    assert_eq!(faulty.of("ip-forward", "ipv6").map(|(result, _)| result), Some("fail"));
    let sysctls =
        [("ipv4/conf/eth0/rp_filter", "0"), ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
    bare.node().namespace().set_sysctls(&sysctls).unwrap();
    let mended = bare.told();
    assert!(mended.is_success, "{:#?}", mended.findings);
    assert_eq!([mended.of("rp-filter", "eth0"), mended.of("ip-forward", "ipv4")], [None, None]);
}

#[test]
fn mtu_and_state_of_the_uplink_are_seen() {
    let Some(bare) = Bare::start() else { return };
    let ip = |arguments: &[&str]| bare.run("ip", arguments);
    ip(&["link", "set", "eth0", "mtu", "1400"]);
    let small = bare.told();
    let (result, seen) = small.of("mtu", "eth0").unwrap();
    assert_eq!((result, seen.starts_with("1400 bytes")), ("warn", true), "{seen}");
    ip(&["link", "set", "eth0", "mtu", "1500"]);
    assert_eq!(bare.told().of("mtu", "eth0"), None);
    ip(&["link", "set", "eth0", "down"]);
    let down = bare.told();
    assert_eq!(down.of("uplinks", "eth0"), Some(("fail", "it is down")));
    assert!(!down.is_success);
    ip(&["link", "set", "eth0", "up"]);
    assert!(bare.told().is_success);
}

#[test]
fn programs_of_others_are_seen_by_name_and_gone_with_them() {
    let Some(bare) = Bare::start() else { return };
    let namespace = bare.node().namespace();
    assert_eq!(bare.told().of("other-programs", "eth0"), None);
    let tcx = foreign::attach_tcx(namespace, "eth0").unwrap();
    let told = bare.told();
    let (result, seen) = told.of("other-programs", "eth0").unwrap();
    assert_eq!(
        (result, seen.contains(foreign::CLASSIFIER), seen.contains("tcx-ingress")),
        ("warn", true, true)
    );
    drop(tcx);
    let xdp = foreign::attach_xdp(namespace, "eth0").unwrap();
    let told = bare.told();
    let (_, seen) = told.of("other-programs", "eth0").unwrap();
    assert!(seen.contains(foreign::XDP) && seen.contains("at xdp"), "{seen}");
    drop(xdp);
    assert_eq!(bare.told().of("other-programs", "eth0"), None);
}

#[test]
fn what_kube_proxy_has_left_is_seen_in_nftables_and_in_iptables() {
    let Some(bare) = Bare::start() else { return };
    let nft = |arguments: &[&str]| bare.run("nft", arguments);
    assert_eq!(bare.told().of("kube-proxy", ""), None);
    nft(&["add", "table", "ip6", "kube-proxy"]);
    let told = bare.told();
    assert!(told.of("kube-proxy", "").unwrap().1.ends_with("still there: table ip6 kube-proxy"));
    nft(&["delete", "table", "ip6", "kube-proxy"]);
    nft(&["add", "table", "ip", "nat"]);
    nft(&["add", "chain", "ip", "nat", "KUBE-SERVICES"]);
    let told = bare.told();
    assert!(told.of("kube-proxy", "").unwrap().1.ends_with("chain KUBE-SERVICES in table ip nat"));
    nft(&["delete", "table", "ip", "nat"]);
    assert_eq!(bare.told().of("kube-proxy", ""), None);
}

#[test]
fn beside_an_agent_its_own_programs_are_no_others_and_its_mode_has_the_reason() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let cluster = Cluster::start(
        &podway,
        Options { xdp_mode: lb_tests::agent::XdpMode::Generic, ..Options::default() },
    )
    .unwrap();
    let node = cluster.topology.node("node-a").host();
    let doctor = || {
        let mut command = node.command(&podway.binary);
        command.args(["doctor", "--json", "--pin-path"]).arg(cluster.topology.pins("node-a"));
        command.arg("--run-dir").arg(cluster.topology.run_dir("node-a"));
        command.arg("--cgroup").arg(node.cgroup());
        told(command)
    };
    let before = doctor();
    assert!(before.is_success, "{:#?}", before.findings);
    assert_eq!(before.of("other-programs", "eth0"), None);
    assert_eq!(before.of("agent", ""), None);
    let (result, seen) = before.of("xdp-mode", "eth0").unwrap();
    assert_eq!((result, seen), ("warn", "generic (veth): chosen with --xdp-mode"));
    let first = foreign::attach_tcx(node.namespace(), "eth0").unwrap();
    let told = doctor();
    assert!(told.of("other-programs", "eth0").unwrap().1.contains("before Podway's"));
    drop(first);
    assert_eq!(doctor().of("other-programs", "eth0"), None);
}
