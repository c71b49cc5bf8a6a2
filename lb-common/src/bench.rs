//! What the benchmark of the path and its harness program share.

/// Length of a benchmark frame: Ethernet, IPv6, TCP, rounded up to whole words.
pub const FRAME_BYTES: usize = 80;
