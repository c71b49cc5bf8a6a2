//! What is measured: which packets, by which program, at how many flows and Services.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_common::Address;
use lb_common::bench::{FRAME_BYTES, PORT_FIRST};
use lb_common::counters::Reason;
use lb_tests::bench::data::Parameter;
use lb_tests::kernel::XDP;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::world;

use crate::Loaded;
use crate::harness::Harness;
use lb_tests::bench::services::{
    AFFINITY, DSR, ENDPOINT_PORT, LOCAL, ONE_LOCAL, ONE_REMOTE, REMOTE, endpoint_address,
};

/// Established flows beside the floor.
pub(crate) const BY_FLOWS: &str = "XDP, by live flows";
/// Every kind of packet at every hook.
pub(crate) const BY_KIND: &str = "Kinds of packets, 1,000 live flows";
/// The same packets beside more Services.
pub(crate) const BY_SERVICES: &str = "By Services, 65,536 live flows";

/// Flows where their number is not what is looked at.
const FLOWS: u32 = 1_000;
/// Flows where the number of Services is.
const FLOWS_BY_SERVICES: u32 = 65_536;
/// New flows of a round where they take ports of the source NAT.
const SOURCE_NAT_PACKETS: u32 = 20_000;

/// Some Services in a kernel's maps.
pub(crate) struct Setup {
    pub(crate) services: u32,
    pub(crate) conntrack_max: u32,
}

/// How much is measured.
pub(crate) struct Sizes {
    pub(crate) setups: Vec<Setup>,
    /// Live flows, each with the setup whose CONNTRACK holds them.
    pub(crate) flows: Vec<(u32, usize)>,
    /// The setups that differ in their Services.
    pub(crate) by_services: Vec<usize>,
    /// The setup for new flows, which would push the established ones out of CONNTRACK.
    pub(crate) new_flows: usize,
    pub(crate) rounds: u32,
    /// Packets of a run, if its flows are not more.
    pub(crate) packets: u32,
}

const fn setup(services: u32, conntrack_bits: u32) -> Setup {
    Setup { services, conntrack_max: 1 << conntrack_bits }
}

impl Sizes {
    pub(crate) fn whole() -> Self {
        Self {
            setups: vec![setup(1, 19), setup(1_000, 19), setup(10_000, 19), setup(1, 23), setup(1, 19)],
            flows: vec![(1, 0), (10, 0), (1_000, 0), (65_536, 0), (1_000_000, 3)],
            by_services: vec![0, 1, 2],
            new_flows: 4,
            rounds: 9,
            packets: 200_000,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            setups: vec![setup(1, 19), setup(10_000, 19), setup(1, 19)],
            flows: vec![(10, 0), (1_000, 0), (65_536, 0)],
            by_services: vec![0, 1],
            new_flows: 2,
            rounds: 3,
            packets: 50_000,
        }
    }

    /// The most live flows of a setup.
    pub(crate) fn flows_max(&self, setup: usize) -> u32 {
        let flows = self.flows.iter().filter(|(_, own)| *own == setup).map(|(flows, _)| *flows);
        flows.max().unwrap_or_default()
    }
}

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// One of Podway's, in the kernel with this number, and what it counts the packets as.
    Podway { name: &'static str, setup: usize, reason: Reason },
    /// One of the floors, with as large a table as the kernel with this number has, and what it returns.
    Floor { name: &'static str, setup: usize, code: u32 },
}

/// One line of the results.
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    /// IPv4 or IPv6.
    pub(crate) family: &'static str,
    pub(crate) program: Program,
    pub(crate) frame: [u8; FRAME_BYTES],
    /// Offsets of the last word of the address and of the port that flows differ in.
    pub(crate) offsets: [u32; 2],
    /// The word of the first flow, host order.
    pub(crate) address_first: u32,
    /// The flows' ports, where they follow no rule.
    pub(crate) ports: Vec<u32>,
    /// Live flows; [`NEW`] where each packet begins one.
    pub(crate) flows: u32,
    /// Packets of a run, where they are not as many as in other ones.
    pub(crate) packets: Option<u32>,
    /// Services in the tables, where they are what is looked at.
    pub(crate) services: Option<u32>,
}

