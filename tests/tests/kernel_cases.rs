//! Kernel tier: the packets of `cases/service-flows.jsonl` through the programs, on maps that plan, diff
//! and maps have filled. Endpoint and source are read from the bytes of the frame afterwards.
use std::collections::BTreeSet;
use std::sync::Arc;

use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use clap::Parser;
use lb_common::counters::Reason;
use lb_ebpf::host::HostFrame;
use lb_tests::cases::{Hook, Packet, Story, listed_differences, stories};
use lb_tests::footprint::Footprint;
use lb_tests::kernel::{Kernel, Run, XDP};
use lb_tests::need;
use lb_tests::netns::{self, Namespace};
use lb_tests::packet::build::tcp_flags::RST;
use lb_userspace::agent::NodeFlags;
use lb_userspace::attach::PortRange;
use lb_userspace::diff::{self, Limits};
use lb_userspace::explain::{self, frame};
use lb_userspace::maps::{Maps, Object, Pins, Sizes, load};
use lb_userspace::plan::{ReadinessAlone, plan};
use lb_userspace::source::files;

/// Index of the uplink.
const UPLINK: u32 = 12;

/// Where the pods' packets come in; any other index than the uplink's.
const POD: u32 = 1;

/// Ports by which every endpoint is chosen once. Each packet of a story has as many of its own.
const SOURCE_PORTS_MAX: u16 = 32;

/// The first port that a client uses.
const SOURCE_PORT: u16 = 2_000;

/// The way out: every address has a route to a neighbour whose Ethernet address is known.
const NETWORK: &str = "
link set lo up
link add eth0 index 12 type veth peer name eth1
link set eth0 up
link set eth1 up
addr add 198.18.0.1/24 dev eth0
addr add 2001:db8:ffff::1/64 dev eth0 nodad
neigh add 198.18.0.2 lladdr 02:00:00:00:00:02 dev eth0
neigh add 2001:db8:ffff::2 lladdr 02:00:00:00:00:02 dev eth0
route add default via 198.18.0.2
route add default via 2001:db8:ffff::2
";

/// The programs on maps of their own, in a namespace of their own.
struct Bench {
    kernel: Kernel,
    maps: Maps,
    namespace: Namespace,
    _footprint: Footprint,
}

#[derive(Parser)]
struct Node {
    #[arg(long)]
    node_name: String,
    #[command(flatten)]
    flags: NodeFlags,
}

impl Bench {
    fn new() -> Option<Self> {
        let object = Object::File(need::kernel()?.ebpf_object);
        let footprint = Footprint::new().unwrap();
        let name = footprint.namespace("cases");
        netns::ip_batch(&[], &format!("netns add {name}\n")).unwrap();
        let namespace = Namespace::open(&name).unwrap();
        namespace.ip_batch(NETWORK).unwrap();
        namespace.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        let pins = Pins::new(&footprint.pins("cases"));
        let sizes =
            Sizes { limits: Limits { ring_slots_max: 65_536, ..Limits::default() }, ..Sizes::default() };
        let (ebpf, maps) = load(&object, &pins, &sizes).unwrap();
        let mut kernel = Kernel::of(ebpf).unwrap();
        let xdp: &mut Xdp = kernel.ebpf_mut().program_mut(XDP).unwrap().try_into().unwrap();
        namespace.run(|| xdp.attach("eth0", XdpMode::Driver).unwrap()).unwrap();
        Some(Self { kernel, maps, namespace, _footprint: footprint })
    }

    /// Brings the maps from one story to the next.
    fn tell(&mut self, story: &Story) {
        let folder = tempfile::tempdir().unwrap();
        story.write(folder.path()).unwrap();
        let (snapshot, problems) = files::read_once(folder.path()).unwrap();
        assert_eq!(problems, [], "{}", story.story);
        let arguments = std::iter::once("node".to_owned()).chain(story.node_flags());
        let Node { node_name, flags } = Node::parse_from(arguments);
        let node = flags.context(Arc::from(node_name), None);
        let desired = plan(&snapshot, &node, &ReadinessAlone);
        let mut tables = self.maps.tables().unwrap();
        let diff = diff::full(&desired, &tables, 0);
        for op in &diff.ops {
            self.maps.apply(op).unwrap();
            tables.apply(op, 0);
        }
        assert_eq!(self.maps.tables().unwrap().check(), [], "{}", story.story);
        let config = flags.config(&node.addresses, &snapshot, PortRange::default(), 1);
        self.maps.put_config(&config).unwrap();
    }

