//! Why a packet goes where it goes: the path itself runs on tables in memory, and each step is told
//! with the object that its values came from.
use std::net::{IpAddr, SocketAddr};

use lb_common::conntrack::FlowKey;
use lb_common::counters::{Outcome, Reason};
use lb_common::frontend::{Frontend, FrontendKey, flags};
use lb_common::neg::NegKind;
use lb_common::{Address, Be16, Prefix, flow_hash};
use lb_ebpf::host::{HostFrame, HostTables};
use lb_ebpf::parse::{Parsed, parse};
use lb_ebpf::path::{self, Scratch, Side};
use lb_ebpf::socket::{self, Caller, Peer, SocketVerdict};
use lb_ebpf::verdict::Verdict;
use serde::Serialize;

use crate::model::Protocol;
use crate::plan::{kind_name, neg_kind_name};

pub mod frame;
pub mod live;
pub mod names;
pub mod origins;
pub mod tables;
pub mod url;

pub use names::{Slices, TableNames};
pub use origins::Origins;

/// How a packet comes to the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// It arrives at an uplink.
    Uplink,
    /// It comes from a pod of this node, as a packet.
    Pod,
    /// A process or pod of this node calls `connect()`.
    Socket,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The client.
    pub from: SocketAddr,
    /// What it dials.
    pub to: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// How it comes in.
    pub entry: Entry,
}

impl Question {
    /// The five-tuple of its packet.
    #[must_use]
    pub fn flow_key(&self) -> FlowKey {
        FlowKey {
            source: self.from.ip().into(),
            destination: self.to.ip().into(),
            source_port: Be16::new(self.from.port()),
            destination_port: Be16::new(self.to.port()),
            protocol: self.protocol.number().into(),
        }
    }
}

/// The answer. JSON field names are stable.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `forward`, `refuse`, `drop` or `pass`.
    pub verdict: &'static str,
    /// Name of the [`Reason`].
    pub reason: &'static str,
    /// The frontend that was dialled.
    pub frontend: Option<String>,
    /// Its backend service.
    pub backend_service: Option<String>,
    /// The NEG that the client's scope uses.
    pub neg: Option<&'static str>,
    /// Every endpoint that a new flow may get, sorted.
    pub candidates: Vec<String>,
    /// The endpoint that this packet gets.
    pub endpoint: Option<String>,
    /// Whether the client's address is replaced by this node's.
    pub source_nat: bool,
    /// The address and port that replace it.
    pub source_nat_address: Option<String>,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What was looked at.
    pub stage: &'static str,
    /// What was found.
    pub found: String,
    /// The object that it came from, with its resourceVersion.
    pub origin: Option<String>,
}

/// Runs the path for a question and tells the steps. The tables change as a first packet changes them.
#[must_use]
pub fn explain(question: &Question, host: &mut HostTables, names: &TableNames<'_>) -> Explanation {
    let mut told = Told { host, names, steps: Vec::new() };
    let key =
        FrontendKey::new(question.to.ip().into(), Be16::new(question.to.port()), question.protocol.number());
    told.step("packet", packet_text(question), None);
    let frontend = told.frontend(&key);
    if let Some(frontend) = &frontend {
        told.source_range(question, frontend);
    }
    let neg = frontend.map(|frontend| told.neg(question, &frontend));
    let candidates = neg.map(|neg| told.candidates(neg)).unwrap_or_default();
    let run = match question.entry {
        Entry::Uplink => told.packet(question, Side::Uplink),
        Entry::Pod => told.packet(question, Side::Pod),
        Entry::Socket => told.connect(question),
    };
    told.verdict(&run, frontend.map(|frontend| frontend.backend_service));
    Explanation {
        verdict: run.reason.outcome().name(),
        reason: run.reason.name(),
        frontend: frontend.map(|_| format!("{}/{}", question.to, question.protocol)),
        backend_service: frontend.map(|frontend| names.backend_service(frontend.backend_service)),
        neg: neg.map(|neg| neg_kind_name(NegKind::of_id(neg).1)),
        candidates,
        endpoint: run.endpoint.map(|endpoint| endpoint.to_string()),
        source_nat: run.source_nat.is_some(),
        source_nat_address: run.source_nat.map(|address| address.to_string()),
        steps: told.steps,
    }
}

/// What the path decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Why.
    pub reason: Reason,
    /// Where a forwarded packet goes.
    pub endpoint: Option<SocketAddr>,
    /// The source that replaced the client's.
    pub source_nat: Option<SocketAddr>,
}

struct Told<'a> {
    host: &'a mut HostTables,
    names: &'a TableNames<'a>,
    steps: Vec<Step>,
}

