use crate::attach::{AttachedXdp, Bond, HookPoint, HookProgram, InterfaceFacts, PortRange};

use super::*;

/// An uplink `eth0` with native XDP of ours, and a pod's interface.
fn sound() -> Facts {
    let eth0 = InterfaceFacts {
        index: 2,
        name: "eth0".into(),
        is_up: true,
        mtu_bytes: 1_500,
        driver: Some("virtio_net".into()),
        xdp: Some(AttachedXdp::Native),
        xdp_programs: vec![40],
        xdp_features: Some(0x7),
        ..InterfaceFacts::default()
    };
    let pod = InterfaceFacts {
        index: 3,
        name: "cali1".into(),
        kind: Some("veth".into()),
        is_up: true,
        mtu_bytes: 1_450,
        ..InterfaceFacts::default()
    };
    let interface = |facts, role| Interface {
        facts,
        role: Some(role),
        rp_filter: Some(2),
        is_served: true,
        xdp_reason: None,
    };
    Facts {
        kernel_release: "6.12.4-amd64".into(),
        has_btf: true,
        jit: Some(1),
        pins: PinFacts {
            root: "/sys/fs/bpf/podway".into(),
            is_on_bpf_file_system: true,
            has_maps: true,
            other_layouts: Vec::new(),
        },
        cgroup: Some("/sys/fs/cgroup".into()),
        agent: AgentFacts { run_dir: "/run/podway".into(), is_there: true, problems: 0 },
        interfaces: vec![interface(eth0, Role::Uplink), interface(pod, Role::Pod)],
        programs: vec![
            program(HookPoint::Xdp, 40, "xdp_uplink"),
            program(HookPoint::TcxIngress, 41, "tc_uplink_in"),
        ],
        own_programs: [40, 41].into(),
        sysctls: Sysctls {
            ip_forward: Some(1),
            ipv6_forwarding: Some(1),
            rp_filter_all: Some(0),
            reverse_path_drops: Some(0),
        },
        config: Some(ConfigFacts { has_v6: true, ..ConfigFacts::default() }),
        local_ports: Some(PortRange { first: 32_768, last: 60_999 }),
        maps: vec![MapFacts { map: "FRONTENDS", entries: 89, entries_max: 100 }],
        ..Facts::default()
    }
}

fn program(point: HookPoint, program_id: u32, name: &str) -> HookProgram {
    HookProgram { interface: Some("eth0".into()), point, program_id, name: name.into() }
}

fn uplink(facts: &mut Facts) -> &mut Interface {
    &mut facts.interfaces[0]
}

/// What a check finds that is not ok: subject, result and what was seen.
fn found(check: &str, facts: &Facts) -> Vec<(String, Grade, String)> {
    examine(facts)
        .into_iter()
        .filter(|finding| finding.check == check && finding.result != Grade::Ok)
        .inspect(|finding| assert!(finding.remedy.is_some(), "{finding:?}"))
        .map(|finding| (finding.subject.unwrap_or_default(), finding.result, finding.seen))
        .collect()
}

/// That a sound node with one change has one finding of one check, and no other check finds anything more.
fn assert_alone(check: &str, change: impl FnOnce(&mut Facts), subject: &str, result: Grade, part: &str) {
    let mut facts = sound();
    change(&mut facts);
    let all: Vec<Finding> =
        examine(&facts).into_iter().filter(|finding| finding.result != Grade::Ok).collect();
    assert!(all.iter().all(|finding| finding.check == check), "{all:#?}");
    let found = found(check, &facts);
    assert!(
        matches!(&found[..], [(about, grade, seen)] if about == subject && *grade == result && seen.contains(part)),
        "{found:#?}"
    );
}

#[test]
fn on_a_sound_node_every_check_is_ok_and_says_so() {
    let findings = examine(&sound());
    assert!(findings.iter().all(|finding| finding.result == Grade::Ok), "{findings:#?}");
    for (check, _) in checks::ALL {
        assert!(findings.iter().any(|finding| finding.check == check), "{check} is silent");
    }
}

