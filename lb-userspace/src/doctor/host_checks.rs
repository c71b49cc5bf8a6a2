//! Checks of the node as a whole.
use super::facts::MapFacts;
use super::{Facts, Said};
use crate::kernel_release;

/// The oldest kernel that tests run on, and the first with tcx links.
const KERNEL_MIN: (u32, u32) = (6, 1);
const KERNEL_TCX: (u32, u32) = (6, 6);
/// Percent of a map's bound from which on it is worth a look, as the agent's own warning has it.
const PRESSURE_PERCENT: u64 = 90;
/// `bpf_jit_enable`: programs are interpreted. With 1 and 2 they are compiled.
const JIT_OFF: u32 = 0;

pub(super) fn kernel(facts: &Facts) -> Vec<Said> {
    let release = &facts.kernel_release;
    let said = match kernel_release::version(release) {
        Some(found) if found >= KERNEL_TCX => Said::ok(format!("Linux {release}")),
        Some(found) if found >= KERNEL_MIN => Said::warn(
            format!("Linux {release} has no tcx links: tc programs are filters of clsact"),
            "use Linux 6.6 or newer; until then, let nothing delete the qdisc clsact of a served interface",
        ),
        _ => Said::fail(format!("Linux {release}"), "use Linux 6.1 or newer, better 6.6"),
    };
    vec![said]
}

pub(super) fn btf(facts: &Facts) -> Vec<Said> {
    vec![match facts.has_btf {
        true => Said::ok("the kernel describes its types"),
        false => Said::warn(
            "/sys/kernel/btf/vmlinux is not there",
            "use a kernel with CONFIG_DEBUG_INFO_BTF: without it, maps of flows may be refused",
        ),
    }]
}

pub(super) fn capabilities(facts: &Facts) -> Vec<Said> {
    vec![match &facts.missing_capabilities[..] {
        [] => Said::ok("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        missing => Said::fail(
            format!("this process lacks {}", missing.join(", ")),
            "run as root outside a container, or give the capabilities (in Kubernetes: \
             securityContext.capabilities.add)",
        ),
    }]
}

