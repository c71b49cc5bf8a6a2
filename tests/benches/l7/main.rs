//! The front-end beside nginx, HAProxy and Envoy: `cargo xtask bench --l7`.
//!
//! Each proxy is one process with one thread on one processor; clients and the upstream, a thread of this program,
//! have the other. All have the same rules, certificate and upstream, and all stand at once, so that rounds are
//! interleaved. What is taken is the CPU time of the proxy's process for a request, which a busy machine moves less
//! than throughput. No kernel maps matter here: Podway's front-end is this program itself, started as `serve`, with
//! the library's `FrontEnd` and its defaults.
mod front_end;
mod idle;
mod proxy;
mod stand;
mod upstream;
mod work;

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::bench::{Bench, RowId, cpu};
use lb_userspace::memory;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use proxy::{Kind, Proxy};
use stand::Stand;
use work::{Amount, Work};

/// As the agent has it.
#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Connections that are held without a request.
const IDLE_CONNECTIONS: u32 = 10_000;
/// Descriptors for them, and for all else that a process opens.
const DESCRIPTORS: u64 = 16_500;
/// The processor of clients and the upstream: proxies have the one that benches measure on.
const LOAD_CPU: usize = 0;

const COST: &str = "CPU of the proxy for a request";
const LATENCY: &str = "Latency at 3,000 requests/s";
const MEMORY: &str = "Memory with 10,000 idle connections";

fn main() -> Result<()> {
    memory::give_back_at_once();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", http, https, upstream, certificate, key] => {
            let [http, https, upstream] = [http.parse()?, https.parse()?, upstream.parse()?];
            front_end::serve(http, https, upstream, certificate.as_ref(), key.as_ref())
        }
        // Cargo's own.
        [] | ["--bench"] => measure(),
        _ => bail!("unknown arguments {arguments:?}"),
    }
}

fn measure() -> Result<()> {
    ensure!(
        cpu::count()? > LOAD_CPU + 1,
        "cannot measure: there is one processor; proxy and load need one each"
    );
    raise_descriptors()?;
    cpu::pin_to(LOAD_CPU)?;
    let mut bench = Bench::new("l7")?;
    let stand = Stand::start()?;
    bench.note(&versions()?);
    idle_memory(&mut bench, &stand)?;
    let proxies = Kind::ALL.map(|kind| Proxy::start(kind, &stand)).into_iter().collect::<Result<Vec<_>>>()?;
    let amount =
        bench.choose(Amount { seconds: 3, requests: 30_000 }, Amount { seconds: 1, requests: 6_000 });
    for proxy in &proxies {
        Work::Small.run(proxy, &stand, Amount { seconds: 1, requests: 1_000 }).context("the warm-up")?;
    }
    let rows: Vec<Vec<Rows>> =
        Work::ALL.map(|work| Kind::ALL.map(|kind| Rows::new(&mut bench, work, kind)).into()).into();
    for round in 0..bench.choose(9, 1) {
        for (work, rows) in Work::ALL.iter().zip(&rows) {
            // Whoever is first in a round is not always the same.
            for index in (0..proxies.len()).map(|index| (index + round) % proxies.len()) {
                let measured = work
                    .run(&proxies[index], &stand, amount)
                    .with_context(|| format!("{}: {}", proxies[index].name(), work.title()))?;
                rows[index].add(&mut bench, &measured);
            }
        }
    }
    beside(&mut bench, &rows, Kind::Nginx);
    beside(&mut bench, &rows, Kind::Envoy);
    bench.finish()
}

/// The rows of one proxy at one work.
struct Rows {
    cpu_us: RowId,
    /// Of work at a fixed rate: p50 and p99.
    latency_us: Option<[RowId; 2]>,
}

impl Rows {
    fn new(bench: &mut Bench, work: Work, kind: Kind) -> Self {
        let parameters = || [("proxy", Parameter::from(kind.name()))];
        let cpu_us = bench.row(COST, work.title(), parameters(), "µs", Better::Less);
        let latency_us = (work == Work::FixedRate)
            .then(|| ["p50", "p99"].map(|case| bench.row(LATENCY, case, parameters(), "µs", Better::Less)));
        Self { cpu_us, latency_us }
    }

    fn add(&self, bench: &mut Bench, measured: &work::Measured) {
        bench.add(self.cpu_us, measured.cpu_us);
        let times = self.latency_us.into_iter().zip(measured.latency_us);
        for (row, time) in times.flat_map(|(rows, times)| rows.into_iter().zip(times)) {
            bench.add(row, time);
        }
    }
}

/// Ratios of what each other proxy takes to what `peer` does.
fn beside(bench: &mut Bench, rows: &[Vec<Rows>], peer: Kind) {
    let of_peer = Kind::ALL.iter().position(|kind| *kind == peer).unwrap_or_default();
    let others = || Kind::ALL.iter().enumerate().filter(|(index, _)| *index != of_peer);
    for (work, rows) in Work::ALL.iter().zip(rows) {
        for (index, kind) in others() {
            let parameters = || [("proxy", Parameter::from(kind.name()))];
            let (of, to) = (&rows[index], &rows[of_peer]);
            let title = |what: &str| format!("{what}, beside {}", peer.name());
            bench.ratio(&title(COST), work.title(), parameters(), of.cpu_us, to.cpu_us);
            if let (Some([_, of]), Some([_, to])) = (of.latency_us, to.latency_us) {
                bench.ratio(&title(LATENCY), "p99", parameters(), of, to);
            }
        }
    }
}

/// Each time of a proxy that has just begun: what it kept of earlier work is not in it.
fn idle_memory(bench: &mut Bench, stand: &Stand) -> Result<()> {
    let rows = Kind::ALL.map(|kind| bench.row(MEMORY, kind.name(), [], "MiB", Better::Less));
    for _ in 0..bench.choose(3, 1) {
        for (kind, row) in Kind::ALL.iter().zip(rows) {
            let proxy = Proxy::start(*kind, stand)?;
            let resident_mib = idle::resident_mib(&proxy, stand, IDLE_CONNECTIONS)
                .with_context(|| format!("{}: {IDLE_CONNECTIONS} idle connections", kind.name()))?;
            bench.add(row, resident_mib);
        }
    }
    Ok(())
}

/// The peers and the load generators, as they call themselves.
fn versions() -> Result<String> {
    let programs = [("nginx", "-v"), ("haproxy", "-v"), ("h2load", "--version"), ("wrk", "-v")];
    let told = programs.map(|(program, option)| proxy::version(program, option));
    let envoy = proxy::envoy_binary()?;
    let envoy = proxy::version(&envoy.to_string_lossy(), "--version")?;
    // Path, then a commit, the version and how it was built.
    let envoy = envoy.split('/').rev().nth(3).unwrap_or_default();
    let told = told.into_iter().chain([Ok(format!("Envoy {envoy}"))]).collect::<Result<Vec<_>>>()?;
    Ok(format!("{}.", told.join("; ")))
}

fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        maximum >= DESCRIPTORS,
        "cannot hold {IDLE_CONNECTIONS} connections: a process may open {maximum} descriptors, {DESCRIPTORS} are \
         needed; raise the limit (ulimit -Hn)"
    );
    let current = limit.current.unwrap_or(u64::MAX).max(DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum })
        .context("cannot raise the limit of descriptors")
}
