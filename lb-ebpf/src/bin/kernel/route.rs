//! Routes from the kernel's FIB, and the next hops that it gave last.
use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_fib_lookup};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use lb_common::{Address, interface};
use lb_ebpf::packet::Mac;
use lb_ebpf::tables::{Route, Tables as _};

use crate::maps::{INTERFACES, KernelTables, ROUTE_GENERATION};

/// The kind of hook, which decides how a packet can leave it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
    Socket,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Places of NEXT_HOPS, a power of two.
const NEXT_HOPS_MAX: u32 = 4_096;

/// Next hops that this CPU has found, each at the place that its addresses hash to. Another pair of addresses
/// takes the place over: that costs a lookup, as without it.
#[map]
static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::with_max_entries(NEXT_HOPS_MAX, 0);

/// A next hop and what it was found for. It holds while the second and the generation of the routes are those
/// that it was found in: the agent raises the latter with each change of the node's routes and neighbours, the
/// former bounds what is missed without an agent.
#[repr(C)]
pub(crate) struct NextHop {
    source: Address,
    destination: Address,
    /// [`asker`].
    asker: u32,
    generation: u32,
    found_s: u32,
    /// What fits through, from the IP header on, bytes.
    mtu_bytes: u32,
    /// Interface index.
    interface: u32,
    source_mac: Mac,
    destination_mac: Mac,
}

/// What a lookup came to. A number, since the rest is in the [`NextHop`] already.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Found {
    Link,
    Neighbour,
    TooBig,
    None,
}

/// The way from `source` to `destination` for a packet that came in by the tables' interface. The kernel's FIB
/// is asked for the first packet of a second: it takes longer than all the rest of a known flow's packet.
#[inline(always)]
pub(crate) fn find(
    tables: &KernelTables,
    source: &Address,
    destination: &Address,
    length_bytes: u16,
) -> Route {
    let Some(hop) = NEXT_HOPS.get_ptr_mut(place(source, destination)) else {
        return Route::None;
    };
    // SAFETY: the pointer is to this CPU's own value, for which all zero is a value, and no other reference to it is
    // alive: soft interrupts do not nest.
    let hop = unsafe { &mut *hop };
    let found = if hop.holds(tables, source, destination, length_bytes) {
        Found::Link
    } else {
        look_up(tables, source, destination, length_bytes, hop)
    };
    match found {
        Found::Link => Route::Link {
            interface: hop.interface,
            source_mac: hop.source_mac,
            destination_mac: hop.destination_mac,
        },
        Found::Neighbour => Route::Neighbour { interface: hop.interface },
        Found::TooBig => Route::TooBig { mtu_bytes: hop.mtu_bytes },
        Found::None => Route::None,
    }
}

impl NextHop {
    #[inline(always)]
    fn holds(
        &self,
        tables: &KernelTables,
        source: &Address,
        destination: &Address,
        length_bytes: u16,
    ) -> bool {
        self.found_s == tables.now_s()
            && self.destination == *destination
            && self.source == *source
            && self.asker == asker(tables)
            && self.generation == generation()
            && (u32::from(length_bytes) <= self.mtu_bytes || !is_checked(tables))
    }
}

/// The interface that asks, since rules may be about it, and the kind of hook.
#[inline(always)]
fn asker(tables: &KernelTables) -> u32 {
    tables.interface << 1 | u32::from(tables.hook == Hook::Xdp)
}

#[inline(always)]
fn generation() -> u32 {
    ROUTE_GENERATION.get(0).copied().unwrap_or_default()
}

#[inline(always)]
fn place(source: &Address, destination: &Address) -> u32 {
    /// 2^64 divided by the golden section (Knuth, The Art of Computer Programming 3, §6.4).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let ([s0, s1], [d0, d1]) = (source.halves(), destination.halves());
    let mixed = (s0 ^ d1).wrapping_mul(SPREAD) ^ (d0 ^ s1).rotate_left(32);
    (mixed.wrapping_mul(SPREAD) >> (64 - NEXT_HOPS_MAX.ilog2())) as u32
}

/// A packet that the kernel will cut (GSO) is longer than any link takes: it checks those itself.
#[inline(always)]
fn is_checked(tables: &KernelTables) -> bool {
    tables.hook == Hook::Xdp || !is_cut_later(tables.ctx)
}