#[test]
fn checks_have_names_of_their_own() {
    for (index, (name, _)) in checks::ALL.iter().enumerate() {
        assert!(checks::ALL[..index].iter().all(|(other, _)| other != name), "{name}");
    }
}

#[test]
fn kernels_without_tcx_are_warned_of_and_older_ones_fail() {
    let kernel = |release: &str| {
        let facts = Facts { kernel_release: release.into(), ..sound() };
        found("kernel", &facts).first().map(|(_, result, _)| *result)
    };
    let releases = ["6.18.0", "6.6.1", "6.5.0-x", "6.1.0-13-amd64", "6.0.9", "5.15.0", "unknown"];
    let fail = Some(Grade::Fail);
    let expected = [None, None, Some(Grade::Warn), Some(Grade::Warn), fail, fail, fail];
    assert_eq!(releases.map(kernel), expected);
}

#[test]
fn what_the_agent_needs_to_start_is_missed() {
    use Grade::{Fail, Warn};
    assert_alone("btf", |facts| facts.has_btf = false, "", Warn, "/sys/kernel/btf/vmlinux");
    assert_alone("capabilities", |facts| facts.missing_capabilities = vec!["CAP_BPF"], "", Fail, "CAP_BPF");
    assert_alone("jit", |facts| facts.jit = Some(0), "", Warn, "bpf_jit_enable is 0");
    let off = |facts: &mut Facts| facts.pins.is_on_bpf_file_system = false;
    assert_alone("bpf-file-system", off, "", Fail, "/sys/fs/bpf/podway is not on");
    assert_alone("cgroup", |facts| facts.cgroup = None, "", Fail, "no cgroup2");
}

#[test]
fn a_sysctl_that_is_not_visible_is_no_fault() {
    let facts = Facts { jit: None, ..sound() };
    assert_eq!(found("jit", &facts), []);
}

#[test]
fn former_layouts_and_a_missing_agent_are_told() {
    use Grade::Warn;
    assert_alone("layout", |facts| facts.pins.other_layouts = vec![2], "", Warn, "/sys/fs/bpf/podway/v2");
    assert_alone("agent", |facts| facts.agent.is_there = false, "", Warn, "nothing follows the cluster");
    assert_alone("problems", |facts| facts.agent.problems = 3, "", Warn, "3 objects");
    let mut never = sound();
    never.agent.is_there = false;
    never.pins.has_maps = false;
    assert_eq!(found("agent", &never), []);
}

#[test]
fn uplinks_that_are_missing_or_down_fail() {
    use Grade::Fail;
    assert_alone(
        "uplinks",
        |facts| facts.missing_uplinks = vec!["eth9".into()],
        "eth9",
        Fail,
        "no such interface",
    );
    assert_alone("uplinks", |facts| uplink(facts).facts.is_up = false, "eth0", Fail, "it is down");
    let mut none = sound();
    none.interfaces.remove(0);
    assert_eq!(found("uplinks", &none).len(), 1);
}

#[test]
fn an_interface_of_a_bond_is_no_uplink() {
    let enslaved = |facts: &mut Facts| {
        uplink(facts).facts.master = Some(9);
        let bond = InterfaceFacts { index: 9, name: "bond0".into(), ..InterfaceFacts::default() };
        facts.interfaces.push(Interface { facts: bond, ..Interface::default() });
    };
    assert_alone("device", enslaved, "eth0", Grade::Warn, "it belongs to bond0");
}

#[test]
fn a_vlan_is_told_with_the_interface_below() {
    let vlan = |facts: &mut Facts| {
        uplink(facts).facts.kind = Some("vlan".into());
        uplink(facts).facts.lower = Some(3);
    };
    assert_alone("device", vlan, "eth0", Grade::Warn, "a VLAN on cali1");
}

