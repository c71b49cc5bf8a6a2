//! An endless stream of packets that a seed determines: clients that open flows to frontends and go
//! on with them, replies, strangers, other protocols; whole, cut and damaged; both families.
use std::net::{IpAddr, SocketAddr};

use super::build::{self, FragmentPlace, PacketBuilder, tcp_flags};
use super::damage::{Damage, truncate};
use super::random::Random;
use super::verify::{FiveTuple, five_tuple};

/// Flows and replies that the stream remembers; at the bound a new one replaces any.
const REMEMBERED_MAX: usize = 256;
/// Longest payload, bytes.
const PAYLOAD_BYTES_MAX: usize = 64;

/// The addresses that the packets are about.
#[derive(Clone, Debug)]
pub struct World {
    /// Frontends: IP protocol number (TCP or UDP) and address. At least one.
    pub frontends: Vec<(u8, SocketAddr)>,
    /// Endpoints, which also send packets that answer nothing: protocol and address.
    pub endpoints: Vec<(u8, SocketAddr)>,
    /// Clients. At least one of each family that a frontend has.
    pub clients: Vec<IpAddr>,
}

/// What a packet means, before it was cut or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Opens a flow to a frontend.
    Open,
    /// Goes on with a flow that was opened before.
    Continue,
    /// Answers a packet that [`PacketStream::learn`] was told of.
    Reply,
    /// To a frontend, but in the middle of a flow that was never opened.
    MidFlow,
    /// To an address or port that is no frontend, or from an endpoint that nobody asked.
    NotOurs,
    /// An ICMP error about a packet that was forwarded, or about a reply to it.
    IcmpError,
    /// An echo request, a protocol without ports, or no IP at all.
    OtherProtocol,
    /// A fragment on its way to a frontend.
    Fragment,
}

/// What was done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Soundness {
    /// Nothing: the frame is sound and its checksums are right.
    Sound,
    /// It was cut short.
    Truncated,
    /// It was damaged; some damage leaves a frame that can still be read.
    Damaged,
}

/// A packet of the stream.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The frame.
    pub frame: Vec<u8>,
    /// What it meant.
    pub intent: Intent,
    /// What was done to it.
    pub soundness: Soundness,
}

/// The stream. It never ends; two streams of one seed and world are equal as long as
/// [`PacketStream::learn`] is told the same.
#[derive(Clone, Debug)]
pub struct PacketStream {
    random: Random,
    world: World,
    flows: Vec<FiveTuple>,
    replies: Vec<FiveTuple>,
}

impl PacketStream {
    /// The stream of a seed. Print the seed where a test fails.
    #[must_use]
    pub fn new(seed: u64, world: World) -> Self {
        Self { random: Random::new(seed), world, flows: Vec::new(), replies: Vec::new() }
    }

    /// Tells the stream what a frame became when it was forwarded, so that it can send the answer. A
    /// frame without ports is ignored.
    pub fn learn(&mut self, forwarded: &[u8]) {
        if let Ok(tuple) = five_tuple(forwarded) {
            remember(&mut self.replies, tuple.reply(), &mut self.random);
        }
    }

    /// The next packet: of ten, eight sound, one cut and one damaged.
    pub fn next_sample(&mut self) -> Sample {
        let intent = self.intent();
        let mut frame = self.sound_frame(intent);
        let soundness = match self.random.below(10) {
            0 => {
                truncate(&mut frame, &mut self.random);
                Soundness::Truncated
            }
            1 => {
                let damage = *self.random.pick(&Damage::ALL);
                damage.apply(&mut frame, &mut self.random);
                Soundness::Damaged
            }
            _ => Soundness::Sound,
        };
        Sample { frame, intent, soundness }
    }

    fn intent(&mut self) -> Intent {
        match self.random.below(100) {
            0..30 => Intent::Open,
            30..55 if !self.flows.is_empty() => Intent::Continue,
            55..75 if !self.replies.is_empty() => Intent::Reply,
            75..82 => Intent::MidFlow,
            82..88 => Intent::NotOurs,
            88..92 if !self.replies.is_empty() => Intent::IcmpError,
            92..96 => Intent::OtherProtocol,
            96..100 => Intent::Fragment,
            _ => Intent::Open,
        }
    }