pub(super) fn jit(facts: &Facts) -> Vec<Said> {
    vec![match facts.jit {
        Some(JIT_OFF) => Said::warn(
            "net.core.bpf_jit_enable is 0: programs are interpreted, at many times the cost",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Said::ok("programs are compiled"),
        // The sysctl is the first network namespace's alone.
        None => Said::ok("not visible from this network namespace"),
    }]
}

pub(super) fn bpf_file_system(facts: &Facts) -> Vec<Said> {
    let root = facts.pins.root.display();
    vec![match facts.pins.is_on_bpf_file_system {
        true => Said::ok(format!("{root}")),
        false => Said::fail(
            format!("{root} is not on a BPF file system"),
            "mount -t bpf bpf /sys/fs/bpf, or give another --pin-path; `ip netns exec` hides the mount: use \
             `nsenter --net=`",
        ),
    }]
}

pub(super) fn cgroup(facts: &Facts) -> Vec<Said> {
    vec![match &facts.cgroup {
        Some(path) => Said::ok(format!("{}", path.display())),
        None => Said::fail(
            "no cgroup2 file system is mounted: socket hooks have no place",
            "mount -t cgroup2 none /sys/fs/cgroup, or run the agent with --no-socket-hooks",
        ),
    }]
}

pub(super) fn layout(facts: &Facts) -> Vec<Said> {
    let paths: Vec<String> = facts
        .pins
        .other_layouts
        .iter()
        .map(|version| format!("{}/v{version}", facts.pins.root.display()))
        .collect();
    vec![match &paths[..] {
        [] => Said::ok("no maps of another version's layout"),
        _ => Said::warn(
            format!("maps of another version's layout: {}", paths.join(", ")),
            format!("once no agent of that version runs: rm -r {}", paths.join(" ")),
        ),
    }]
}

pub(super) fn agent(facts: &Facts) -> Vec<Said> {
    let run_dir = facts.agent.run_dir.display();
    vec![match (facts.pins.has_maps, facts.agent.is_there) {
        (_, true) => Said::ok(format!("one answers in {run_dir}")),
        (true, false) => Said::warn(
            format!(
                "none answers in {run_dir}: packets go on by what is in the maps, and nothing follows the cluster"
            ),
            "start the agent, or give its --run-dir; `podway remove` steps back",
        ),
        (false, false) => Said::ok("none has run here"),
    }]
}

pub(super) fn problems(facts: &Facts) -> Vec<Said> {
    vec![match facts.agent.problems {
        0 => Said::ok("the agent can use all objects"),
        count => Said::warn(
            format!("the agent cannot use {count} objects in full"),
            format!("see {}/problems-*.json: each entry has its remedy", facts.agent.run_dir.display()),
        ),
    }]
}

pub(super) fn ip_forward(facts: &Facts) -> Vec<Said> {
    let of = |name: &str, value: Option<u32>, is_used: bool| match value {
        Some(0) if is_used => Said::fail(
            format!("{name} is 0: the kernel drops what is for pods of this node and for other nodes"),
            format!("sysctl -w {name}=1, and a file in /etc/sysctl.d"),
        ),
        Some(value) => Said::ok(format!("{name} is {value}")),
        None => Said::ok(format!("{name} is not there")),
    };
    let has_v6 = facts.config.as_ref().is_none_or(|config| config.has_v6);
    vec![
        of("net.ipv4.ip_forward", facts.sysctls.ip_forward, true).of("ipv4"),
        of("net.ipv6.conf.all.forwarding", facts.sysctls.ipv6_forwarding, has_v6).of("ipv6"),
    ]
}

pub(super) fn source_nat_ports(facts: &Facts) -> Vec<Said> {
    let ports = facts.config.as_ref().map(|config| config.snat_ports).unwrap_or_default();
    vec![match facts.local_ports {
        Some(local) if ports.overlaps(local) => Said::fail(
            format!("source NAT takes {ports}, and sockets of this node get {local}: flows would meet"),
            format!("give --snat-ports a range outside of {local}, or change net.ipv4.ip_local_port_range"),
        ),
        Some(local) => Said::ok(format!("source NAT takes {ports}, sockets of this node get {local}")),
        None => Said::ok(format!("source NAT takes {ports}")),
    }]
}

pub(super) fn kube_proxy(facts: &Facts) -> Vec<Said> {
    let seen = &facts.kube_proxy;
    let is_beside = facts.config.as_ref().is_some_and(|config| config.is_beside_proxy);
    let rules = seen.rules.join(", ");
    let pids: Vec<String> = seen.processes.iter().map(ToString::to_string).collect();
    vec![match (seen.processes.is_empty(), seen.rules.is_empty()) {
        (true, true) => Said::ok("no process of that name and no rules of it"),
        (false, _) if is_beside => Said::ok(format!(
            "runs (process {}), and the agent serves chosen Services beside it",
            pids.join(", ")
        )),
        (false, _) => Said::warn(
            format!("runs (process {}): both serve the same Services", pids.join(", ")),
            "give the agent --only-service or --service-selector, or end kube-proxy (docs/migrate.md)",
        ),
        (true, false) if is_beside => {
            Said::ok(format!("rules are there ({rules}), and the agent leaves it Services"))
        }
        (true, false) => Said::warn(
            format!("no process is seen, and its rules are still there: {rules}"),
            "run `kube-proxy --cleanup`, or `nft delete table ip kube-proxy; nft delete table ip6 kube-proxy`; \
             where it runs in another process namespace, see docs/migrate.md",
        ),
    }]
}

pub(super) fn map_pressure(facts: &Facts) -> Vec<Said> {
    let full = facts.maps.iter().filter(|place| percent(place) >= PRESSURE_PERCENT);
    let mut said: Vec<Said> = full
        .map(|place| {
            Said::warn(
                format!("{} of {} entries ({}%)", place.entries, place.entries_max, percent(place)),
                format!("start the agent with a larger {}", flag(place.map)),
            )
            .of(place.map)
        })
        .collect();
    if said.is_empty() {
        said.push(Said::ok(format!(
            "{} maps are below {PRESSURE_PERCENT}% of their bounds",
            facts.maps.len()
        )));
    }
    said
}

fn percent(place: &MapFacts) -> u64 {
    place.entries * 100 / place.entries_max.max(1)
}

/// The agent's flag for a map's bound.
fn flag(map: &str) -> &'static str {
    use lb_common::maps;
    match map {
        maps::FRONTENDS => "--frontends-max",
        maps::BACKEND_SERVICES => "--backend-services-max",
        maps::ENDPOINTS => "--endpoints-max",
        maps::CONNTRACK => "--conntrack-limit",
        maps::AFFINITY => "--affinity-max",
        maps::SOCKET_FLOWS => "--socket-flows-max",
        maps::SOURCE_RANGES => "--source-ranges-max",
        _ => "bound, where it has a flag (`podway agent --help`)",
    }
}
