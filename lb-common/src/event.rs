//! EVENTS and MONITOR: what became of single packets, told while somebody watches.
use bytemuck::{Pod, Zeroable};

use crate::conntrack::FlowKey;

/// Bytes of a packet that an [`Event`] has at most: all headers, and a little of what follows them.
pub const EVENT_PACKET_BYTES_MAX: usize = 128;

/// The one value of MONITOR, an array of length 1: what is told. Whoever watches writes it again and again, and when
/// they are gone, it ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Monitor {
    /// The [`crate::counters::Reason`]s that are told, a bit for each.
    pub reasons: u64,
    /// The second from which on nothing is told, of the monotonic clock.
    pub until_s: u32,
    /// Most events that a CPU tells in a second. At the bound further ones are only numbered.
    pub events_per_second: u32,
}

const _: () = assert!(size_of::<Monitor>() == 16);

/// Record of EVENTS: what became of a packet.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Event {
    /// When, nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// The number of the event among those of its CPU, told or not.
    pub number: u64,
    /// The five-tuple as it came; of a packet that passed, what another one had, so it means nothing.
    pub key: FlowKey,
    /// The CPU.
    pub cpu: u32,
    /// Index of the interface.
    pub interface: u32,
    /// A [`Point`], as a number.
    pub point: u32,
    /// A [`crate::counters::Reason`], as a number.
    pub reason: u32,
    /// Length of the packet from its Ethernet header on, bytes.
    pub length_bytes: u32,
    /// How many of [`Event::bytes`] are the packet's.
    pub captured_bytes: u32,
    /// The packet's beginning, after what became of it.
    pub bytes: [u8; EVENT_PACKET_BYTES_MAX],
}

const _: () = assert!(size_of::<Event>() == 80 + EVENT_PACKET_BYTES_MAX);

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Point {
    /// XDP on an uplink.
    Xdp = 0,
    /// tc, entering by an interface.
    TcIngress,
    /// tc, about to leave by an interface.
    TcEgress,
}

impl Point {
    /// Every point in the order of its number.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::TcIngress, Self::TcEgress];

    /// The name in every output, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Reason;

    #[test]
    fn every_reason_has_a_bit_and_every_point_stands_at_its_number() {
        assert!(Reason::ALL.len() <= u64::BITS as usize);
        for (index, point) in Point::ALL.iter().enumerate() {
            assert_eq!(*point as usize, index);
        }
    }

    #[test]
    fn bytes_of_an_event_are_where_the_programs_put_them() {
        let mut event = Event::zeroed();
        (event.time_ns, event.number, event.cpu, event.interface) = (1, 2, 4, 5);
        event.key.protocol = 3;
        (event.point, event.reason, event.length_bytes, event.captured_bytes) = (6, 7, 8, 9);
        event.bytes[0] = 10;
        let bytes = bytemuck::bytes_of(&event);
        let places = [0, 8, 52, 56, 60, 64, 68, 72, 76, 80];
        assert_eq!(places.map(|place| bytes[place]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let monitor = Monitor { reasons: 1, until_s: 2, events_per_second: 3 };
        assert_eq!(bytemuck::bytes_of(&monitor), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    }
}
