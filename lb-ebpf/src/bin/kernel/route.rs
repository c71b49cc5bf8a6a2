//! Routes from the kernel's FIB.
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup};
use aya_ebpf::helpers::bpf_fib_lookup;
use lb_common::{Address, interface};
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
pub(crate) fn find(tables: &KernelTables, source: &Address, destination: &Address) -> Route {
    let KernelTables { ctx, hook, interface, .. } = *tables;
    // SAFETY: a plain C struct of integers, for which all zero is a value.
    let mut query: FibLookup = unsafe { core::mem::zeroed() };
    query.ifindex = interface;
    if destination.is_v4() {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source.v4_bytes());
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination.v4_bytes());
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = source.words().map(lb_common::Be32::raw);
        query.__bindgen_anon_4.ipv6_dst = destination.words().map(lb_common::Be32::raw);
    }
    // SAFETY: `query` lives through the call and its size is given.
    let status = unsafe { bpf_fib_lookup(ctx, &mut query, size_of::<FibLookup>() as i32, 0) };
    let out = query.ifindex;
    if status == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) && hook == Hook::Tc {
        return Route::Neighbour { interface: out };
    }
    if status != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return Route::None;
    }
    if hook == Hook::Xdp && out != interface && !takes_xdp_frames(out) {
        return Route::None;
    }
    Route::Link { interface: out, source_mac: query.smac, destination_mac: query.dmac }
}

/// Whether a frame may be redirected to an interface: only the agent knows its driver.
#[inline(always)]
fn takes_xdp_frames(index: u32) -> bool {
    // SAFETY: the value is copied out; the agent replaces whole entries.
    let found = unsafe { INTERFACES.get(index) }.copied();
    found.is_some_and(|found: interface::Interface| found.flags & interface::flags::XDP_TRANSMIT != 0)
}