    fn sound_frame(&mut self, intent: Intent) -> Vec<u8> {
        let (tuple, flags) = match intent {
            Intent::Open => {
                let tuple = self.request();
                remember(&mut self.flows, tuple, &mut self.random);
                (tuple, tcp_flags::SYN)
            }
            Intent::Continue => (*self.random.pick(&self.flows), self.later_flags()),
            Intent::Reply => (*self.random.pick(&self.replies), self.reply_flags()),
            Intent::MidFlow => (self.request(), self.later_flags()),
            Intent::NotOurs => (self.stranger(), self.later_flags()),
            Intent::IcmpError => return self.icmp_error(),
            Intent::OtherProtocol => return self.other_protocol(),
            Intent::Fragment => {
                return self.fragment();
            }
        };
        self.decorated(tuple, flags).build()
    }

    /// From a client and a random port to a frontend.
    fn request(&mut self) -> FiveTuple {
        let (protocol, destination) = *self.random.pick(&self.world.frontends);
        let clients: Vec<IpAddr> =
            self.world.clients.iter().copied().filter(|ip| ip.is_ipv4() == destination.is_ipv4()).collect();
        let client = *self.random.pick(&clients);
        // Few ports, so that a flow is opened again from time to time.
        let port = 40_000 + self.random.below(500) as u16;
        FiveTuple { protocol, source: SocketAddr::new(client, port), destination }
    }

    /// What Podway has no business with, though one part of it is an address or port of ours.
    fn stranger(&mut self) -> FiveTuple {
        let mut tuple = self.request();
        match self.random.below(4) {
            0 => tuple.destination.set_port(self.random.word()),
            1 => {
                let other = if tuple.protocol == build::TCP { build::UDP } else { build::TCP };
                tuple.protocol = other;
            }
            2 => {
                let client = tuple.source;
                let endpoints = self.world.endpoints.iter().copied();
                let endpoints: Vec<(u8, SocketAddr)> =
                    endpoints.filter(|(_, address)| address.is_ipv4() == client.is_ipv4()).collect();
                if !endpoints.is_empty() {
                    let (protocol, source) = *self.random.pick(&endpoints);
                    return FiveTuple { protocol, source, destination: client };
                }
                tuple.destination.set_port(0);
            }
            _ => {
                let unknown: [IpAddr; 2] =
                    [[203, 0, 113, 77].into(), [0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1].into()];
                tuple.destination.set_ip(unknown[usize::from(tuple.source.is_ipv6())]);
            }
        }
        tuple
    }

    /// Flags of a segment inside a TCP flow.
    fn later_flags(&mut self) -> u8 {
        use tcp_flags::{ACK, FIN, PSH, RST, SYN};
        *self.random.pick(&[ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | RST, RST, SYN, 0, 0xff])
    }

    /// Flags of an answer.
    fn reply_flags(&mut self) -> u8 {
        use tcp_flags::{ACK, FIN, RST, SYN};
        *self.random.pick(&[SYN | ACK, ACK, ACK, ACK | FIN, RST])
    }

    /// The packet, sometimes with what is rare on the wire.
    fn decorated(&mut self, tuple: FiveTuple, flags: u8) -> PacketBuilder {
        let random = &mut self.random;
        let mut packet = match tuple.protocol {
            build::TCP => PacketBuilder::tcp(tuple.source, tuple.destination, flags),
            build::SCTP => PacketBuilder::sctp(tuple.source, tuple.destination, chunk_like(flags)),
            _ => PacketBuilder::udp(tuple.source, tuple.destination),
        };
        let payload_bytes = random.below(PAYLOAD_BYTES_MAX + 1);
        packet = packet.payload(&random.bytes(payload_bytes)).identification(random.word());
        if random.chance(10) {
            packet = packet.vlan(build::ETHERTYPE_VLAN, random.word());
        }
        if random.chance(2) {
            packet = packet.vlan(build::ETHERTYPE_SERVICE_VLAN, 1).vlan(build::ETHERTYPE_VLAN, 2);
        }
        if random.chance(5) {
            packet = packet.hop_limit(*random.pick(&[0, 1, 2, 255]));
        }
        if random.chance(10) {
            packet = packet.link_padding(random.below(19));
        }
        if tuple.protocol == build::UDP && tuple.source.is_ipv4() && random.chance(15) {
            packet = packet.without_udp_checksum();
        }
        if tuple.protocol == build::TCP && random.chance(20) {
            let words = random.below(11);
            packet = packet.tcp_options(&random.bytes(words * 4));
        }
        if random.chance(10) { with_ip_options(packet, tuple, random) } else { packet }
    }