    /// The program that a packet meets first, and what it does.
    fn run(&self, program: &str, frame: &[u8]) -> Run {
        let kernel = &self.kernel;
        let run = || match program {
            XDP => kernel.run_xdp(frame, UPLINK),
            "tc_uplink_in" => kernel.run_tc(program, frame, UPLINK, UPLINK),
            "tc_pod_in" => kernel.run_tc(program, frame, POD, POD),
            _ => kernel.run_tc(program, frame, UPLINK, 0),
        };
        self.namespace.run(run).unwrap().unwrap()
    }
}

/// What a program did, in the words of the cases.
#[derive(Debug)]
struct Outcome {
    verdict: &'static str,
    endpoint: Option<String>,
    source_nat: bool,
}

fn outcome(bench: &Bench, program: &str, story: &Story, packet: &Packet, source_port: u16) -> Outcome {
    let (_, question) = packet.question(&story.node, source_port);
    let before = frame::first_packet(&question);
    let Run { code, frame: after } = bench.run(program, &before);
    let verdict = verdict(program, code, &before, &after);
    let reason = if verdict == "forward" { Reason::ForwardNew } else { Reason::PassNotOurs };
    let run = explain::run_of(&question, reason, &HostFrame(after));
    Outcome {
        verdict,
        endpoint: run.endpoint.map(|endpoint| endpoint.to_string()),
        source_nat: run.source_nat.is_some(),
    }
}

/// XDP_DROP is 1, TC_ACT_SHOT 2; a frame that has become ICMP or a reset is an answer.
fn verdict(program: &str, code: u32, before: &[u8], after: &[u8]) -> &'static str {
    let drop_code = if program == XDP { 1 } else { 2 };
    let (protocol, transport) = if after[12..14] == [0x08, 0] { (after[23], 34) } else { (after[20], 54) };
    match protocol {
        _ if code == drop_code => "drop",
        1 | 58 => "refuse",
        6 if after[transport + 13] & RST != 0 => "refuse",
        _ if before == after => "pass",
        _ => "forward",
    }
}

fn programs(hook: Hook) -> &'static [&'static str] {
    match hook {
        Hook::Uplink => &[XDP, "tc_uplink_in"],
        Hook::Pod => &["tc_pod_in"],
        Hook::Node => &["tc_egress"],
    }
}

/// What is wrong with what a program does with a packet, from several ports of the client until every
/// candidate was chosen.
fn faults(
    bench: &Bench,
    program: &str,
    story: &Story,
    packet: &Packet,
    ports: std::ops::Range<u16>,
) -> Vec<String> {
    let expected = packet.expected();
    let is_listed = listed_differences().contains(&(story.story.clone(), packet.name.clone()));
    let mut missing: BTreeSet<String> = expected.candidates.iter().cloned().collect();
    let mut faults = Vec::new();
    for port in ports {
        let outcome = outcome(bench, program, story, packet, port);
        let is_right = outcome.verdict == expected.verdict
            && outcome.endpoint.iter().all(|endpoint| expected.candidates.contains(endpoint))
            && (outcome.source_nat == packet.source_nat || is_listed);
        if !is_right {
            faults
                .push(format!("{}: {}: {program}: {outcome:?}, not {expected:?}", story.story, packet.name));
        }
        missing.remove(outcome.endpoint.as_deref().unwrap_or_default());
        if missing.is_empty() || !is_right {
            return faults;
        }
    }
    faults.push(format!("{}: {}: {program}: {missing:?} are never chosen", story.story, packet.name));
    faults
}

#[test]
fn programs_do_with_every_packet_what_kube_proxy_does() {
    let Some(mut bench) = Bench::new() else { return };
    let mut found = Vec::new();
    let mut port = SOURCE_PORT;
    for story in stories().unwrap() {
        bench.tell(&story);
        for packet in &story.packets {
            let (hook, _) = packet.question(&story.node, port);
            for program in programs(hook) {
                // Nobody's flow before: stories share addresses.
                let ports = port..port + SOURCE_PORTS_MAX;
                port += SOURCE_PORTS_MAX;
                found.extend(faults(&bench, program, &story, packet, ports));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}
