//! The harness program around a program under test.
use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::bytes_of;
use lb_common::bench::FRAME_BYTES;
use lb_tests::bench::cpu;
use lb_tests::kernel::{XDP, bench_object};

use crate::Loaded;
use crate::cases::{Case, Program};

/// Numbers of flows that each case with new ones has for itself.
const FLOWS_PER_CASE: u32 = 1 << 22;

/// A loaded harness program.
pub(crate) struct Harness {
    ebpf: Ebpf,
    frame: [u8; FRAME_BYTES],
    is_xdp: bool,
    interface: u32,
}

impl Harness {
    /// A harness of a case's own, whose new flows no other case's are, by its number.
    pub(crate) fn load(case: &Case, loaded: &Loaded, interface: u32, number: u32) -> Result<Self> {
        let is_xdp = case.program.is_xdp();
        let mut harness = Self::alone(case, is_xdp, interface, number)?;
        let programs = harness.ebpf.map_mut("PROGRAMS").context("no PROGRAMS")?;
        let mut programs = ProgramArray::try_from(programs)?;
        let (ebpf, name) = match case.program {
            Program::Podway { name, setup, .. } => (loaded.kernels[setup].ebpf(), name),
            Program::Floor { name, setup, .. } => (&loaded.floors[setup], name),
        };
        let program = ebpf.program(name).with_context(|| format!("no {name}"))?;
        match is_xdp {
            true => programs.set(0, TryInto::<&Xdp>::try_into(program)?.fd()?, 0)?,
            false => programs.set(0, TryInto::<&SchedClassifier>::try_into(program)?.fd()?, 0)?,
        }
        Ok(harness)
    }

    /// A harness that calls nothing.
    pub(crate) fn alone(case: &Case, is_xdp: bool, interface: u32, number: u32) -> Result<Self> {
        let first = if case.is_new() { (number + 1) * FLOWS_PER_CASE } else { 0 };
        let ports_count = case.ports.len() as u32;
        let step = if case.is_new() { 1 } else { step(case.flows) };
        let mut ebpf = EbpfLoader::new()
            .override_global("FLOWS", &case.flows, true)
            .override_global("STEP", &step, true)
            .override_global("FLOWS_FIRST", &first, true)
            .override_global("ADDRESS_OFFSET", &case.offsets[0], true)
            .override_global("ADDRESS_FIRST", &case.address_first, true)
            .override_global("PORT_OFFSET", &case.offsets[1], true)
            .override_global("PORTS_COUNT", &ports_count, true)
            .map_max_entries("PORTS", ports_count.max(1))
            .load(&bench_object()?)?;
        let templates = ebpf.map_mut("TEMPLATE").context("no TEMPLATE")?;
        let mut templates: Array<&mut MapData, [u8; FRAME_BYTES]> = Array::try_from(templates)?;
        templates.set(0, case.frame, 0)?;
        let mut ports: Array<&mut MapData, u32> =
            Array::try_from(ebpf.map_mut("PORTS").context("no PORTS")?)?;
        for (index, port) in (0..).zip(&case.ports) {
            ports.set(index, *port, 0)?;
        }
        match is_xdp {
            true => TryInto::<&mut Xdp>::try_into(ebpf.program_mut("bench_xdp").context("no bench_xdp")?)?
                .load()?,
            false => {
                let program = ebpf.program_mut("bench_tc").context("no bench_tc")?;
                TryInto::<&mut SchedClassifier>::try_into(program)?.load()?;
            }
        }
        Ok(Self { ebpf, frame: case.frame, is_xdp, interface })
    }

    /// CPU time of each of `packets` packets in ns, and what the last one came to.
    pub(crate) fn run(&mut self, packets: u32) -> Result<(f64, u32)> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let xdp_context: [u32; 6] = [0, FRAME_BYTES as u32, 0, self.interface, 0, 0];
        // struct __sk_buff, of which a test run takes ingress_ifindex and ifindex.
        let mut skb_context = [0_u32; 48];
        skb_context[9] = self.interface;
        skb_context[10] = self.interface;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(if self.is_xdp { bytes_of(&xdp_context) } else { bytes_of(&skb_context) }),
            repeat: packets,
            ..TestRunOptions::default()
        };
        let name = if self.is_xdp { "bench_xdp" } else { "bench_tc" };
        let program = self.ebpf.program(name).context("no harness")?;
        let started = cpu::thread_ns();
        let result = match self.is_xdp {
            true => TryInto::<&Xdp>::try_into(program)?.test_run(options)?,
            false => TryInto::<&SchedClassifier>::try_into(program)?.test_run(options)?,
        };
        Ok(((cpu::thread_ns() - started) as f64 / f64::from(packets), result.return_value))
    }
}

/// What the harnesses take by themselves.
pub(crate) struct Alone {
    xdp: Harness,
    tc: Harness,
}

impl Alone {
    pub(crate) fn new(case: &Case, interface: u32) -> Result<Self> {
        Ok(Self {
            xdp: Harness::alone(case, true, interface, 0)?,
            tc: Harness::alone(case, false, interface, 0)?,
        })
    }

    /// ns of XDP's and of tc's, each after a first run as the cases have one.
    pub(crate) fn run(&mut self, packets: u32) -> Result<[f64; 2]> {
        let after_first = |harness: &mut Harness| {
            harness.run(packets)?;
            Ok::<_, anyhow::Error>(harness.run(packets)?.0)
        };
        Ok([after_first(&mut self.xdp)?, after_first(&mut self.tc)?])
    }
}

impl Program {
    /// Whether it runs at an XDP hook.
    pub(crate) fn is_xdp(self) -> bool {
        matches!(self, Self::Floor { .. } | Self::Podway { name: XDP, .. })
    }
}

/// A step through so many flows that meets each of them, far from the last ones.
fn step(flows: u32) -> u32 {
    const fn common_divisor(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { common_divisor(b, a % b) }
    }
    // The golden section: what is left between those that were met is as even as it can be.
    let first = (f64::from(flows) * 0.618_034) as u32;
    (first..flows).find(|step| common_divisor(*step, flows) == 1).unwrap_or_default()
}
