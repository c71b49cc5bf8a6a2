//! What the real agent costs in a large cluster: `cargo bench -p lb-tests --bench scale`, as root, with
//! `PODWAY_BINARY` and `PODWAY_EBPF_OBJECT` naming a release build of `podway` and the object.
//!
//! One agent on a simulated node, from nothing: until the maps hold all Services, then under changes of
//! single endpoints, each awaited in the maps. Its facts come from the API server of the tests, which runs
//! in this process and shares the machine with it, from a real one where `KUBEBUILDER_ASSETS` names its programs, or
//! from a folder.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::bench::data::{Better, Parameter, quantile};
use lb_tests::bench::usage::Usage;
use lb_tests::bench::{Bench, RowId};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};

use node_maps::NodeMaps;
use stage::Stage;

mod fleet;
mod kube_proxy;
mod node_maps;
mod stage;

/// Narrows the run: `SOURCE,SERVICES,ROUNDS`, for instance `server,5000,1`; other sources are `folder` and `real`.
const ONLY_VARIABLE: &str = "PODWAY_SCALE_ONLY";
/// Sizes of the maps, for all sizes of the fleet.
const MAP_SIZES: Options = Options {
    xdp_mode: lb_tests::agent::XdpMode::Auto,
    socket_hooks: lb_tests::agent::SocketHooks::On,
    further: &["--endpoints-max", "600000", "--ring-slots-max", "16777216"],
};
/// Longest pause between a change that was seen and the next one.
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// Where the facts come from.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Server,
    Real,
    Folder,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "API server",
            Self::Real => "kube-apiserver",
            Self::Folder => "folder",
        }
    }

    fn stage(self, topology: &Topology, services: u32) -> Result<Stage> {
        match self {
            Self::Server => Stage::server(topology, services),
            Self::Real => {
                let need = need::find_cluster().map_err(anyhow::Error::msg)?;
                Stage::real(&need, topology, services)
            }
            Self::Folder => Stage::folder(topology, services),
        }
    }
}

/// The rows of one source and size.
struct Rows {
    programmed: RowId,
    programmed_cpu: RowId,
    peak: RowId,
    resident: RowId,
    maps: RowId,
    change_p50: RowId,
    change_p99: RowId,
    change_cpu: RowId,
}

fn main() -> Result<()> {
    let need = need::find_netns().map_err(anyhow::Error::msg)?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut bench = Bench::new("scale")?;
    let kube_proxy = kube_proxy::Given::find(&mut bench)?;
    let (cases, rounds) = plan(&bench)?;
    let changes_max = bench.choose(400, 100);
    let rows: Vec<Rows> =
        cases.iter().map(|(origin, services)| rows(&mut bench, *origin, *services)).collect();
    for _ in 0..rounds {
        for ((origin, services), rows) in cases.iter().zip(&rows) {
            // Each change of a folder costs a look at all its files.
            let changes = if *origin == Origin::Folder { 20 } else { changes_max };
            measure(&mut bench, &podway, *origin, *services, changes, rows)?;
        }
    }
    if let Some(kube_proxy) = kube_proxy {
        let servers = cases.iter().filter(|(origin, _)| *origin == Origin::Server);
        let sizes: Vec<u32> = servers.map(|(_, services)| *services).collect();
        kube_proxy.measure(&mut bench, &sizes)?;
    }
    bench.finish()
}

/// What is measured, and how often.
fn plan(bench: &Bench) -> Result<(Vec<(Origin, u32)>, u32)> {
    if let Ok(only) = std::env::var(ONLY_VARIABLE) {
        let mut parts = only.split(',');
        let origin = match parts.next() {
            Some("folder") => Origin::Folder,
            Some("real") => Origin::Real,
            _ => Origin::Server,
        };
        let mut number = || parts.next().and_then(|number| number.parse().ok());
        let services = number().with_context(|| format!("{ONLY_VARIABLE} names no number of Services"))?;
        return Ok((vec![(origin, services)], number().unwrap_or(1)));
    }
    let sizes: &[u32] = bench.choose(&[100, 5_000, 10_000], &[100, 5_000]);
    let folder = bench.choose(vec![(Origin::Folder, 5_000)], Vec::new());
    // Without the programs there is no such row.
    let real = need::find_cluster().is_ok().then(|| bench.choose(10_000, 5_000));
    let real = real.map(|services| (Origin::Real, services));
    let servers = sizes.iter().map(|services| (Origin::Server, *services));
    Ok((servers.chain(real).chain(folder).collect(), bench.choose(3, 1)))
}

