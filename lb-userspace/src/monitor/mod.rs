//! What became of single packets, from the events of the programs: who the client is, the VIP and the endpoint, which
//! events are wanted, and how many were missed. Pure, but for [`is_supported`].
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::Be16;
use lb_common::conntrack::FlowKey;
use lb_common::counters::{Outcome, Reason};
use lb_common::event::{Event, Point};
use lb_ebpf::host::HostFrame;
use lb_ebpf::parse::parse;
use serde::Serialize;

mod pcap;
#[cfg(test)]
mod tests;

pub use pcap::PcapFile;

use crate::kernel_release;
use crate::model::Protocol;

/// The first kernel whose verifier takes the programs with what tells of packets in them: Linux 6.1 walks more than a
/// million instructions.
const SINCE: (u32, u32) = (6, 12);
/// The programs' constant that leaves it out.
pub const TELLS_NOTHING: &str = "TELLS_NOTHING";

/// Whether this kernel's programs tell of packets.
#[must_use]
pub fn is_supported() -> bool {
    kernel_release::is_at_least(SINCE)
}

/// What became of a packet. JSON field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// When, nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// Where it was seen.
    pub point: &'static str,
    /// Index of the interface.
    pub interface_index: u32,
    /// What became of it.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Its protocol; `None` where its headers were not read.
    pub protocol: Option<String>,
    /// Who dialled, as far as it is known.
    pub client: Option<SocketAddr>,
    /// What the client dialled.
    pub vip: Option<SocketAddr>,
    /// The endpoint, where one was chosen.
    pub endpoint: Option<SocketAddr>,
    /// Length from the Ethernet header on, bytes.
    pub length_bytes: u32,
}

impl Sighting {
    /// From an event; `unix_ns` makes a time since 1970 of one of the monotonic clock. `None` for numbers that are
    /// no reason or point.
    #[must_use]
    pub fn of(event: &Event, unix_ns: impl Fn(u64) -> u64) -> Option<Self> {
        let reason = *Reason::ALL.get(event.reason as usize)?;
        let point = Point::ALL.get(event.point as usize)?;
        let after = parse(&whole_frame(event)).ok().map(|parsed| parsed.key);
        // A packet that passed is as it came, and what the event has of it is another one's.
        let before = if reason.outcome() == Outcome::Pass { after } else { Some(event.key) };
        let ends = before.map(|before| ends(reason, &before, after.as_ref())).unwrap_or_default();
        Some(Self {
            at_unix_ns: unix_ns(event.time_ns),
            point: point.name(),
            interface_index: event.interface,
            outcome: reason.outcome().name(),
            reason: reason.name(),
            protocol: before.map(|before| protocol_text(before.protocol)),
            client: ends.client,
            vip: ends.vip,
            endpoint: ends.endpoint,
            length_bytes: event.length_bytes,
        })
    }
}

/// The bytes that an event has of its packet.
#[must_use]
pub fn captured(event: &Event) -> &[u8] {
    event.bytes.get(..event.captured_bytes as usize).unwrap_or(&event.bytes)
}

/// Longest frame: the largest IPv4 packet, an Ethernet header and two VLAN tags.
const FRAME_BYTES_MAX: usize = 65_535 + 22;

/// The packet as long as it was, since its headers say how long it is; zeros stand for what an event has no room for.
fn whole_frame(event: &Event) -> HostFrame {
    let mut bytes = captured(event).to_vec();
    let length = (event.length_bytes as usize).min(FRAME_BYTES_MAX);
    bytes.resize(length.max(bytes.len()), 0);
    HostFrame(bytes)
}

/// Who the ends of a packet's flow are.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    client: Option<SocketAddr>,
    vip: Option<SocketAddr>,
    endpoint: Option<SocketAddr>,
}

fn ends(reason: Reason, before: &FlowKey, after: Option<&FlowKey>) -> Ends {
    let source = |key: &FlowKey| socket(key.source.into(), key.source_port);
    let destination = |key: &FlowKey| socket(key.destination.into(), key.destination_port);
    match reason {
        Reason::ForwardReply => {
            Ends { client: after.map(destination), vip: after.map(source), endpoint: Some(source(before)) }
        }
        Reason::PassReply => {
            Ends { client: Some(destination(before)), vip: None, endpoint: Some(source(before)) }
        }
        _ => Ends {
            client: Some(source(before)),
            vip: Some(destination(before)),
            // An answer goes back to who asked.
            endpoint: after
                .filter(|_| reason.outcome() == Outcome::Forward)
                .map(destination)
                .filter(|endpoint| *endpoint != destination(before)),
        },
    }
}

fn socket(address: IpAddr, port: Be16) -> SocketAddr {
    SocketAddr::new(address, port.get())
}

fn protocol_text(number: u32) -> String {
    let known = u8::try_from(number).ok().and_then(Protocol::of_number);
    known.map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

/// An address, of any port or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    address: IpAddr,
    port: Option<u16>,
}

impl std::str::FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port =
            text.parse::<SocketAddr>().map(|end| Self { address: end.ip(), port: Some(end.port()) });
        let alone = text.parse::<IpAddr>().map(|address| Self { address, port: None });
        with_port.or(alone).map_err(|_| format!("cannot read {text:?}: want IP or IP:PORT"))
    }
}

impl End {
    fn is(self, found: Option<SocketAddr>) -> bool {
        found.is_some_and(|found| {
            found.ip() == self.address && self.port.is_none_or(|port| port == found.port())
        })
    }
}

/// Which sightings are wanted; what is not asked for is all the same.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The VIP.
    pub vip: Option<End>,
    /// The endpoint.
    pub endpoint: Option<End>,
    /// The client.
    pub client: Option<End>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The reasons; none means all.
    pub reasons: Vec<Reason>,
}

impl Filter {
    /// The reasons as the bits of MONITOR: what is not wanted takes no room from what is.
    #[must_use]
    pub fn reason_bits(&self) -> u64 {
        let wanted = if self.reasons.is_empty() { &Reason::ALL[..] } else { &self.reasons };
        wanted.iter().fold(0, |bits, reason| bits | 1 << *reason as u32)
    }

    /// Whether a sighting is wanted.
    #[must_use]
    pub fn wants(&self, seen: &Sighting) -> bool {
        let is = |wanted: Option<End>, found| wanted.is_none_or(|wanted| wanted.is(found));
        let is_protocol = |wanted: Protocol| seen.protocol.as_deref() == Some(&wanted.to_string());
        is(self.vip, seen.vip)
            && is(self.endpoint, seen.endpoint)
            && is(self.client, seen.client)
            && self.protocol.is_none_or(is_protocol)
            && (self.reasons.is_empty() || self.reasons.iter().any(|reason| reason.name() == seen.reason))
    }
}

/// How many events there were that were not told, from the numbers of those that were.
#[derive(Clone, Debug, Default)]
pub struct Missed {
    last: BTreeMap<u32, u64>,
    count: u64,
}

impl Missed {
    /// Takes one that was told. A CPU's first one says nothing of those before.
    pub fn note(&mut self, event: &Event) {
        if let Some(last) = self.last.insert(event.cpu, event.number) {
            self.count += event.number.saturating_sub(last).saturating_sub(1);
        }
    }

    /// How many are known to be missing.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }
}
