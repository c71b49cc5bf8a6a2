//! Traffic between namespaces: what makes packets, what counts those that arrive, and the least that
//! forwarding costs.
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::Be16;
use lb_common::bench::{DATAGRAM_BYTES, DATAGRAM_V6_BYTES, FLOWS_PER_ADDRESS, PORT_FIRST};
use lb_ebpf::checksum::{Delta, apply_to_udp};
use lb_ebpf::header::{ethernet, ipv4, ipv6, udp};

/// The first flow's packet: UDP over IPv4, without a checksum of its own.
#[map]
static DATAGRAM: Array<[u8; DATAGRAM_BYTES]> = Array::with_max_entries(1, 0);
/// The same over IPv6, where UDP has one (RFC 8200 §8.1).
#[map]
static DATAGRAM_V6: Array<[u8; DATAGRAM_V6_BYTES]> = Array::with_max_entries(1, 0);
/// The next flow's number.
#[map]
static NEXT: Array<u32> = Array::with_max_entries(1, 0);
/// Frames that arrived.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Ethernet addresses that a forwarded frame gets, destination first.
#[map]
static LINK: Array<[u8; 12]> = Array::with_max_entries(1, 0);

/// Number of flows that are gone through.
#[unsafe(no_mangle)]
static TRAFFIC_FLOWS: Global<u32> = Global::new(1);

/// The interface that frames leave by.
#[unsafe(no_mangle)]
static OUT: Global<u32> = Global::new(0);

const ETHERTYPE: usize = ethernet::LENGTH_BYTES - 2;
/// The last four bytes of the source address, and the UDP header, of each family.
const SOURCE_V4: usize = ethernet::LENGTH_BYTES + ipv4::ADDRESSES;
const UDP_V4: usize = ethernet::LENGTH_BYTES + ipv4::LENGTH_BYTES;
const SOURCE_V6: usize = ethernet::LENGTH_BYTES + ipv6::ADDRESSES + 12;
const UDP_V6: usize = ethernet::LENGTH_BYTES + ipv6::LENGTH_BYTES;

/// Live frames: the next flow's packet leaves. All of it is written, since pages come back as they went.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match next_datagram(&DATAGRAM, &ctx) {
        // SAFETY: all offsets lie in the frame of the template's length.
        Some((frame, flow)) => unsafe {
            let delta = set_address(frame.add(SOURCE_V4), flow);
            set_port(frame.add(UDP_V4), flow);
            let checksum = frame.add(ethernet::LENGTH_BYTES + ipv4::CHECKSUM).cast::<[u8; 2]>();
            checksum.write(delta.apply(Be16::from_bytes(checksum.read())).bytes());
            bpf_redirect(OUT.load(), 0) as u32
        },
        None => xdp_action::XDP_ABORTED,
    }
}

/// As [`generate`], over IPv6.
#[xdp]
fn generate_v6(ctx: XdpContext) -> u32 {
    match next_datagram(&DATAGRAM_V6, &ctx) {
        // SAFETY: as in `generate`.
        Some((frame, flow)) => unsafe {
            let address = set_address(frame.add(SOURCE_V6), flow);
            let delta = address.and(set_port(frame.add(UDP_V6), flow));
            let checksum = frame.add(UDP_V6 + udp::CHECKSUM).cast::<[u8; 2]>();
            checksum.write(apply_to_udp(delta, Be16::from_bytes(checksum.read())).bytes());
            bpf_redirect(OUT.load(), 0) as u32
        },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Writes the first flow's packet over the frame; the frame, with the number of the flow whose turn it is.
#[inline(always)]
fn next_datagram<const LENGTH: usize>(
    template: &Array<[u8; LENGTH]>,
    ctx: &XdpContext,
) -> Option<(*mut u8, u32)> {
    let template = template.get(0)?;
    let next = NEXT.get_ptr_mut(0)?;
    let data = ctx.data();
    if data + LENGTH > ctx.data_end() {
        return None;
    }
    // SAFETY: one processor runs the generator; the frame was just seen to be as long as the template.
    unsafe {
        let flow = *next;
        *next = if flow + 1 >= TRAFFIC_FLOWS.load() { 0 } else { flow + 1 };
        (data as *mut [u8; LENGTH]).write(*template);
        Some((data as *mut u8, flow))
    }
}

/// Adds a flow's part of the source address to its last four bytes; the change of checksums over them.
///
/// # Safety
/// The four bytes are the frame's.
#[inline(always)]
unsafe fn set_address(address: *mut u8, flow: u32) -> Delta {
    let words = |address: u32| [Be16::new((address >> 16) as u16), Be16::new(address as u16)];
    // SAFETY: as the caller says.
    unsafe {
        let old = u32::from_be(address.cast::<u32>().read_unaligned());
        let new = old + flow / FLOWS_PER_ADDRESS;
        address.cast::<u32>().write_unaligned(new.to_be());
        Delta::of_words(words(old), words(new))
    }
}

/// Writes a flow's source port, for [`PORT_FIRST`]; the change of checksums over it.
///
/// # Safety
/// The two bytes are the frame's.
#[inline(always)]
unsafe fn set_port(port: *mut u8, flow: u32) -> Delta {
    let number = PORT_FIRST + (flow % FLOWS_PER_ADDRESS) as u16;
    // SAFETY: as the caller says.
    unsafe { port.cast::<u16>().write_unaligned(number.to_be()) };
    Delta::of_words([Be16::new(PORT_FIRST), Be16::new(0)], [Be16::new(number), Be16::new(0)])
}

/// Counts UDP frames and discards everything.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    const PROTOCOL_V4: usize = ethernet::LENGTH_BYTES + 9;
    const PROTOCOL_V6: usize = ethernet::LENGTH_BYTES + 6;
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if data + PROTOCOL_V4 < data_end
        && let Some(count) = ARRIVED.get_ptr_mut(0)
    {
        // SAFETY: the bytes were just seen to be inside the frame; the count is this processor's own.
        unsafe {
            let kind = u16::from_be(((data + ETHERTYPE) as *const u16).read_unaligned());
            let place = if kind == ethernet::TYPE_IPV6 { PROTOCOL_V6 } else { PROTOCOL_V4 };
            if ((data + place) as *const u8).read() == lb_common::protocol::UDP {
                *count += 1;
            }
        }
    }
    xdp_action::XDP_DROP
}

/// The floor of forwarding: other Ethernet addresses, and out.
#[xdp]
fn floor_redirect(ctx: XdpContext) -> u32 {
    let Some(link) = LINK.get(0) else { return xdp_action::XDP_ABORTED };
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if data + ethernet::LENGTH_BYTES > data_end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the frame was just seen to be longer; the helper takes no pointer.
    unsafe {
        (data as *mut [u8; 12]).write(*link);
        bpf_redirect(OUT.load(), 0) as u32
    }
}
