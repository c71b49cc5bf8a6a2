//! What the benchmark of the path and its harness programs share.

/// Length of a benchmark frame: Ethernet, IPv6, TCP, rounded up to whole words.
pub const FRAME_BYTES: usize = 80;

/// Flows whose number is below go by one client address: the port counts them.
pub const FLOWS_PER_ADDRESS: u32 = 1 << 14;

/// The first flow's client port.
pub const PORT_FIRST: u16 = 1024;

/// Length of an IPv4 datagram's frame: the shortest that Ethernet takes, without the frame check sequence
/// (IEEE 802.3 §4.4.2).
pub const DATAGRAM_BYTES: usize = 60;

/// Length of an IPv6 datagram's frame: two bytes of payload make it whole words.
pub const DATAGRAM_V6_BYTES: usize = 64;