fn rows(bench: &mut Bench, origin: Origin, services: u32) -> Rows {
    let mut row = |case: &str, unit: &str| {
        let parameters: [(&str, Parameter); 3] = [
            ("services", services.into()),
            ("endpoints", (services * fleet::ENDPOINTS).into()),
            ("source", origin.name().into()),
        ];
        bench.row("control plane", case, parameters, unit, Better::Less)
    };
    Rows {
        programmed: row("from the start to the last frontend in the maps", "ms"),
        programmed_cpu: row("CPU time until then", "ms"),
        peak: row("peak of the agent's resident memory", "MiB"),
        resident: row("the agent's resident memory after all changes", "MiB"),
        maps: row("memory of its maps in the kernel", "MiB"),
        change_p50: row("from an endpoint's change to the map's, half of all", "ms"),
        change_p99: row("from an endpoint's change to the map's, 99 of 100", "ms"),
        change_cpu: row("CPU time for a change", "ms"),
    }
}

fn measure(
    bench: &mut Bench,
    podway: &Podway,
    origin: Origin,
    services: u32,
    changes: u32,
    rows: &Rows,
) -> Result<()> {
    let topology = Topology::two_nodes(1)?;
    let stage = origin.stage(&topology, services)?;
    let node = NODE_NAMES[0];
    let begun = Instant::now();
    let mut agent = Agent::start_from(podway, &topology, node, stage.source(), MAP_SIZES)?;
    let usage = Usage::of(agent.process().id());
    let maps = NodeMaps::programmed(&topology.pins(node), services, || !agent.process().is_running());
    let (maps, at) = maps.with_context(|| format!("the agent's log:\n{}", agent.log()))?;
    bench.add(rows.programmed, (at - begun).as_secs_f64() * 1e3);
    bench.add(rows.programmed_cpu, usage.cpu_ms()?);
    // The first changes find the agent still at what follows its first apply.
    churn(&stage, &maps, services, 4)?;
    let before_ms = usage.cpu_ms()?;
    let times_ms = churn(&stage, &maps, services, changes)?;
    bench.add(rows.change_cpu, (usage.cpu_ms()? - before_ms) / f64::from(changes));
    bench.add(rows.change_p50, quantile(&times_ms, 0.5));
    bench.add(rows.change_p99, quantile(&times_ms, 0.99));
    bench.add(rows.peak, usage.peak_mib()?);
    bench.add(rows.resident, usage.resident_mib()?);
    bench.add(rows.maps, usage.maps_mib()?);
    ensure!(agent.process().is_running(), "the agent has ended; its log:\n{}", agent.log());
    if std::env::var_os("PODWAY_SCALE_LOG").is_some() {
        eprintln!("{}", agent.log());
    }
    agent.verify_maps()
}

/// One endpoint after the other leaves its Service and comes back. Times until the maps show it, ms.
fn churn(stage: &Stage, maps: &NodeMaps, services: u32, changes: u32) -> Result<Vec<f64>> {
    let mut random = 1u64;
    let mut times_ms = Vec::new();
    for turn in 0..changes / 2 {
        // A prime to every number of Services in use: they come in no order, and none twice.
        let service = (turn * 7_919) % services;
        let endpoint = turn % fleet::ENDPOINTS;
        let place = maps.place(service, endpoint)?;
        for (without, is_withdrawn) in [(Some(endpoint), true), (None, false)] {
            let slice = fleet::slice(service, without);
            let former = maps.ring(place)?;
            let begun = Instant::now();
            stage.put_slice(service, slice)?;
            let at = maps.changed(place, former, is_withdrawn)?;
            times_ms.push((at - begun).as_secs_f64() * 1e3);
            // A linear congruential generator (Knuth): changes keep no step with the agent's timers.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(PAUSE_MAX.mul_f64((random >> 40) as f64 / f64::from(1 << 24)));
        }
    }
    Ok(times_ms)
}