#[test]
fn bonds_take_programs_by_their_mode_and_policy() {
    let bond = |mode, hash_policy| {
        let mut facts = sound();
        uplink(&mut facts).facts.bond = Some(Bond { mode, hash_policy });
        found("device", &facts).len()
    };
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|mode| bond(mode, 0)), [0, 0, 0, 1, 0, 1, 1]);
    assert_eq!(bond(4, 5), 1);
}

#[test]
fn the_mode_of_xdp_is_told_with_the_agents_reason() {
    let generic = |facts: &mut Facts| {
        uplink(facts).facts.xdp = Some(AttachedXdp::Generic);
        uplink(facts).xdp_reason = Some("the driver does not support it".into());
    };
    let part = "generic (virtio_net): the driver does not support it";
    assert_alone("xdp-mode", generic, "eth0", Grade::Warn, part);
    let off = |facts: &mut Facts| {
        uplink(facts).facts.xdp = None;
        facts.programs.remove(0);
    };
    assert_alone("xdp-mode", off, "eth0", Grade::Warn, "off, tc does all");
}

#[test]
fn before_an_agent_runs_the_drivers_features_tell_the_mode() {
    let mode = |features| {
        let mut facts = sound();
        facts.programs.clear();
        *uplink(&mut facts) = Interface {
            is_served: false,
            facts: InterfaceFacts { xdp: None, xdp_features: features, ..uplink(&mut sound()).facts.clone() },
            ..uplink(&mut sound()).clone()
        };
        found("xdp-mode", &facts).len()
    };
    assert_eq!([Some(7), Some(0), None].map(mode), [0, 1, 0]);
}

#[test]
fn an_mtu_that_is_too_small_for_ipv6_or_for_the_pods_is_seen() {
    assert_alone(
        "mtu",
        |facts| uplink(facts).facts.mtu_bytes = 1_279,
        "eth0",
        Grade::Fail,
        "IPv6 needs 1280",
    );
    assert_alone("mtu", |facts| uplink(facts).facts.mtu_bytes = 1_449, "eth0", Grade::Warn, "may have 1450");
    let dsr = |facts: &mut Facts| {
        facts.config = Some(ConfigFacts { has_v6: true, uses_dsr: true, ..ConfigFacts::default() });
    };
    assert_alone("mtu", dsr, "eth0", Grade::Warn, "may have 1530 with direct server return");
    let mut without_v6 = sound();
    without_v6.config = Some(ConfigFacts::default());
    uplink(&mut without_v6).facts.mtu_bytes = 1_279;
    without_v6.interfaces[1].facts.mtu_bytes = 1_000;
    assert_eq!(found("mtu", &without_v6), []);
}

#[test]
fn the_larger_value_of_rp_filter_counts() {
    let filter = |all, own| {
        let mut facts = sound();
        facts.sysctls.rp_filter_all = Some(all);
        uplink(&mut facts).rp_filter = Some(own);
        found("rp-filter", &facts).len()
    };
    assert_eq!([filter(0, 0), filter(0, 1), filter(1, 0), filter(2, 1), filter(1, 2)], [0, 1, 1, 0, 0]);
    let dropping = |facts: &mut Facts| {
        uplink(facts).rp_filter = Some(1);
        facts.sysctls.reverse_path_drops = Some(17);
    };
    assert_alone("rp-filter", dropping, "eth0", Grade::Warn, "17 packets have been dropped");
}

#[test]
fn forwarding_that_is_off_fails_for_the_families_in_use() {
    assert_alone(
        "ip-forward",
        |facts| facts.sysctls.ip_forward = Some(0),
        "ipv4",
        Grade::Fail,
        "ip_forward is 0",
    );
    let v6 = |facts: &mut Facts| facts.sysctls.ipv6_forwarding = Some(0);
    assert_alone("ip-forward", v6, "ipv6", Grade::Fail, "forwarding is 0");
    let mut unused = sound();
    unused.sysctls.ipv6_forwarding = Some(0);
    unused.config = Some(ConfigFacts::default());
    assert_eq!(found("ip-forward", &unused), []);
}