/// Flows without an end.
pub(crate) const NEW: u32 = u32::MAX;

impl Case {
    pub(crate) fn is_new(&self) -> bool {
        self.flows == NEW
    }

    /// What the row is told by.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, Parameter)> {
        let hook = match self.program {
            Program::Podway { name, .. } => name,
            Program::Floor { .. } => "floor",
        };
        match self.group {
            BY_FLOWS => vec![("family", self.family.into()), ("flows", self.flows.into())],
            BY_SERVICES => {
                vec![("program", hook.into()), ("Services", self.services.unwrap_or_default().into())]
            }
            _ => vec![("family", self.family.into()), ("program", hook.into())],
        }
    }
}

/// The ends of a kind of packet.
#[derive(Clone, Copy)]
enum Ends {
    /// From many clients to a port of the VIP.
    ToVip(u16),
    /// From many clients to an address that is not ours.
    Elsewhere,
    /// From the one endpoint of a Service to many clients.
    ToClients(u16),
    /// From the one endpoint of a Service to many ports of this node.
    ToNode(u16),
}

/// A family's name.
pub(crate) const V4: &str = "IPv4";
/// A family's name.
pub(crate) const V6: &str = "IPv6";
const FAMILIES: [&str; 2] = [V4, V6];

/// A packet of a known flow to an endpoint of this node.
pub(crate) const ESTABLISHED: &str = "established TCP";
/// The first packet of a flow to an endpoint of this node.
pub(crate) const NEW_FLOW: &str = "new TCP flow";
/// A packet to an address that no Service has.
pub(crate) const NOT_OURS: &str = "not ours, TCP";
/// The floor that packets that are not ours are held against.
pub(crate) const FLOOR_LOOKUP: &str = "floor: parse, lookup";
/// The floor that established flows are held against.
pub(crate) const FLOOR_FORWARD: &str = "floor: parse, lookup, rewrite, transmit";
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
/// The floors: label, program, what it returns, families for which it is measured.
const FLOORS: [(&str, &str, u32, &[&str]); 5] = [
    ("floor: empty program", "floor_empty", XDP_PASS, &[V4]),
    ("floor: parse", "floor_parse", XDP_PASS, &[V4]),
    (FLOOR_LOOKUP, "floor_lookup", XDP_PASS, &[V4]),
    (FLOOR_FORWARD, "floor_forward", XDP_TX, &FAMILIES),
    ("floor: parse, lookup, FIB, rewrite, transmit", "floor_route", XDP_TX, &FAMILIES),
];

/// The first of the clients.
pub(crate) fn client(is_v4: bool) -> IpAddr {
    match is_v4 {
        true => [10, 128, 0, 0].into(),
        false => [0x2001, 0xdb8, 9, 0, 0, 0, 0xa80, 0].into(),
    }
}

fn case(
    group: &'static str,
    name: &str,
    family: &'static str,
    program: Program,
    ends: Ends,
    build: Build,
) -> Case {
    let is_v4 = family == V4;
    let first = PORT_FIRST;
    let (vip, node) = if is_v4 { (world::VIP_V4, world::NODE_V4) } else { (world::VIP_V6, world::NODE_V6) };
    let elsewhere: IpAddr =
        if is_v4 { [203, 0, 113, 9].into() } else { [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 9].into() };
    let client = client(is_v4);
    let (source, destination): (SocketAddr, SocketAddr) = match ends {
        Ends::ToVip(port) => ((client, first).into(), (vip, port).into()),
        Ends::Elsewhere => ((client, first).into(), (elsewhere, 443).into()),
        Ends::ToClients(port) => {
            ((endpoint_address(port, 0, is_v4), ENDPOINT_PORT).into(), (client, first).into())
        }
        Ends::ToNode(port) => {
            ((endpoint_address(port, 0, is_v4), ENDPOINT_PORT).into(), (node, first).into())
        }
    };
    let is_reply = matches!(ends, Ends::ToClients(_) | Ends::ToNode(_));
    let varied = if is_reply { destination.ip() } else { source.ip() };
    let packet = build(source, destination).build();
    let mut frame = [0; FRAME_BYTES];
    frame[..packet.len()].copy_from_slice(&packet);
    let offsets = match (is_v4, is_reply) {
        (true, false) => [26, 34],
        (true, true) => [30, 36],
        (false, false) => [34, 54],
        (false, true) => [50, 56],
    };
    let address_first = match varied {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    };
    Case {
        group,
        name: name.to_owned(),
        family,
        program,
        frame,
        offsets,
        address_first,
        ports: Vec::new(),
        flows: FLOWS,
        packets: None,
        services: None,
    }
}

