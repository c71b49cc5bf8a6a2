//! The kernel programs: each turns its context into a frame and tables, asks the path, and turns the
//! verdict into a return code. All `unsafe` of this crate is in this binary.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod maps;
mod route;
mod sock_addr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::counters::Reason;
use lb_common::event::Point;
use lb_ebpf::parse::Form;
use lb_ebpf::path::{self, Side};
use lb_ebpf::verdict::Verdict;

use frame::{SkbFrame, XdpFrame};
use maps::KernelTables;
use route::Hook;

/// The packet goes on to the tc programs of others, if there are any (`TCX_NEXT`), and then to the stack.
/// `TC_ACT_OK` would end the chain: bandwidth limits and policies of a CNI would see nothing any more.
const GO_ON: i32 = TC_ACT_UNSPEC;

/// XDP on an uplink.
#[xdp]
fn xdp_uplink(ctx: XdpContext) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let mut tables = KernelTables::new(ctx.as_ptr(), Hook::Xdp, interface);
    let mut frame = XdpFrame::new(ctx.ctx);
    let verdict = match maps::scratch_for(&frame) {
        Ok(scratch) => path::to_backend(&mut frame, &mut tables, scratch, Side::Uplink),
        Err(reason) => Verdict::Pass(reason),
    };
    maps::count(verdict.reason());
    maps::tell(ctx.ctx, interface, Point::Xdp, verdict.reason());
    match verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) | Verdict::Hold(_) => xdp_action::XDP_DROP,
        Verdict::Answer(_) => xdp_action::XDP_TX,
        Verdict::ToLink { interface: out, .. } if out == interface => xdp_action::XDP_TX,
        // SAFETY: a helper call without pointers.
        Verdict::ToLink { interface: out, .. } => unsafe { bpf_redirect(out, 0) as u32 },
        // This hook's routes never ask for a neighbour, and nothing leaves by it.
        Verdict::ToNeighbour { .. } | Verdict::ToSelf(_) => xdp_action::XDP_DROP,
    }
}

/// tc ingress of an uplink: what XDP, where there is one, left alone.
#[classifier]
fn tc_uplink_in(ctx: TcContext) -> i32 {
    tc_ingress(&ctx, Side::Uplink)
}

/// tc ingress of a pod-side interface.
#[classifier]
fn tc_pod_in(ctx: TcContext) -> i32 {
    tc_ingress(&ctx, Side::Pod)
}

/// tc egress of every interface.
#[classifier]
fn tc_egress(ctx: TcContext) -> i32 {
    if frame::is_settled(&ctx) {
        return GO_ON;
    }
    let interface = frame::interface(&ctx);
    let mut tables = KernelTables::new(ctx.as_ptr(), Hook::Tc, interface);
    let Some(mut frame) = SkbFrame::new(&ctx) else {
        return GO_ON;
    };
    let verdict = match maps::scratch_apart(&frame) {
        Ok(scratch) => path::to_client(&mut frame, &mut tables, scratch, frame::sender(&ctx)),
        Err(reason) => Verdict::Pass(reason),
    };
    tc_action(ctx.skb.skb, interface, &verdict, Point::TcEgress)
}

/// Not attached: the agent runs it on a frame that was held, at the interface where it was, and the frame
/// comes in there, or leaves, once more; which, say the flags in `cb[0]`. A test run that redirects a clone is the one way in for any interface:
/// live XDP frames want one whose receive queue is registered (`xdp_convert_md_to_buff`), a pod's is not.
#[classifier]
fn tc_again(ctx: TcContext) -> i32 {
    let interface = frame::interface(&ctx);
    // SAFETY: the context is valid while the program runs.
    unsafe {
        let direction = (*ctx.skb.skb).cb[0] & BPF_F_INGRESS;
        bpf_clone_redirect(ctx.skb.skb, interface, u64::from(direction)) as i32
    }
}

#[inline(always)]
fn tc_ingress(ctx: &TcContext, side: Side) -> i32 {
    let interface = frame::interface(ctx);
    let mut tables = KernelTables::new(ctx.as_ptr(), Hook::Tc, interface);
    let Some(mut frame) = SkbFrame::new(ctx) else {
        return GO_ON;
    };
    let scratch = match maps::scratch_for(&frame) {
        Ok(scratch) => scratch,
        Err(reason) => return tc_action(ctx.skb.skb, interface, &Verdict::Pass(reason), Point::TcIngress),
    };
    let verdict = path::to_backend(&mut frame, &mut tables, scratch, side);
    // Asked for behind the path, lest the verifier walk it once for each answer.
    let is_settled = scratch.parsed.form == Form::Whole
        && matches!(verdict, Verdict::Pass(Reason::PassNotOurs) | Verdict::ToStack(_));
    frame::settle(ctx, is_settled);
    tc_action(ctx.skb.skb, interface, &verdict, Point::TcIngress)
}

/// Not inlined, so that its stack is not below that of the path: together they may have 512 bytes (Linux 6.1 counts 32
/// more than later ones).
#[inline(never)]
fn tc_action(skb: *mut __sk_buff, interface: u32, verdict: &Verdict, point: Point) -> i32 {
    // An answer to what leaves is for this node.
    let back = if point == Point::TcEgress { BPF_F_INGRESS } else { 0 };
    maps::count(verdict.reason());
    maps::tell(skb, interface, point, verdict.reason());
    match *verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => GO_ON,
        Verdict::Drop(_) | Verdict::Hold(_) => TC_ACT_SHOT,
        // SAFETY: helper calls without pointers, but for one that may be null.
        Verdict::Answer(_) => unsafe { bpf_redirect(interface, u64::from(back)) as i32 },
        Verdict::ToSelf(_) => unsafe { bpf_redirect(interface, u64::from(BPF_F_INGRESS)) as i32 },
        Verdict::ToLink { interface: out, .. } => unsafe { bpf_redirect(out, 0) as i32 },
        Verdict::ToNeighbour { interface: out, .. } => unsafe {
            bpf_redirect_neigh(out, core::ptr::null_mut(), 0, 0) as i32
        },
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing here can panic (no indexing, no overflow checks); the linker would keep this
    // function, and the verifier refuse its endless recursion, if anything could.
    unsafe { core::hint::unreachable_unchecked() }
}

/// Some helpers are for GPL-compatible programs only; this half is dual-licensed.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
