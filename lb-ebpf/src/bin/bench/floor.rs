//! What a packet costs at the least: XDP programs that do less and less of what the path does, for plain
//! TCP over IPv4 and IPv6 without options. The tables' entries are those of the path, so that a lookup
//! reads as much memory.
use core::hint::black_box;

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_action};
use aya_ebpf::helpers::bpf_fib_lookup;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::XdpContext;
use lb_common::bench::FRAME_BYTES;
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::{Address, Be16, protocol};
use lb_ebpf::checksum::Delta;
use lb_ebpf::header::{ethernet, ipv4, ipv6, tcp};
use lb_ebpf::parse::Family;

#[map]
static FLOOR_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);

const TRANSPORT_OFFSET_V4: usize = ethernet::LENGTH_BYTES + 20;
const TRANSPORT_OFFSET_V6: usize = ethernet::LENGTH_BYTES + 40;

/// The floor of every program.
#[xdp]
fn floor_empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Reads the five-tuple.
#[xdp]
fn floor_parse(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::new(&ctx) else { return xdp_action::XDP_ABORTED };
    let Some((key, _)) = frame.parse() else { return xdp_action::XDP_DROP };
    black_box(&key);
    xdp_action::XDP_PASS
}

/// Reads the five-tuple and finds its entry.
#[xdp]
fn floor_lookup(ctx: XdpContext) -> u32 {
    let Some(frame) = Frame::new(&ctx) else { return xdp_action::XDP_ABORTED };
    let Some((key, _)) = frame.parse() else { return xdp_action::XDP_DROP };
    // SAFETY: user space wrote the entries before the run and writes none during it.
    match unsafe { FLOOR_FLOWS.get(&key) } {
        Some(flow) if flow.flags == 0 => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

/// Reads the five-tuple, finds its entry, rewrites the packet as it says and transmits it.
#[xdp]
fn floor_forward(ctx: XdpContext) -> u32 {
    let Some(mut frame) = Frame::new(&ctx) else { return xdp_action::XDP_ABORTED };
    let Some((key, family)) = frame.parse() else { return xdp_action::XDP_DROP };
    // SAFETY: as in `floor_lookup`.
    let Some(flow) = (unsafe { FLOOR_FLOWS.get(&key) }) else { return xdp_action::XDP_DROP };
    frame.rewrite(&key, flow, family);
    xdp_action::XDP_TX
}

/// As [`floor_forward`], and asks the kernel's FIB for the way in between.
#[xdp]
fn floor_route(ctx: XdpContext) -> u32 {
    let Some(mut frame) = Frame::new(&ctx) else { return xdp_action::XDP_ABORTED };
    let Some((key, family)) = frame.parse() else { return xdp_action::XDP_DROP };
    // SAFETY: as in `floor_lookup`.
    let Some(flow) = (unsafe { FLOOR_FLOWS.get(&key) }) else { return xdp_action::XDP_DROP };
    if !has_route(&ctx, flow, family) {
        return xdp_action::XDP_ABORTED;
    }
    frame.rewrite(&key, flow, family);
    xdp_action::XDP_TX
}

#[inline(always)]
fn has_route(ctx: &XdpContext, flow: &Flow, family: Family) -> bool {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let words = |address: &Address| {
        let [first, last] = address.halves();
        [first as u32, (first >> 32) as u32, last as u32, (last >> 32) as u32]
    };
    // SAFETY: a plain C struct of integers, for which all zero is a value.
    let mut aligned: Aligned = unsafe { core::mem::zeroed() };
    let query = &mut aligned.0;
    query.ifindex = ctx.ingress_ifindex() as u32;
    match family {
        Family::V4 => {
            query.family = AF_INET;
            query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(flow.new_source.v4_bytes());
            query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(flow.new_destination.v4_bytes());
        }
        Family::V6 => {
            query.family = AF_INET6;
            query.__bindgen_anon_3.ipv6_src = words(&flow.new_source);
            query.__bindgen_anon_4.ipv6_dst = words(&flow.new_destination);
        }
    }
    // SAFETY: `query` lives through the call and its size is given.
    let status = unsafe { bpf_fib_lookup(ctx.ctx.cast(), query, size_of::<FibLookup>() as i32, 0) };
    status == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
}

/// The query, at an alignment at which its addresses can be written in whole words.
#[repr(C, align(8))]
struct Aligned(FibLookup);

/// A frame of at least [`FRAME_BYTES`].
struct Frame {
    data: usize,
}

impl Frame {
    #[inline(always)]
    fn new(ctx: &XdpContext) -> Option<Self> {
        let data = ctx.data();
        (data + FRAME_BYTES <= ctx.data_end()).then_some(Self { data })
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        // SAFETY: the offsets of this module are constants below `FRAME_BYTES`; the verifier checks it.
        unsafe { ((self.data + offset) as *const [u8; N]).read() }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, value: [u8; N]) {
        // SAFETY: as in `load`.
        unsafe { ((self.data + offset) as *mut [u8; N]).write(value) };
    }

    #[inline(always)]
    fn parse(&self) -> Option<(FlowKey, Family)> {
        let start = ethernet::LENGTH_BYTES;
        let (source, destination, transport, family) = match self.load(12) {
            [0x08, 0x00] => {
                let [version] = self.load(start);
                let [protocol] = self.load(start + 9);
                if version != 0x45 || protocol != protocol::TCP {
                    return None;
                }
                let source = Address::v4(self.load(start + ipv4::ADDRESSES));
                let destination = Address::v4(self.load(start + ipv4::ADDRESSES + 4));
                (source, destination, TRANSPORT_OFFSET_V4, Family::V4)
            }
            [0x86, 0xdd] => {
                let [next_header] = self.load(start + 6);
                if next_header != protocol::TCP {
                    return None;
                }
                let source = Address::v6(self.load(start + ipv6::ADDRESSES));
                let destination = Address::v6(self.load(start + ipv6::ADDRESSES + 16));
                (source, destination, TRANSPORT_OFFSET_V6, Family::V6)
            }
            _ => return None,
        };
        let source_port = Be16::from_bytes(self.load(transport));
        let destination_port = Be16::from_bytes(self.load(transport + 2));
        let protocol = u32::from(protocol::TCP);
        Some((FlowKey { source, destination, source_port, destination_port, protocol }, family))
    }

    #[inline(always)]
    fn rewrite(&mut self, key: &FlowKey, flow: &Flow, family: Family) {
        let start = ethernet::LENGTH_BYTES;
        let addresses = Delta::of_addresses(
            [&key.source, &key.destination],
            [&flow.new_source, &flow.new_destination],
            family,
        );
        let ports = Delta::of_words(
            [key.source_port, key.destination_port],
            [flow.new_source_port, flow.new_destination_port],
        );
        match family {
            Family::V4 => {
                let checksum = Be16::from_bytes(self.load(start + ipv4::CHECKSUM));
                self.store(start + ipv4::CHECKSUM, addresses.apply(checksum).bytes());
                self.store(start + ipv4::ADDRESSES, flow.new_source.v4_bytes());
                self.store(start + ipv4::ADDRESSES + 4, flow.new_destination.v4_bytes());
                self.rewrite_transport::<TRANSPORT_OFFSET_V4>(flow, addresses.and(ports));
            }
            Family::V6 => {
                self.store(start + ipv6::ADDRESSES, flow.new_source.v6_bytes());
                self.store(start + ipv6::ADDRESSES + 16, flow.new_destination.v6_bytes());
                self.rewrite_transport::<TRANSPORT_OFFSET_V6>(flow, addresses.and(ports));
            }
        }
        let (destination, source): ([u8; 6], [u8; 6]) =
            (self.load(ethernet::DESTINATION), self.load(ethernet::SOURCE));
        self.store(ethernet::DESTINATION, source);
        self.store(ethernet::SOURCE, destination);
    }

    #[inline(always)]
    fn rewrite_transport<const OFFSET: usize>(&mut self, flow: &Flow, delta: Delta) {
        self.store(OFFSET, flow.new_source_port.bytes());
        self.store(OFFSET + 2, flow.new_destination_port.bytes());
        let checksum = Be16::from_bytes(self.load(OFFSET + tcp::CHECKSUM));
        self.store(OFFSET + tcp::CHECKSUM, delta.apply(checksum).bytes());
    }
}