fn tcp_ack(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    PacketBuilder::tcp(source, destination, ACK)
}

fn tcp_syn(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    PacketBuilder::tcp(source, destination, SYN)
}

fn udp(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    PacketBuilder::udp(source, destination)
}

/// All cases, in the order in which they are shown.
pub(crate) fn all(loaded: &Loaded, sizes: &Sizes, uplink: u32) -> Result<Vec<Case>> {
    let mut cases = by_flows(sizes);
    cases.extend(by_kind(sizes));
    cases.extend(replies(loaded, uplink)?);
    cases.extend(by_services(sizes));
    Ok(cases)
}

impl Case {
    fn at(mut self, flows: u32) -> Self {
        self.flows = flows;
        self
    }

    fn beside(mut self, services: u32) -> Self {
        self.services = Some(services);
        self
    }

    /// Each packet begins a flow.
    fn new_flows(self) -> Self {
        self.at(NEW)
    }
}

fn by_flows(sizes: &Sizes) -> Vec<Case> {
    let to_vip = Ends::ToVip(LOCAL);
    let mut cases = Vec::new();
    for (flows, setup) in sizes.flows.iter().copied() {
        let podway = |reason| Program::Podway { name: XDP, setup, reason };
        let known = podway(Reason::ForwardKnown);
        for family in FAMILIES {
            cases.push(case(BY_FLOWS, ESTABLISHED, family, known, to_vip, tcp_ack).at(flows));
        }
        let not_ours = podway(Reason::PassNotOurs);
        cases.push(case(BY_FLOWS, NOT_OURS, V4, not_ours, Ends::Elsewhere, tcp_ack).at(flows));
        for (label, name, code, families) in FLOORS {
            let floor = Program::Floor { name, setup, code };
            for family in families {
                cases.push(case(BY_FLOWS, label, family, floor, to_vip, tcp_ack).at(flows));
            }
        }
    }
    cases
}

