//! Frames in the kernel: an XDP buffer and an skb.
//!
//! Every access checks its own bounds against the end of the packet, in the form in which the
//! verifier tracks ranges (6.18: an offset with a known upper bound, added to the packet pointer,
//! compared with `data_end`).
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, xdp_md,
};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_pull_data, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::TcContext;
use lb_common::Be16;
use lb_common::event::EVENT_PACKET_BYTES_MAX;
use lb_common::fragment::HELD_FRAME_BYTES_MAX;
use lb_ebpf::checksum::{Delta, apply_to_udp};
use lb_ebpf::header::HEADERS_BYTES_MAX;
use lb_ebpf::packet::{Packet, TransportChecksum};
use lb_ebpf::parse::Family;
use lb_ebpf::path::Sender;
use lb_ebpf::rewrite;

/// Bound on offsets. Those of the path are far below; the compiler sees that and drops the test.
const OFFSET_MAX: usize = 4096;

/// The address of `N` bytes at `offset` of a packet, if they are inside it.
#[inline(always)]
fn at<const N: usize>(data: usize, data_end: usize, offset: usize) -> Option<*mut [u8; N]> {
    if offset > OFFSET_MAX {
        return None;
    }
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    Some(start as *mut [u8; N])
}

/// How many bytes a copy of a frame takes, as the verifier wants it: not zero, and no more than there is room for.
/// Linux 6.1 learns neither from a comparison of what was spilled (`R4 invalid zero-sized read`), so both are in the
/// arithmetic, which the compiler must not see through.
#[inline(always)]
fn copy_bytes(length_bytes: usize) -> Option<u32> {
    const ROOM_BYTES: u32 = HELD_FRAME_BYTES_MAX as u32;
    const { assert!(ROOM_BYTES.is_power_of_two()) };
    if length_bytes == 0 || length_bytes > HELD_FRAME_BYTES_MAX {
        return None;
    }
    let length_bytes = core::hint::black_box(length_bytes as u32);
    Some((length_bytes.wrapping_sub(1) & (ROOM_BYTES - 1)) + 1)
}

/// A packet of which the beginning can be kept: no more than its context, so that it goes to a call in a register. A
/// frame would have to lie in memory for that, known ranges and all, from the program's first instruction on: Linux 6.1
/// then walks the path more than twice as long.
pub(crate) trait Capture: Copy {
    fn length_bytes(self) -> usize;

    /// Copies its beginning; how many bytes that are.
    fn capture(self, room: &mut [u8; EVENT_PACKET_BYTES_MAX]) -> u32;
}

/// How many bytes of a frame are kept, as the verifier wants it; see [`copy_bytes`]. A frame is never empty.
#[inline(always)]
fn front_bytes(length_bytes: usize) -> u32 {
    const ROOM_BYTES: u32 = EVENT_PACKET_BYTES_MAX as u32;
    const { assert!(ROOM_BYTES.is_power_of_two()) };
    let length_bytes = core::hint::black_box((length_bytes as u32).min(ROOM_BYTES));
    (length_bytes.wrapping_sub(1) & (ROOM_BYTES - 1)) + 1
}

impl Capture for *mut xdp_md {
    #[inline(always)]
    fn length_bytes(self) -> usize {
        XdpFrame::new(self).length_bytes()
    }

    #[inline(always)]
    fn capture(self, room: &mut [u8; EVENT_PACKET_BYTES_MAX]) -> u32 {
        let length_bytes = front_bytes(self.length_bytes());
        // SAFETY: the context is valid while the program runs, and the room is no shorter.
        let status = unsafe { bpf_xdp_load_bytes(self, 0, room.as_mut_ptr().cast(), length_bytes) };
        if status == 0 { length_bytes } else { 0 }
    }
}

impl Capture for *mut __sk_buff {
    #[inline(always)]
    fn length_bytes(self) -> usize {
        SkbFrame { skb: self }.length_bytes()
    }

    #[inline(always)]
    fn capture(self, room: &mut [u8; EVENT_PACKET_BYTES_MAX]) -> u32 {
        let length_bytes = front_bytes(self.length_bytes());
        // SAFETY: the context is valid while the program runs, and the room is no shorter.
        let status = unsafe { bpf_skb_load_bytes(self.cast(), 0, room.as_mut_ptr().cast(), length_bytes) };
        if status == 0 { length_bytes } else { 0 }
    }
}

