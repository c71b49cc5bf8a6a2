//! The harness program of the benchmark of the path: it writes a fresh packet of the next flow over
//! the frame and calls the program under test. Without it every repetition of a test run would see the
//! frame as the last one left it, and always the same flow.
#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::bench::{FRAME_BYTES, Template};

#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Number of flows to go through, a power of two less one.
#[unsafe(no_mangle)]
static FLOWS_MASK: Global<u32> = Global::new(0);

/// Restores the frame, moves to the next flow, calls the program.
#[xdp]
fn bench_xdp(ctx: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(counter) = COUNTER.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let data = ctx.data();
    if data + FRAME_BYTES > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the counter is this CPU's own; the frame was just seen to be as long as the template, and
    // both offsets lie inside it: they are masked to what the test below allows.
    unsafe {
        let flow = (*counter as u32) & FLOWS_MASK.load();
        *counter += 1;
        (data as *mut [u8; FRAME_BYTES]).write(template.frame);
        let address = (template.source_word_offset & 63) as usize;
        let port = (template.source_port_offset & 63) as usize;
        ((data + address) as *mut u32).write_unaligned((0x0a80_0000 + (flow >> 14)).to_be());
        ((data + port) as *mut u16).write_unaligned((1024 + (flow & 0x3fff) as u16).to_be());
        PROGRAMS.tail_call(&ctx, 0);
    }
    // No program is set: the floor of the method.
    xdp_action::XDP_PASS
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