type Build = fn(SocketAddr, SocketAddr) -> PacketBuilder;
/// Name, programs, port of the VIP, what it counts as, packets.
type Established = (&'static str, &'static [&'static str], u16, Reason, Build);
/// Name, programs, port of the VIP, what it counts as, packets of a run where they are not as many as ever.
type NewFlows = (&'static str, &'static [&'static str], u16, Reason, Option<u32>);

/// Packets that enter, and those that are not ours.
fn by_kind(sizes: &Sizes) -> Vec<Case> {
    const UPLINK: &[&str] = &[XDP, "tc_uplink_in"];
    const ENTRANCES: &[&str] = &[XDP, "tc_uplink_in", "tc_pod_in"];
    // A test run of tc cannot take the encapsulation off again for the next packet.
    let established: [Established; 4] = [
        (ESTABLISHED, ENTRANCES, LOCAL, Reason::ForwardKnown, tcp_ack),
        ("established UDP", ENTRANCES, LOCAL, Reason::ForwardKnown, udp),
        ("established, source NAT", UPLINK, REMOTE, Reason::ForwardKnown, tcp_ack),
        ("established, direct return", &[XDP], DSR, Reason::ForwardEncapsulated, tcp_ack),
    ];
    let new: [NewFlows; 4] = [
        (NEW_FLOW, ENTRANCES, LOCAL, Reason::ForwardNew, None),
        ("new flow, client affinity", ENTRANCES, AFFINITY, Reason::ForwardNew, None),
        ("new flow, source NAT", UPLINK, REMOTE, Reason::ForwardNew, Some(SOURCE_NAT_PACKETS)),
        ("new flow, direct return", &[XDP], DSR, Reason::ForwardEncapsulated, None),
    ];
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (label, programs, port, reason, build) in established {
            for name in programs {
                let program = Program::Podway { name, setup: 0, reason };
                cases.push(case(BY_KIND, label, family, program, Ends::ToVip(port), build));
            }
        }
        for (label, programs, port, reason, packets) in new {
            for name in programs {
                let program = Program::Podway { name, setup: sizes.new_flows, reason };
                let case = case(BY_KIND, label, family, program, Ends::ToVip(port), tcp_syn).new_flows();
                cases.push(Case { packets, ..case });
            }
        }
        for name in [XDP, "tc_uplink_in", "tc_pod_in", "tc_egress"] {
            let program = Program::Podway { name, setup: 0, reason: Reason::PassNotOurs };
            cases.push(case(BY_KIND, NOT_OURS, family, program, Ends::Elsewhere, tcp_ack));
        }
    }
    cases
}

/// Replies; the flows that they belong to are begun here.
fn replies(loaded: &Loaded, uplink: u32) -> Result<Vec<Case>> {
    let reason = Reason::ForwardReply;
    let mut cases = Vec::new();
    for family in FAMILIES {
        for port in [ONE_LOCAL, ONE_REMOTE] {
            let begin = Program::Podway { name: XDP, setup: 0, reason: Reason::ForwardNew };
            let opening = case(BY_KIND, "opening", family, begin, Ends::ToVip(port), tcp_syn);
            Harness::load(&opening, loaded, uplink, 0)?.run(opening.flows)?;
        }
        let program = Program::Podway { name: "tc_egress", setup: 0, reason };
        cases.push(case(BY_KIND, "reply", family, program, Ends::ToClients(ONE_LOCAL), tcp_ack));
        let endpoint = Address::from(endpoint_address(ONE_REMOTE, 0, family == V4));
        let flows = loaded.kernels[0].flows()?.into_iter().filter(|(key, _)| key.source == endpoint);
        let ports: Vec<u32> = flows.map(|(key, _)| u32::from(key.destination_port.get())).collect();
        ensure!(ports.len() == FLOWS as usize, "{} of {FLOWS} flows were begun", ports.len());
        for name in [XDP, "tc_uplink_in"] {
            let program = Program::Podway { name, setup: 0, reason };
            let case = case(BY_KIND, "reply, source NAT", family, program, Ends::ToNode(ONE_REMOTE), tcp_ack);
            cases.push(Case { ports: ports.clone(), ..case });
        }
    }
    Ok(cases)
}

fn by_services(sizes: &Sizes) -> Vec<Case> {
    let kinds: [(&str, Ends, Build, Reason); 3] = [
        (ESTABLISHED, Ends::ToVip(LOCAL), tcp_ack, Reason::ForwardKnown),
        (NEW_FLOW, Ends::ToVip(LOCAL), tcp_syn, Reason::ForwardNew),
        (NOT_OURS, Ends::Elsewhere, tcp_ack, Reason::PassNotOurs),
    ];
    let mut cases = Vec::new();
    for setup in sizes.by_services.iter().copied() {
        for (label, ends, build, reason) in kinds {
            for name in [XDP, "tc_pod_in"] {
                let program = Program::Podway { name, setup, reason };
                let flows = if label == NEW_FLOW { NEW } else { FLOWS_BY_SERVICES };
                let case = case(BY_SERVICES, label, V4, program, ends, build).at(flows);
                cases.push(case.beside(sizes.setups[setup].services));
            }
        }
    }
    cases
}