/// An XDP buffer.
pub(crate) struct XdpFrame {
    ctx: *mut xdp_md,
    data: usize,
    data_end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md) -> Self {
        // SAFETY: the context is valid while the program runs; the verifier turns these loads into
        // packet pointers.
        let (data, data_end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
        Self { ctx, data, data_end }
    }

    #[inline(always)]
    fn adjust(&mut self, head: i32, tail: i32) -> Option<()> {
        // SAFETY: the context is valid while the program runs.
        let status = unsafe {
            if head != 0 { bpf_xdp_adjust_head(self.ctx, head) } else { bpf_xdp_adjust_tail(self.ctx, tail) }
        };
        *self = Self::new(self.ctx);
        (status == 0).then_some(())
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn length_bytes(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn reveal(&mut self, _length: usize) -> Option<()> {
        Some(())
    }

    /// Pointers that are read anew have no known range (6.18: a third of the walk of `xdp_uplink`).
    #[inline(always)]
    fn forget_reads(&mut self) {
        *self = Self::new(self.ctx);
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let bytes = at(self.data, self.data_end, offset)?;
        // SAFETY: `at` checked that all N bytes are inside the packet; byte arrays need no alignment.
        Some(unsafe { bytes.read() })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, value: [u8; N]) -> Option<()> {
        let bytes = at(self.data, self.data_end, offset)?;
        // SAFETY: as in `load`; the program owns the buffer.
        unsafe { bytes.write(value) };
        Some(())
    }

    #[inline(always)]
    fn crc_effect(&self, change: u32, length_bytes: u16) -> u32 {
        sctp_effect(change, u32::from(length_bytes))
    }

    #[inline(always)]
    fn patch_checksum(&mut self, field: TransportChecksum, addresses: Delta, ports: Delta) -> Option<()> {
        let delta = addresses.and(ports);
        let (offset, is_udp) = match field {
            TransportChecksum::Tcp { offset } => (offset, false),
            TransportChecksum::Udp { offset } => (offset, true),
        };
        let old = Be16::from_bytes(self.load(offset)?);
        let new = if is_udp { apply_to_udp(delta, old) } else { delta.apply(old) };
        self.store(offset, new.bytes())
    }

    #[inline(always)]
    fn store_checksum(&mut self, offset: usize, whole: Be16, _pseudo_header: Be16) -> Option<()> {
        self.store(offset, whole.bytes())
    }

    #[inline(always)]
    fn grow_front(&mut self, count: usize) -> Option<()> {
        self.adjust(-(count as i32), 0)
    }

    #[inline(always)]
    fn open_network(&mut self, network_offset: usize, count: usize, _family: Family) -> Option<()> {
        self.adjust(-(count as i32), 0)?;
        rewrite::move_link(self, network_offset, count, 0)
    }

    #[inline(always)]
    fn close_network(&mut self, network_offset: usize, count: usize) -> Option<()> {
        rewrite::move_link(self, network_offset, 0, count)?;
        self.adjust(count as i32, 0)
    }

    #[inline(always)]
    fn copy_to(&self, room: &mut [u8; HELD_FRAME_BYTES_MAX]) -> Option<u32> {
        let length_bytes = copy_bytes(self.length_bytes())?;
        // SAFETY: the context is valid while the program runs, and the room is no shorter.
        let status = unsafe { bpf_xdp_load_bytes(self.ctx, 0, room.as_mut_ptr().cast(), length_bytes) };
        (status == 0).then_some(length_bytes)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Option<()> {
        let excess = self.length_bytes() as i32 - length as i32;
        if excess <= 0 { Some(()) } else { self.adjust(0, -excess) }
    }
}

/// An skb at a tc hook, its headers in linear memory.
pub(crate) struct SkbFrame {
    skb: *mut __sk_buff,
}

/// The interface that the skb is at.
#[inline(always)]
pub(crate) fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Who sent an skb that leaves: what was received has the interface by which it came.
#[inline(always)]
pub(crate) fn sender(ctx: &TcContext) -> Sender {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } == 0 { Sender::Node } else { Sender::Other }
}

/// Notes in an skb that enters whether a program has anything to do with it where it leaves: what is no flow's
/// where it enters is none's there, and a translated packet is done. The note is about the interface by which it
/// enters, since what carries the skb on may take it in again elsewhere as another packet (a tunnel's end, a
/// bridge): that is settled anew, or not at all.
#[inline(always)]
pub(crate) fn settle(ctx: &TcContext, is_settled: bool) {
    let note = if is_settled { note(interface(ctx)) } else { 0 };
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).tc_index = note };
}

/// Whether an skb that leaves was settled where it entered.
#[inline(always)]
pub(crate) fn is_settled(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let (interface, found) = unsafe { ((*ctx.skb.skb).ingress_ifindex, (*ctx.skb.skb).tc_index) };
    interface != 0 && found == note(interface)
}

/// Fits the 16 bits of the field, and is not zero.
#[inline(always)]
const fn note(interface: u32) -> u32 {
    0x8000 | (interface & 0x7fff)
}

