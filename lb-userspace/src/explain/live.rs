//! The same packet through the real program in the kernel, on the pinned maps of the agent, in a form
//! that writes nothing.
use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::{interface, maps};
use lb_ebpf::host::HostFrame;

use super::{Entry, Question, frame};
use crate::maps::{Maps, Pins};

/// Longest frame that a program may give back.
const FRAME_BYTES_MAX: usize = 2048;

/// What the program in the kernel did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRun {
    /// The program that ran.
    pub program: &'static str,
    /// Its return code's meaning: `forward`, `refuse`, `drop` or `pass`.
    pub verdict: &'static str,
    /// The frame afterwards.
    pub frame: HostFrame,
}

const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// Loads the object without its writes, over the pinned maps, and runs the programs that the packet
/// would meet; the answer is the one that decided. `None` for a socket hook, which the kernel cannot run on demand.
///
/// # Errors
/// The object does not load or the kernel refuses the run.
pub fn run(object: &[u8], pins: &Pins, open: &Maps, question: &Question) -> Result<Option<KernelRun>> {
    let uplink = uplink(open)?;
    let mut ebpf = load(object, pins)?;
    let packet = frame::first_packet(question);
    match question.entry {
        Entry::Socket => Ok(None),
        Entry::Pod => run_tc(&mut ebpf, "tc_pod_in", &packet, 1).map(Some),
        Entry::Uplink => {
            let (index, has_xdp) = uplink.context("no uplink is attached; see `podway get programs`")?;
            if has_xdp {
                let run = run_xdp(&mut ebpf, &packet, index)?;
                // What XDP leaves alone meets the other program of the interface, as a real packet does.
                if run.verdict != "pass" {
                    return Ok(Some(run));
                }
            }
            run_tc(&mut ebpf, "tc_uplink_in", &packet, index).map(Some)
        }
    }
}

/// The first uplink, and whether its XDP is native.
fn uplink(open: &Maps) -> Result<Option<(u32, bool)>> {
    let mut uplinks: Vec<(u32, bool)> = open
        .interfaces()?
        .into_iter()
        .filter(|(_, found)| found.flags & interface::flags::UPLINK != 0)
        .map(|(index, found)| (index, found.flags & interface::flags::XDP_TRANSMIT != 0))
        .collect();
    uplinks.sort_unstable();
    Ok(uplinks.first().copied())
}

fn load(object: &[u8], pins: &Pins) -> Result<Ebpf> {
    let is_dry_run: u8 = 1;
    let mut loader = EbpfLoader::new();
    loader.override_global("DRY_RUN", &is_dry_run, true);
    for name in maps::ALL {
        loader.map_pin_path(name, pins.map(name));
        loader.map_max_entries(name, aya::maps::MapInfo::from_pin(pins.map(name))?.max_entries());
    }
    loader.load(object).context("cannot load the eBPF object over the pinned maps")
}

fn run_xdp(ebpf: &mut Ebpf, packet: &[u8], interface: u32) -> Result<KernelRun> {
    let program: &mut Xdp =
        ebpf.program_mut("xdp_uplink").context("no xdp_uplink in the object")?.try_into()?;
    program.load()?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, packet.len() as u32, 0, interface, 0, 0];
    let (code, out) = test_run(program, packet, bytemuck::bytes_of(&context))?;
    let (is_drop, is_sent) = match code {
        XDP_DROP => (true, false),
        XDP_TX | XDP_REDIRECT => (false, true),
        _ => (false, false),
    };
    Ok(KernelRun {
        program: "xdp_uplink",
        verdict: verdict(is_drop, is_sent, packet, &out),
        frame: HostFrame(out),
    })
}

fn run_tc(ebpf: &mut Ebpf, name: &'static str, packet: &[u8], interface: u32) -> Result<KernelRun> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).context("no such program in the object")?.try_into()?;
    program.load()?;
    // struct __sk_buff: only the interface index, its eleventh word, may be set.
    let mut context = [0u32; 48];
    context[10] = interface;
    let (code, out) = test_run(program, packet, bytemuck::bytes_of(&context))?;
    let is_drop = code == TC_SHOT;
    let is_sent = code == TC_REDIRECT;
    Ok(KernelRun { program: name, verdict: verdict(is_drop, is_sent, packet, &out), frame: HostFrame(out) })
}

/// The program's return code, and the frame afterwards.
fn test_run<P>(program: &P, packet: &[u8], context: &[u8]) -> Result<(u32, Vec<u8>)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; FRAME_BYTES_MAX];
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(context),
        repeat: 1,
        ..TestRunOptions::default()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}

/// A frame that is sent without the stack is an answer when it goes back to who sent it.
fn verdict(is_drop: bool, is_sent: bool, before: &[u8], after: &[u8]) -> &'static str {
    let (sender, receiver) = (ends(before).map(|[source, _]| source), ends(after).map(|[_, to]| to));
    match (is_drop, is_sent) {
        (true, _) => "drop",
        (false, true) if sender.is_some() && sender == receiver => "refuse",
        (false, false) if before == after => "pass",
        _ => "forward",
    }
}

/// Source and destination address of a frame without tags.
fn ends(frame: &[u8]) -> Option<[&[u8]; 2]> {
    let is_v4 = frame.get(12..14)? == [0x08, 0x00];
    let (first, bytes) = if is_v4 { (26, 4) } else { (22, 16) };
    Some([frame.get(first..first + bytes)?, frame.get(first + bytes..first + 2 * bytes)?])
}
