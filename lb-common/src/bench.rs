//! What the benchmark of the path and its harness program share.
use bytemuck::{Pod, Zeroable};

/// Length of a benchmark frame: Ethernet, IPv6, TCP, rounded up to whole words.
pub const FRAME_BYTES: usize = 80;

/// A frame, and where in it the flow's number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Template {
    /// The frame.
    pub frame: [u8; FRAME_BYTES],
    /// Offset of the last four bytes of the source address; below 64.
    pub source_word_offset: u32,
    /// Offset of the source port; below 64.
    pub source_port_offset: u32,
}

const _: () = assert!(size_of::<Template>() == 88);
