//! Traffic between namespaces: what makes packets, what counts those that arrive, and the least that
//! forwarding costs.
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::Be16;
use lb_common::bench::{DATAGRAM_BYTES, FLOWS_PER_ADDRESS, PORT_FIRST};
use lb_ebpf::checksum::Delta;
use lb_ebpf::header::{ethernet, ipv4};

/// The first flow's packet: UDP over IPv4, without a checksum of its own.
#[map]
static DATAGRAM: Array<[u8; DATAGRAM_BYTES]> = Array::with_max_entries(1, 0);
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

const SOURCE: usize = ethernet::LENGTH_BYTES + ipv4::ADDRESSES;
const SOURCE_PORT: usize = ethernet::LENGTH_BYTES + 20;

/// Live frames: the next flow's packet leaves. All of it is written, since pages come back as they went.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match write_datagram(ctx.data(), ctx.data_end()) {
        // SAFETY: a helper call without pointers.
        Some(()) => unsafe { bpf_redirect(OUT.load(), 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn write_datagram(data: usize, data_end: usize) -> Option<()> {
    let template = DATAGRAM.get(0)?;
    let next = NEXT.get_ptr_mut(0)?;
    if data + DATAGRAM_BYTES > data_end {
        return None;
    }
    // SAFETY: one processor runs the generator; the frame was just seen to be as long as the template, in
    // which all offsets lie.
    unsafe {
        let flow = *next;
        *next = if flow + 1 >= TRAFFIC_FLOWS.load() { 0 } else { flow + 1 };
        let frame = data as *mut u8;
        frame.cast::<[u8; DATAGRAM_BYTES]>().write(*template);
        let old = u32::from_be(frame.add(SOURCE).cast::<u32>().read_unaligned());
        let new = old + flow / FLOWS_PER_ADDRESS;
        let words = |address: u32| [Be16::new((address >> 16) as u16), Be16::new(address as u16)];
        let checksum = frame.add(ethernet::LENGTH_BYTES + ipv4::CHECKSUM).cast::<[u8; 2]>();
        let delta = Delta::of_words(words(old), words(new));
        checksum.write(delta.apply(Be16::from_bytes(checksum.read())).bytes());
        frame.add(SOURCE).cast::<u32>().write_unaligned(new.to_be());
        let port = PORT_FIRST + (flow % FLOWS_PER_ADDRESS) as u16;
        frame.add(SOURCE_PORT).cast::<u16>().write_unaligned(port.to_be());
    }
    Some(())
}

/// Counts UDP frames and discards everything.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    const PROTOCOL: usize = ethernet::LENGTH_BYTES + 9;
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if data + PROTOCOL < data_end
        && let Some(count) = ARRIVED.get_ptr_mut(0)
    {
        // SAFETY: the byte was just seen to be inside the frame; the count is this processor's own.
        unsafe {
            if ((data + PROTOCOL) as *const u8).read() == lb_common::protocol::UDP {
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