fn packet_text(question: &Question) -> String {
    let Question { from, to, protocol, entry } = question;
    let what = match (protocol, entry) {
        (Protocol::Tcp, Entry::Socket) => "TCP connect()",
        (Protocol::Udp, Entry::Socket) => "UDP connect()",
        (Protocol::Sctp, Entry::Socket) => "SCTP connect()",
        (Protocol::Tcp, _) => "TCP SYN",
        (Protocol::Udp, _) => "UDP datagram",
        (Protocol::Sctp, _) => "SCTP INIT",
    };
    let hook = match entry {
        Entry::Uplink => "arrives at an uplink (xdp_uplink, else tc_uplink_in)",
        Entry::Pod => "comes from a pod of this node (tc_pod_in)",
        Entry::Socket => "is called on this node (connect4, connect6)",
    };
    format!("{what} from {from} to {to} {hook}")
}

impl Told<'_> {
    fn step(&mut self, stage: &'static str, found: String, origin: Option<String>) {
        self.steps.push(Step { stage, found, origin });
    }

    fn frontend(&mut self, key: &FrontendKey) -> Option<Frontend> {
        let Some(frontend) = self.host.frontends.get(key).copied() else {
            let words = format!("none has this address, port and protocol{}", self.stranger(&key.address));
            self.step("frontend", words, None);
            return None;
        };
        let kind = frontend.kind().map_or("unknown kind", kind_name);
        let name = self.names.backend_service(frontend.backend_service);
        self.step("frontend", format!("{kind}, backend service {name}"), self.names.frontend_origin(key));
        Some(frontend)
    }

    /// What is known of an address on which the port is no frontend.
    fn stranger(&self, address: &Address) -> &'static str {
        let vip = self.host.frontends.get(&FrontendKey::vip(*address));
        let is_service_address = self.host.config.is_some_and(|config| config.is_service_address(address));
        match vip {
            Some(vip) if vip.flags & flags::REFUSE_OTHER_PORTS != 0 => {
                "; the address is a cluster IP, whose unused ports are refused"
            }
            Some(_) => "; the address is a VIP, whose unused ports are left to the host that may have it",
            None if is_service_address => "; no Service has this address of a service prefix",
            None => "",
        }
    }

    /// Whether the client may come in.
    fn source_range(&mut self, question: &Question, frontend: &Frontend) {
        if frontend.flags & flags::CHECK_SOURCE == 0 {
            return;
        }
        let id = frontend.backend_service;
        let client = question.from.ip();
        let longest = self
            .names
            .tables
            .source_ranges_of(id)
            .iter()
            .filter(|key| {
                let (network, bits) = key.range();
                Prefix::new(network.into(), bits as u8).contains(&client.into())
            })
            .max_by_key(|key| key.prefix_bits);
        let words = match longest {
            Some(key) => {
                let (network, bits) = key.range();
                format!("{network}/{bits} lets {client} in")
            }
            None => format!("no range covers {client}"),
        };
        self.step("source range", words, self.names.backend_service_origin(id));
    }

    fn neg(&mut self, question: &Question, frontend: &Frontend) -> u32 {
        let client = Address::from(question.from.ip());
        let is_in_cluster = self.host.config.is_some_and(|config| config.is_in_cluster(&client));
        let (neg, scope) = if question.entry == Entry::Uplink && !is_in_cluster {
            (frontend.neg_external, "external: from outside the cluster")
        } else {
            (frontend.neg_internal, "internal: a pod or node of the cluster")
        };
        let length = self.host.rings.get(&neg).map_or(0, |ring| ring.length());
        let kind = neg_kind_name(NegKind::of_id(neg).1);
        let origin = self.names.backend_service_origin(frontend.backend_service);
        self.step("scope", scope.to_owned(), None);
        self.step("neg", format!("{kind}, ring of {length} slots"), origin);
        neg
    }

    fn members(&self, neg: u32) -> Vec<u32> {
        let Some(ring) = self.host.rings.get(&neg) else {
            return Vec::new();
        };
        let slots = ring.position()..ring.position().saturating_add(ring.length());
        let mut ids: Vec<u32> = slots.filter_map(|slot| self.host.ring_slots.get(&slot)).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The members that take new flows; where none does, all that are there.
    fn candidates(&mut self, neg: u32) -> Vec<String> {
        let members: Vec<_> = self
            .members(neg)
            .into_iter()
            .filter_map(|id| self.host.endpoints.get(&id).map(|endpoint| (id, *endpoint)))
            .filter(|(_, endpoint)| endpoint.is_present())
            .collect();
        let healthy: Vec<_> =
            members.iter().copied().filter(|(_, endpoint)| endpoint.takes_new_flows()).collect();
        let usable = if healthy.is_empty() { &members } else { &healthy };
        let mut texts: Vec<String> = usable.iter().map(|(_, endpoint)| endpoint_text(endpoint)).collect();
        texts.sort_unstable();
        let words = match (usable.len(), healthy.is_empty()) {
            (0, _) => "none".to_owned(),
            (_, true) => format!("{} (none is healthy, so all are used)", texts.join(", ")),
            (_, false) => texts.join(", "),
        };
        self.step("candidates", words, None);
        texts
    }

    fn packet(&mut self, question: &Question, side: Side) -> Run {
        let mut packet = HostFrame(frame::first_packet(question));
        let verdict = match parse(&packet) {
            Err(reason) => Verdict::Pass(reason),
            Ok(parsed) => {
                let is_known = self.host.flows.contains_key(&parsed.key);
                self.known(&parsed, is_known);
                path::to_backend(&mut packet, self.host, &mut Scratch::new(parsed), side)
            }
        };
        run_of(question, verdict.reason(), &packet)
    }

    fn known(&mut self, parsed: &Parsed, is_known: bool) {
        let words = if is_known {
            "known: conntrack has the flow".to_owned()
        } else {
            let hash = flow_hash::of_flow(&parsed.key);
            format!("new: conntrack has no such flow; its hash is {hash:#010x}")
        };
        self.step("flow", words, None);
    }

    fn connect(&mut self, question: &Question) -> Run {
        let config = self.host.config.unwrap_or_default();
        let from = question.from.ip();
        let is_of_node = from.is_loopback() || config.node_address(&from.into()) == Some(from.into());
        let node_cookie = config.node_namespace_cookie;
        let namespace_cookie = if is_of_node { node_cookie } else { !node_cookie };
        let caller = Caller { protocol: question.protocol.number(), cookie: 0, namespace_cookie };
        let peer = Peer { address: question.to.ip().into(), port: Be16::new(question.to.port()) };
        match socket::connect(self.host, &caller, &peer) {
            SocketVerdict::Pass(reason) | SocketVerdict::Refuse(reason) => {
                Run { reason, endpoint: None, source_nat: None }
            }
            SocketVerdict::Peer(reason, peer) => {
                let endpoint = SocketAddr::new(peer.address.into(), peer.port.get());
                Run { reason, endpoint: Some(endpoint), source_nat: None }
            }
        }
    }

    fn verdict(&mut self, run: &Run, backend_service: Option<u32>) {
        if let Some(endpoint) = run.endpoint {
            let found = self.host.endpoints.values().find(|candidate| {
                IpAddr::from(candidate.address) == endpoint.ip() && candidate.port.get() == endpoint.port()
            });
            let place = found
                .map_or("", |found| if found.is_local() { ", on this node" } else { ", on another node" });
            let origin = backend_service.and_then(|id| self.names.endpoint_origin(id, endpoint));
            self.step("endpoint", format!("{endpoint}{place}"), origin);
        }
        if let Some(source) = run.source_nat {
            self.step(
                "source NAT",
                format!("the endpoint sees {source}, so that its reply comes back here"),
                None,
            );
        }
        if run.reason == Reason::ForwardEncapsulated {
            self.step(
                "direct server return",
                "the endpoint sees the client; its node takes the packet out of its encapsulation and answers"
                    .to_owned(),
                None,
            );
        }
        let words = match run.reason.outcome() {
            Outcome::Refuse => "refuse: a TCP reset or ICMP port unreachable, or EPERM from connect()",
            outcome => outcome.name(),
        };
        self.step("verdict", format!("{words} ({})", run.reason.name()), None);
    }
}