    /// A piece of a datagram; few numbers, so that pieces of one number meet, in any order.
    fn fragment(&mut self) -> Vec<u8> {
        let tuple = match self.flows.is_empty() {
            true => self.request(),
            false => *self.random.pick(&self.flows[..self.flows.len().min(4)]),
        };
        let offset_units = *self.random.pick(&[0, 1, 185]);
        let place = if offset_units == 185 { FragmentPlace::Last } else { FragmentPlace::NotLast };
        let number = self.random.below(4) as u16;
        self.decorated(tuple, tcp_flags::SYN).identification(number).fragment(offset_units, place).build()
    }

    /// About a forwarded packet, from its endpoint or from a router before it; or about a reply, from the
    /// client.
    fn icmp_error(&mut self) -> Vec<u8> {
        let asked = match self.random.below(3) {
            0 if !self.flows.is_empty() => self.random.pick(&self.flows).reply(),
            _ => self.random.pick(&self.replies).reply(),
        };
        let quoted = self.decorated(asked, tcp_flags::ACK).build();
        let start = quoted.windows(2).position(|word| word == [0x08, 0x00] || word == [0x86, 0xdd]);
        let quoted = &quoted[start.map_or(0, |start| start + 2)..];
        let bytes = *self.random.pick(&[28, 40, 48, 60, 200]);
        let quoted = &quoted[..quoted.len().min(bytes)];
        let router: [IpAddr; 2] = [[192, 0, 2, 254].into(), [0x2001, 0xdb8, 0, 1, 0, 0, 0, 0xfe].into()];
        let is_v6 = asked.source.is_ipv6();
        let from = if self.random.chance(30) { router[usize::from(is_v6)] } else { asked.destination.ip() };
        let kinds: [[u8; 2]; 4] =
            if is_v6 { [[1, 4], [2, 0], [3, 0], [4, 1]] } else { [[3, 3], [3, 4], [11, 0], [12, 0]] };
        let kind = *self.random.pick(&kinds);
        PacketBuilder::icmp(from, asked.source.ip(), kind, [0, 0, 5, 0]).payload(quoted).build()
    }

    /// ARP, ICMP echo, or an IP protocol without ports.
    fn other_protocol(&mut self) -> Vec<u8> {
        let tuple = self.request();
        if self.random.chance(40) {
            let kind = if tuple.source.is_ipv4() { 8 } else { 128 };
            let [source, destination] = [tuple.source.ip(), tuple.destination.ip()];
            let payload = self.random.bytes(20);
            return PacketBuilder::icmp(source, destination, [kind, 0], [1, 2, 3, 4])
                .payload(&payload)
                .build();
        }
        let protocol = *self.random.pick(&[1, 4, 47, 50, 58, 132]);
        let payload = self.random.bytes(24);
        let mut frame =
            PacketBuilder::of_protocol(protocol, tuple.source, tuple.destination).payload(&payload).build();
        if self.random.chance(20) {
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
        }
        frame
    }
}

/// The SCTP chunk that does what TCP flags do.
fn chunk_like(flags: u8) -> u8 {
    use build::chunk::{ABORT, DATA, INIT, SHUTDOWN};
    use tcp_flags::{ACK, FIN, RST, SYN};
    match flags {
        _ if flags & RST != 0 => ABORT,
        _ if flags & FIN != 0 => SHUTDOWN,
        _ if flags & (SYN | ACK) == SYN => INIT,
        _ => DATA,
    }
}

