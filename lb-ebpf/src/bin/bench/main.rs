//! The programs of the benchmark of the path: a harness, and the floors that the path is held against.
//!
//! The harness writes a fresh packet of the next flow over the frame and calls the program under test.
//! Without it every repetition of a test run would see the frame as the last one left it, and always the
//! same flow.
#![no_std]
#![no_main]

mod floor;
mod traffic;

use aya_ebpf::Global;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::bench::{FLOWS_PER_ADDRESS, FRAME_BYTES, PORT_FIRST};

#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TEMPLATE: Array<[u8; FRAME_BYTES]> = Array::with_max_entries(1, 0);
#[map]
static COUNTER: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// The flows' ports, where they follow no rule; see [`PORTS_COUNT`].
#[map]
static PORTS: Array<u32> = Array::with_max_entries(1, 0);

/// Number of flows to go through.
#[unsafe(no_mangle)]
static FLOWS: Global<u32> = Global::new(2);

/// From a flow to the next one, less than [`FLOWS`] and without a common divisor: more than one, lest
/// entries that were made one after the other be found in the cache one after the other.
#[unsafe(no_mangle)]
static STEP: Global<u32> = Global::new(1);

/// The first flow's number.
#[unsafe(no_mangle)]
static FLOWS_FIRST: Global<u32> = Global::new(0);

/// Offset of the last four bytes of the address that flows differ in. The verifier knows the value, and
/// with it that it lies in the frame.
#[unsafe(no_mangle)]
static ADDRESS_OFFSET: Global<u32> = Global::new(0);

/// Those four bytes of the first flow, host order.
#[unsafe(no_mangle)]
static ADDRESS_FIRST: Global<u32> = Global::new(0);

/// Offset of the port that flows differ in.
#[unsafe(no_mangle)]
static PORT_OFFSET: Global<u32> = Global::new(0);

/// Not zero: that many flows of one address, whose ports are in [`PORTS`].
#[unsafe(no_mangle)]
static PORTS_COUNT: Global<u32> = Global::new(0);

/// XDP: restores the frame, moves to the next flow, calls the program. Alone it is the floor of the method.
#[xdp]
fn bench_xdp(ctx: XdpContext) -> u32 {
    // An encapsulation is taken off.
    let excess = (ctx.data_end() - ctx.data()) as i32 - FRAME_BYTES as i32;
    // SAFETY: the context is valid while the program runs.
    if excess != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, excess) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    if write_next(ctx.data(), ctx.data_end()).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: a tail call returns only where no program is set.
    unsafe { PROGRAMS.tail_call(&ctx, 0) };
    xdp_action::XDP_PASS
}

/// tc: as [`bench_xdp`].
#[classifier]
fn bench_tc(ctx: TcContext) -> i32 {
    if write_next(ctx.data(), ctx.data_end()).is_none() {
        return TC_ACT_SHOT;
    }
    // SAFETY: as in `bench_xdp`.
    unsafe { PROGRAMS.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

/// An empty tc program.
#[classifier]
fn floor_tc_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Writes the next flow's packet over the frame.
#[inline(always)]
fn write_next(data: usize, data_end: usize) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    let counter = COUNTER.get_ptr_mut(0)?;
    if data + FRAME_BYTES > data_end {
        return None;
    }
    // SAFETY: the counter is this CPU's own; the frame was just seen to be as long as the template, and
    // the verifier checks that both offsets lie inside it.
    unsafe {
        let index = *counter;
        let next = index + STEP.load();
        *counter = if next >= FLOWS.load() { next - FLOWS.load() } else { next };
        let flow = FLOWS_FIRST.load() + index;
        let (address, port) = match PORTS_COUNT.load() {
            0 => (flow / FLOWS_PER_ADDRESS, PORT_FIRST + (flow % FLOWS_PER_ADDRESS) as u16),
            _ => (0, *PORTS.get(flow)? as u16),
        };
        (data as *mut [u8; FRAME_BYTES]).write(*template);
        let address = ADDRESS_FIRST.load() + address;
        ((data + ADDRESS_OFFSET.load() as usize) as *mut u32).write_unaligned(address.to_be());
        ((data + PORT_OFFSET.load() as usize) as *mut u16).write_unaligned(port.to_be());
    }
    Some(())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing here can panic; the verifier would refuse the endless recursion.
    unsafe { core::hint::unreachable_unchecked() }
}

/// As the programs under test, whose licence a tail call must share.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