impl SkbFrame {
    /// Makes the headers linear. `None`: the kernel had no memory for that; the packet goes on.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Option<Self> {
        let frame = Self { skb: ctx.as_ptr().cast() };
        frame.pull(HEADERS_BYTES_MAX)?;
        Some(frame)
    }

    #[inline(always)]
    fn pull(&self, length: usize) -> Option<()> {
        let (data, data_end) = self.bounds();
        let wanted = self.length_bytes().min(length);
        // SAFETY: the context is valid while the program runs.
        if data + wanted > data_end && unsafe { bpf_skb_pull_data(self.skb, wanted as u32) } != 0 {
            return None;
        }
        Some(())
    }

    /// Grows or shrinks the packet behind its link header.
    #[inline(always)]
    fn adjust_room(&mut self, difference: i32, flags: u64) -> Option<()> {
        // SAFETY: the context is valid while the program runs.
        (unsafe { bpf_skb_adjust_room(self.skb, difference, BPF_ADJ_ROOM_MAC, flags) } == 0).then_some(())
    }

    /// Read anew each time: a helper that may move the packet ends the verifier's trust in old
    /// pointers.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid while the program runs.
        unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) }
    }
}

impl Packet for SkbFrame {
    #[inline(always)]
    fn length_bytes(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn reveal(&mut self, length: usize) -> Option<()> {
        self.pull(length)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let (data, data_end) = self.bounds();
        let bytes = at(data, data_end, offset)?;
        // SAFETY: `at` checked that all N bytes are inside the packet; byte arrays need no alignment.
        Some(unsafe { bytes.read() })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, value: [u8; N]) -> Option<()> {
        let (data, data_end) = self.bounds();
        let bytes = at(data, data_end, offset)?;
        // SAFETY: as in `load`; the verifier makes the skb writable before the program runs.
        unsafe { bytes.write(value) };
        Some(())
    }

    /// The kernel's helper knows whether the checksum is whole, partial or already verified.
    #[inline(always)]
    fn crc_effect(&self, change: u32, length_bytes: u16) -> u32 {
        sctp_effect(change, u32::from(length_bytes))
    }

    #[inline(always)]
    fn patch_checksum(&mut self, field: TransportChecksum, addresses: Delta, ports: Delta) -> Option<()> {
        let (offset, mangled) = match field {
            TransportChecksum::Tcp { offset } => (offset, 0),
            TransportChecksum::Udp { offset } => (offset, u64::from(BPF_F_MARK_MANGLED_0)),
        };
        let pseudo_header = mangled | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the context is valid while the program runs; the helper checks the offset.
        let status = unsafe {
            bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(addresses.wsum()), pseudo_header)
                | bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(ports.wsum()), mangled)
        };
        (status == 0).then_some(())
    }

    /// No helper says whether the kernel has yet to compute the checksum, but the one that patches it
    /// leaves it alone then, unless the change is the pseudo header's (`inet_proto_csum_replace_by_diff`).
    #[inline(always)]
    fn store_checksum(&mut self, offset: usize, whole: Be16, pseudo_header: Be16) -> Option<()> {
        self.store(offset, [0; 2])?;
        // SAFETY: the context is valid while the program runs; the helper checks the offset.
        if unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, 1, 0) } != 0 {
            return None;
        }
        let is_partial = self.load(offset)? == [0; 2];
        let value = if is_partial { Be16::from_raw(!pseudo_header.raw()) } else { whole };
        self.store(offset, value.bytes())
    }

    #[inline(always)]
    fn grow_front(&mut self, count: usize) -> Option<()> {
        // SAFETY: the context is valid while the program runs.
        (unsafe { bpf_skb_change_head(self.skb, count as u32, 0) } == 0).then_some(())
    }

    /// The kernel moves the link header, and learns how to cut a packet that is longer than the link
    /// takes.
    #[inline(always)]
    fn open_network(&mut self, _network_offset: usize, count: usize, family: Family) -> Option<()> {
        let network = match family {
            Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        };
        self.adjust_room(count as i32, u64::from(network | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
    }

    #[inline(always)]
    fn close_network(&mut self, _network_offset: usize, count: usize) -> Option<()> {
        self.adjust_room(-(count as i32), 0)?;
        // The kernel made linear what was looked at; the inner headers begin further back.
        self.pull(HEADERS_BYTES_MAX)
    }

    /// A tag beside the bytes would be lost with the skb.
    #[inline(always)]
    fn copy_to(&self, room: &mut [u8; HELD_FRAME_BYTES_MAX]) -> Option<u32> {
        let length_bytes = copy_bytes(self.length_bytes())?;
        // SAFETY: the context is valid while the program runs, and the room is no shorter.
        let status = unsafe {
            if (*self.skb).vlan_present != 0 {
                return None;
            }
            bpf_skb_load_bytes(self.skb.cast(), 0, room.as_mut_ptr().cast(), length_bytes)
        };
        (status == 0).then_some(length_bytes)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Option<()> {
        if self.length_bytes() <= length {
            return Some(());
        }
        // SAFETY: the context is valid while the program runs.
        (unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) } == 0).then_some(())
    }
}

/// A global function: the verifier walks it once, and not at each call (kernel 5.6 and later). It wants plain
/// integers of whole words.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sctp_effect(change: u32, length_bytes: u32) -> u32 {
    lb_ebpf::sctp::effect(change, length_bytes as u16)
}