/// IPv4 options, or one or more IPv6 extension headers.
fn with_ip_options(mut packet: PacketBuilder, tuple: FiveTuple, random: &mut Random) -> PacketBuilder {
    if tuple.source.is_ipv4() {
        let words = random.below(11);
        return packet.ipv4_options(&vec![1; words * 4]);
    }
    let numbers = [build::HOP_BY_HOP, build::DESTINATION_OPTIONS, build::DESTINATION_OPTIONS, build::ROUTING];
    for _ in 0..=random.below(4) {
        let number = *random.pick(&numbers);
        // One PadN option fills the header (RFC 8200 §4.2). A routing header gets type 4 and no
        // segment left, which makes the destination the final one.
        let body_bytes = 6 + 8 * random.below(4);
        let mut body = vec![0; body_bytes];
        body[0] = if number == build::ROUTING { 4 } else { 1 };
        body[1] = if number == build::ROUTING { 0 } else { (body_bytes - 2) as u8 };
        packet = packet.extension(number, &body);
    }
    packet
}

fn remember(tuples: &mut Vec<FiveTuple>, tuple: FiveTuple, random: &mut Random) {
    if tuples.len() < REMEMBERED_MAX {
        tuples.push(tuple);
    } else {
        let place = random.below(tuples.len());
        tuples[place] = tuple;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::packet::verify_checksums;

    const SEED: u64 = 20_260_101;

    fn world() -> World {
        World {
            frontends: vec![
                (build::TCP, "10.96.0.10:80".parse().unwrap()),
                (build::UDP, "10.96.0.10:53".parse().unwrap()),
                (build::TCP, "[2001:db8:96::10]:80".parse().unwrap()),
                (build::UDP, "[2001:db8:96::10]:53".parse().unwrap()),
                (build::SCTP, "10.96.0.10:38412".parse().unwrap()),
            ],
            endpoints: vec![
                (build::TCP, "10.244.1.11:8080".parse().unwrap()),
                (build::UDP, "[2001:db8:244:1::11]:5353".parse().unwrap()),
            ],
            clients: vec!["192.0.2.100".parse().unwrap(), "2001:db8:0:1::100".parse().unwrap()],
        }
    }

    /// A stream whose forwarded packets reach the endpoint unchanged.
    fn samples(count: usize) -> Vec<Sample> {
        let mut stream = PacketStream::new(SEED, world());
        (0..count)
            .map(|_| {
                let sample = stream.next_sample();
                if sample.intent == Intent::Open && sample.soundness == Soundness::Sound {
                    stream.learn(&sample.frame);
                }
                sample
            })
            .collect()
    }

    #[test]
    fn sound_packets_have_right_checksums() {
        for (index, sample) in samples(5_000).iter().enumerate() {
            let is_checked = sample.soundness == Soundness::Sound && sample.intent != Intent::OtherProtocol;
            if is_checked {
                assert_eq!(
                    verify_checksums(&sample.frame),
                    Ok(()),
                    "packet {index} of seed {SEED}: {sample:?}"
                );
            }
        }
    }

    #[test]
    fn every_intent_and_soundness_occurs_in_both_families() {
        let mut counts: HashMap<(Intent, Soundness, bool), usize> = HashMap::new();
        for sample in samples(20_000) {
            let is_v6 = sample.frame[12..].windows(2).take(3).any(|word| word == [0x86, 0xdd]);
            *counts.entry((sample.intent, sample.soundness, is_v6)).or_default() += 1;
        }
        // Eight intents, three kinds of soundness, two families; fragments are the rarest.
        assert_eq!(counts.len(), 48, "seed {SEED}: {counts:?}");
        assert!(counts.values().all(|count| *count >= 20), "seed {SEED}: {counts:?}");
    }

    #[test]
    fn two_streams_of_one_seed_are_equal() {
        let frames =
            |samples: Vec<Sample>| samples.into_iter().map(|sample| sample.frame).collect::<Vec<_>>();
        assert_eq!(frames(samples(500)), frames(samples(500)));
    }
}