#[test]
fn ports_of_source_nat_that_sockets_get_fail() {
    let local = |facts: &mut Facts| facts.local_ports = Some(PortRange { first: 20_000, last: 60_999 });
    assert_alone("source-nat-ports", local, "", Grade::Fail, "11000-29999");
}

#[test]
fn programs_of_others_count_by_their_place() {
    let before = |facts: &mut Facts| facts.programs.insert(1, program(HookPoint::TcxIngress, 7, "policy"));
    assert_alone(
        "other-programs",
        before,
        "eth0",
        Grade::Warn,
        "program policy (id 7) at tcx-ingress, before",
    );
    let mut behind = sound();
    behind.programs.push(program(HookPoint::TcxIngress, 7, "policy"));
    behind.programs.push(program(HookPoint::ClsactEgress, 8, "limit"));
    assert_eq!(found("other-programs", &behind), []);
    let told = examine(&behind).into_iter().filter(|finding| finding.check == "other-programs").count();
    assert_eq!(told, 2, "they are told all the same");
}

#[test]
fn another_program_at_xdp_leaves_all_to_tc() {
    let mut facts = sound();
    facts.own_programs = [41].into();
    let [(subject, result, seen)] = &found("other-programs", &facts)[..] else { panic!("one finding") };
    assert_eq!((subject.as_str(), *result), ("eth0", Grade::Warn));
    assert!(seen.contains("tc does all"), "{seen}");
}

#[test]
fn ciliums_load_balancing_is_known_by_name() {
    let mut facts = sound();
    facts.programs.push(program(HookPoint::TcxIngress, 9, "cil_from_netdev"));
    assert_eq!(found("cilium", &facts).len(), 1);
}

#[test]
fn kube_proxy_running_or_left_behind_is_told_unless_it_serves_the_rest() {
    let rules = || vec!["table ip kube-proxy".to_owned()];
    let beside = ConfigFacts { has_v6: true, is_beside_proxy: true, ..ConfigFacts::default() };
    let runs = |facts: &mut Facts| facts.kube_proxy = KubeProxyFacts { processes: vec![12], rules: rules() };
    assert_alone("kube-proxy", runs, "", Grade::Warn, "runs (process 12)");
    let left = |facts: &mut Facts| facts.kube_proxy.rules = rules();
    assert_alone("kube-proxy", left, "", Grade::Warn, "still there: table ip kube-proxy");
    for processes in [vec![], vec![12]] {
        let kube_proxy = KubeProxyFacts { processes, rules: rules() };
        let facts = Facts { config: Some(beside), kube_proxy, ..sound() };
        assert_eq!(found("kube-proxy", &facts), []);
    }
}

#[test]
fn a_map_that_is_nearly_full_is_named_with_its_flag() {
    let full =
        |facts: &mut Facts| facts.maps.push(MapFacts { map: "AFFINITY", entries: 90, entries_max: 100 });
    assert_alone("map-pressure", full, "AFFINITY", Grade::Warn, "90 of 100 entries (90%)");
}

#[test]
fn drops_for_the_reverse_path_are_read_from_the_kernels_table() {
    let text = "TcpExt: SyncookiesSent IPReversePathFilter TW\nTcpExt: 1 42 3\nIpExt: InNoRoutes\nIpExt: 7\n";
    assert_eq!(facts::reverse_path_drops(text), Some(42));
    assert_eq!(facts::reverse_path_drops("IpExt: InNoRoutes\nIpExt: 7\n"), None);
}

#[test]
fn the_page_for_operators_lists_the_checks_in_their_order() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md"));
    let (_, table) = page.split_once("| check | what is looked at |").expect("a table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let listed: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(listed, checks::ALL.map(|(check, _)| check));
}
