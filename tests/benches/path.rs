//! ns per packet of the loaded XDP program, by test run: `cargo bench -p lb-tests --bench path`.
//!
//! A harness program writes a fresh packet of the next flow and tail-calls the program under test.
//! The time is the thread's CPU time around the system call; the floor is the harness alone, in the
//! same round. Rounds are interleaved, and each figure is the median of its rounds.
use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::bench::FRAME_BYTES;
use lb_tests::kernel::{Kernel, XDP, object_path};
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::world;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 9;
const PACKETS: u32 = 200_000;
const CONNTRACK_MAX: u32 = 1 << 19;

/// One line of the result.
struct Case {
    name: &'static str,
    frame: [u8; FRAME_BYTES],
    /// Offset of the last four bytes of the source address.
    source_word_offset: u32,
    source_port_offset: u32,
    flows: u32,
    /// Whether each round must see flows that no round saw before.
    is_new: bool,
    ns: Vec<f64>,
}

fn main() -> Result<()> {
    let mut kernel = Kernel::load(CONNTRACK_MAX)?;
    kernel.fill(&world::tables(now_s()))?;
    // An XDP program must be attached somewhere, or each test run switches the dispatcher on and off.
    let xdp: &mut Xdp = kernel.ebpf_mut().program_mut(XDP).context("no program")?.try_into()?;
    xdp.attach("lo", XdpMode::Skb).context("cannot attach to lo")?;
    let mut cases = cases();
    println!("{:<34}{:>9}{:>9}{:>9}{:>9}", "case", "flows", "median", "min", "max");
    for round in 0..ROUNDS as u32 {
        let floor = measure(None, &cases[0], 0)?;
        for case in &mut cases {
            let program: &Xdp = kernel.ebpf_mut().program(XDP).context("no program")?.try_into()?;
            if !case.is_new {
                measure(Some(program), case, 0)?;
            }
            let first_flow = if case.is_new { (1 << 21) + round * PACKETS } else { 0 };
            let ns = measure(Some(program), case, first_flow)?;
            case.ns.push(ns - floor);
        }
    }
    for case in &mut cases {
        case.ns.sort_by(f64::total_cmp);
        let (first, last) = (case.ns[0], case.ns[ROUNDS - 1]);
        let median = case.ns[ROUNDS / 2];
        let flows = if case.is_new { "each new".to_owned() } else { case.flows.to_string() };
        println!("{:<34}{flows:>9}{median:>9.0}{first:>9.0}{last:>9.0}", case.name);
    }
    Ok(())
}

fn now_s() -> u32 {
    u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX)
}

fn cases() -> Vec<Case> {
    let v4 = |port| (world::VIP_V4, port);
    let v6 = |port| (world::VIP_V6, port);
    let client4: std::net::IpAddr = [10, 128, 0, 0].into();
    let client6: std::net::IpAddr = [0x2001, 0xdb8, 9, 0, 0, 0, 0, 0].into();
    let case = |name, packet: Vec<u8>, flows, is_new| {
        let mut frame = [0; FRAME_BYTES];
        frame[..packet.len()].copy_from_slice(&packet);
        let (source_word_offset, source_port_offset) =
            if packet[12..14] == [8, 0] { (26, 34) } else { (34, 54) };
        Case { name, frame, source_word_offset, source_port_offset, flows, is_new, ns: Vec::new() }
    };
    let tcp4 = PacketBuilder::tcp((client4, 1024).into(), v4(world::PORT_LOCAL).into(), ACK).build();
    let tcp6 = PacketBuilder::tcp((client6, 1024).into(), v6(world::PORT_LOCAL).into(), ACK).build();
    let udp4 = PacketBuilder::udp((client4, 1024).into(), v4(world::PORT_LOCAL).into()).build();
    let other = PacketBuilder::tcp((client4, 1024).into(), (client4, 443).into(), ACK).build();
    let syn4 = PacketBuilder::tcp((client4, 1024).into(), v4(world::PORT_LOCAL).into(), SYN).build();
    vec![
        case("established TCP over IPv4", tcp4.clone(), 1, false),
        case("established TCP over IPv4", tcp4, 1 << 16, false),
        case("established TCP over IPv6", tcp6.clone(), 1, false),
        case("established TCP over IPv6", tcp6, 1 << 16, false),
        case("established UDP over IPv4", udp4, 1, false),
        case("new TCP flow over IPv4", syn4, 1 << 30, true),
        case("not ours, TCP over IPv4", other, 1 << 16, false),
    ]
}

/// CPU time per packet of one test run, through a harness of its own whose flows begin at `first_flow`.
fn measure(program: Option<&Xdp>, case: &Case, first_flow: u32) -> Result<f64> {
    let mut harness = load_harness(case, first_flow)?;
    let mut templates: Array<&mut MapData, [u8; FRAME_BYTES]> =
        Array::try_from(harness.map_mut("TEMPLATE").context("no TEMPLATE")?)?;
    templates.set(0, case.frame, 0)?;
    if let Some(program) = program {
        let mut programs = ProgramArray::try_from(harness.map_mut("PROGRAMS").context("no PROGRAMS")?)?;
        programs.set(0, program.fd()?, 0)?;
    }
    let bench: &Xdp = harness.program("bench_xdp").context("no bench_xdp")?.try_into()?;
    let started = cpu_ns();
    bench.test_run(TestRunOptions {
        data_in: Some(&[0; FRAME_BYTES]),
        repeat: PACKETS,
        ..TestRunOptions::default()
    })?;
    Ok((cpu_ns() - started) as f64 / f64::from(PACKETS))
}

fn load_harness(case: &Case, first_flow: u32) -> Result<Ebpf> {
    let bytes = std::fs::read(object_path().with_file_name("podway-bench.o"))?;
    let flows_mask = case.flows - 1;
    let mut harness = EbpfLoader::new()
        .override_global("FLOWS_MASK", &flows_mask, true)
        .override_global("SOURCE_WORD_OFFSET", &case.source_word_offset, true)
        .override_global("SOURCE_PORT_OFFSET", &case.source_port_offset, true)
        .override_global("FLOWS_FIRST", &first_flow, true)
        .load(&bytes)?;
    let bench: &mut Xdp = harness.program_mut("bench_xdp").context("no bench_xdp")?.try_into()?;
    bench.load()?;
    Ok(harness)
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
