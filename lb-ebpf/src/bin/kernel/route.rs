//! Routes from the kernel's FIB.
use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_fib_lookup};
use lb_common::{Address, interface};
use lb_ebpf::packet::Mac;
use lb_ebpf::tables::Route;

use crate::maps::{INTERFACES, KernelTables};

/// The kind of hook, which decides how a packet can leave it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
    Socket,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The way from `source` to `destination` for a packet that came in by the tables' interface. Not
/// inlined: the query takes 64 of a kernel program's 512 bytes of stack.
#[inline(never)]
pub(crate) fn find(
    tables: &KernelTables,
    source: &Address,
    destination: &Address,
    length_bytes: u16,
) -> Route {
    let KernelTables { ctx, hook, interface, .. } = *tables;
    // SAFETY: a plain C struct of integers, for which all zero is a value.
    let mut aligned: Aligned = unsafe { core::mem::zeroed() };
    let query = &mut aligned.0;
    query.ifindex = interface;
    // A packet that the kernel will cut (GSO) is longer than any link takes: it checks those itself.
    let is_checked = hook == Hook::Xdp || !is_cut_later(ctx);
    query.__bindgen_anon_1.tot_len = if is_checked { length_bytes } else { 0 };
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
    let status = unsafe { bpf_fib_lookup(ctx, query, size_of::<FibLookup>() as i32, 0) };
    let out = query.ifindex;
    if status == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) && hook == Hook::Tc {
        return Route::Neighbour { interface: out };
    }
    if status == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        if hook == Hook::Xdp && is_aggregated(ctx) {
            return Route::None;
        }
        // SAFETY: an integer over the length that was given; the kernel has put the MTU there.
        return Route::TooBig { mtu_bytes: u32::from(unsafe { query.__bindgen_anon_1.mtu_result }) };
    }
    if status != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Route::None;
    }
    if hook == Hook::Xdp && out != interface && !takes_xdp_frames(out) {
        return Route::None;
    }
    Route::Link { interface: out, source_mac: mac(&query.smac), destination_mac: mac(&query.dmac) }
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

/// The query, at an alignment at which its addresses can be written in whole words.
#[repr(C, align(8))]
struct Aligned(FibLookup);

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