/// An endpoint as text.
fn endpoint_text(endpoint: &lb_common::endpoint::Endpoint) -> String {
    SocketAddr::new(endpoint.address.into(), endpoint.port.get()).to_string()
}

/// What a frame after the path says.
#[must_use]
pub fn run_of(question: &Question, reason: Reason, packet: &HostFrame) -> Run {
    let nowhere = Run { reason, endpoint: None, source_nat: None };
    if reason.outcome() != Outcome::Forward {
        return nowhere;
    }
    let Ok(parsed) = parse(&without_encapsulation(question, packet)) else {
        return nowhere;
    };
    let FlowKey { source, destination, source_port, destination_port, .. } = parsed.key;
    let source = SocketAddr::new(source.into(), source_port.get());
    Run {
        reason,
        endpoint: Some(SocketAddr::new(destination.into(), destination_port.get())),
        source_nat: (source != question.from).then_some(source),
    }
}

/// The frame as the endpoint gets it: a frame that has grown has the packet at its end.
fn without_encapsulation(question: &Question, packet: &HostFrame) -> HostFrame {
    let network_bytes = frame::first_packet(question).len() - frame::ETHERNET_BYTES;
    let start = packet.0.len().saturating_sub(network_bytes);
    let ethernet = packet.0.iter().take(frame::ETHERNET_BYTES);
    HostFrame(ethernet.chain(packet.0.iter().skip(start)).copied().collect())
}
