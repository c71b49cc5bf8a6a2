//! Cost of a packet in the loaded programs, by test run: `cargo bench -p lb-tests --bench path`.
//!
//! A harness program writes a fresh packet of the next flow and tail-calls the program under test. The time
//! is the thread's CPU time around the system call; what the harness takes alone, in the same round, is
//! taken off. Rounds are interleaved. Each run is checked by what the programs counted: all of its packets
//! went the way that the case is about.
use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::ProgramInfo;
use lb_tests::bench::data::Better;
use lb_tests::bench::{Bench, cpu, services};
use lb_tests::kernel::{Kernel, XDP};
use lb_tests::uplink;

mod cases;
mod floor;
mod harness;
mod ratios;

use cases::{Case, Program, Sizes};
use harness::{Alone, Harness};

fn main() -> Result<()> {
    uplink::with_uplink(|uplink| {
        cpu::pin()?;
        let mut bench = Bench::new("path")?;
        measure(&mut bench, uplink)?;
        bench.finish()
    })
}

/// Everything that stays loaded while it is measured.
struct Loaded {
    kernels: Vec<Kernel>,
    /// The floors beside each kernel, with tables of the same size.
    floors: Vec<Ebpf>,
}

fn measure(bench: &mut Bench, uplink: u32) -> Result<()> {
    let sizes = bench.choose(Sizes::whole(), Sizes::quick());
    let mut kernels = Vec::new();
    for setup in &sizes.setups {
        let mut kernel = Kernel::load(setup.conntrack_max)?;
        uplink::fill_at(&mut kernel, &services::tables(uplink::now_s(), setup.services), uplink)?;
        kernels.push(kernel);
    }
    uplink::attach(&mut kernels[0])?;
    let floors: Result<_> = (0..)
        .zip(&sizes.setups)
        .map(|(index, setup)| floor::load(setup.conntrack_max, sizes.flows_max(index)))
        .collect();
    let floors = floors?;
    let loaded = Loaded { kernels, floors };
    let mut runs = Vec::new();
    for (index, case) in cases::all(&loaded, &sizes, uplink)?.into_iter().enumerate() {
        let parameters = case.parameters();
        let row = bench.row(case.group, &case.name, parameters, "ns", Better::Less);
        let harness = Harness::load(&case, &loaded, uplink, index as u32)?;
        runs.push((case, harness, row));
    }
    let mut alone = Alone::new(&runs[0].0, uplink)?;
    // New flows push older entries out of the LRU. So replies come before them, and after the known flows that they are
    // of, whose packets put an entry back that is missing.
    runs.sort_by_key(|(case, ..)| case.is_new());
    for _ in 0..sizes.rounds {
        let [xdp_ns, tc_ns] = alone.run(sizes.packets)?;
        for (case, harness, row) in &mut runs {
            let ns = one_run(case, harness, &loaded, sizes.packets)?;
            bench.add(*row, ns - if case.program.is_xdp() { xdp_ns } else { tc_ns });
        }
    }
    let rows: Vec<_> = runs.iter().map(|(case, _, row)| (case, *row)).collect();
    ratios::add(bench, &rows);
    program_sizes(bench, &loaded)
}

/// ns a packet of one run, whose flows are live and in the cache as far as they fit.
fn one_run(case: &Case, harness: &mut Harness, loaded: &Loaded, packets: u32) -> Result<f64> {
    if !case.is_new() {
        harness.run(case.flows)?;
    }
    let packets = if case.is_new() { case.packets.unwrap_or(packets) } else { packets.max(case.flows) };
    let name = || format!("{}, {:?}", case.name, case.parameters());
    match case.program {
        Program::Floor { code, .. } => {
            let (ns, returned) = harness.run(packets)?;
            ensure!(returned == code, "{}: it returned {returned} instead of {code}", name());
            Ok(ns)
        }
        Program::Podway { setup, reason, .. } => {
            let kernel = &loaded.kernels[setup];
            let before = kernel.count_of(reason)?;
            let (ns, _) = harness.run(packets)?;
            let counted = kernel.count_of(reason)? - before;
            let reason = reason.name();
            ensure!(counted == u64::from(packets), "{}: {counted} of {packets} were {reason}", name());
            Ok(ns)
        }
    }
}

/// What there is instead of counts of executed instructions, which take a PMU.
fn program_sizes(bench: &mut Bench, loaded: &Loaded) -> Result<()> {
    const SHOWN: [&str; 8] =
        [XDP, "tc_uplink_in", "tc_pod_in", "tc_egress", "connect4", "sendmsg4", "recvmsg4", "getpeername4"];
    /// Bytes of an eBPF instruction.
    const INSTRUCTION_BYTES: u32 = 8;
    type Size = fn(&ProgramInfo) -> Option<u32>;
    let sizes: [(&str, &str, Size); 3] = [
        ("walked by the verifier", "instructions", ProgramInfo::verified_instruction_count),
        ("translated", "instructions", |info| Some(info.size_translated()? / INSTRUCTION_BYTES)),
        ("machine code", "bytes", |info| Some(info.size_jitted())),
    ];
    for (what, unit, size) in sizes {
        for name in SHOWN {
            let kernel = &loaded.kernels[0];
            let size = size(&kernel.program_info(name)?).with_context(|| format!("no size of {name}"))?;
            let group = format!("Size of the programs: {what}");
            let row = bench.row(&group, name, [], unit, Better::Less);
            bench.add(row, f64::from(size));
        }
    }
    Ok(())
}