/// The question to the FIB: 64 bytes that the stack does not have for the longest chain of calls.
#[map]
static QUERY: PerCpuArray<Query> = PerCpuArray::with_max_entries(1, 0);

/// At an alignment at which its addresses can be written in whole words.
#[repr(C, align(8))]
struct Query(FibLookup);

/// Asks the kernel's FIB and notes the answer.
#[inline(never)]
fn look_up(
    tables: &KernelTables,
    source: &Address,
    destination: &Address,
    length_bytes: u16,
    hop: &mut NextHop,
) -> Found {
    // Until all of it is written it holds for nothing. What is known is written before the call, to keep it off the
    // stack.
    hop.found_s = 0;
    (hop.source, hop.destination, hop.asker) = (*source, *destination, asker(tables));
    // Read first: a change during the lookup makes what was found old.
    hop.generation = generation();
    let Some(query) = QUERY.get_ptr_mut(0) else {
        return Found::None;
    };
    // SAFETY: the pointer is to this CPU's own value, a plain C struct of integers for which all zero is a value, and no
    // other reference to it is alive.
    let query = unsafe {
        query.write_bytes(0, 1);
        &mut (*query).0
    };
    query.ifindex = tables.interface;
    // With any length the kernel says what fits (`mtu_result`).
    query.__bindgen_anon_1.tot_len = if is_checked(tables) { length_bytes } else { 1 };
    if destination.is_v4() {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source.v4_bytes());
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination.v4_bytes());
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = words(source);
        query.__bindgen_anon_4.ipv6_dst = words(destination);
    }
    // SAFETY: `query` lives through the call and its size is given.
    let status = unsafe { bpf_fib_lookup(tables.ctx, query, size_of::<FibLookup>() as i32, 0) };
    hop.interface = query.ifindex;
    if status == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) && tables.hook == Hook::Tc {
        return Found::Neighbour;
    }
    // SAFETY: an integer over the length that was given; the kernel has put the MTU there.
    hop.mtu_bytes = u32::from(unsafe { query.__bindgen_anon_1.mtu_result });
    if status == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        return if tables.hook == Hook::Xdp && is_aggregated(tables.ctx) {
            Found::None
        } else {
            Found::TooBig
        };
    }
    if status != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Found::None;
    }
    if tables.hook == Hook::Xdp && hop.interface != tables.interface && !takes_xdp_frames(hop.interface) {
        return Found::None;
    }
    (hop.source_mac, hop.destination_mac) = (mac(&query.smac), mac(&query.dmac));
    hop.found_s = tables.now_s();
    Found::Link
}

/// Whether an skb is several packets in one (GSO).
#[inline(always)]
fn is_cut_later(ctx: *mut c_void) -> bool {
    // SAFETY: the context is that of a tc program, valid while it runs.
    unsafe { (*ctx.cast::<__sk_buff>()).gso_size != 0 }
}

/// Whether an XDP frame is longer than its own interface takes: several packets in one (GRO), which
/// generic XDP sees. The next hook knows where to cut it.
#[inline(always)]
fn is_aggregated(ctx: *mut c_void) -> bool {
    let mut mtu_bytes = 0;
    // SAFETY: the integer lives through the call; interface zero is the packet's own.
    unsafe { bpf_check_mtu(ctx, 0, &raw mut mtu_bytes, 0, 0) != 0 }
}

#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    let [first, last] = address.halves();
    [first as u32, (first >> 32) as u32, last as u32, (last >> 32) as u32]
}

/// Reads an address of the query in 16-bit words: it stands at an even offset only, and the verifier
/// (6.18: "misaligned stack access") takes no wider word there.
#[inline(always)]
fn mac(bytes: &[u8; 6]) -> Mac {
    let words = bytes.as_ptr().cast::<[u8; 2]>();
    // SAFETY: three words of two bytes are inside the six bytes. Volatile, lest they be joined.
    let ([a, b], [c, d], [e, f]) =
        unsafe { (words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile()) };
    Mac::from_bytes([a, b, c, d, e, f])
}

/// Whether a frame may be redirected to an interface: only the agent knows its driver.
#[inline(always)]
fn takes_xdp_frames(index: u32) -> bool {
    // SAFETY: the value is copied out; the agent replaces whole entries.
    let found = unsafe { INTERFACES.get(index) }.copied();
    found.is_some_and(|found: interface::Interface| found.flags & interface::flags::XDP_TRANSMIT != 0)
}
