//! kube-proxy itself beside the agent, where its binary is given: the same Services from the same API server.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_tests::agent::Source;
use lb_tests::bench::data::{Better, Parameter, quantile};
use lb_tests::bench::usage::Usage;
use lb_tests::bench::{Bench, RowId};
use lb_tests::kube_proxy::process::{KubeProxy, Mode, version};
use lb_tests::topology::{NODE_NAMES, Topology};

use crate::fleet;
use crate::stage::Stage;

/// Names the binary.
const BINARY_VARIABLE: &str = "PODWAY_KUBE_PROXY";
/// How long it may take to write all rules, or those of a change: it writes 250,000 endpoints for minutes.
const DEADLINE: Duration = Duration::from_secs(1_800);
/// Changes of a round. It waits a second between two writes, so each takes that long.
const CHANGES: u32 = 20;

/// The binary that was given, with its version.
pub(crate) struct Given {
    binary: PathBuf,
    version: String,
}

impl Given {
    /// None was given: the results say so.
    pub(crate) fn find(bench: &mut Bench) -> Result<Option<Self>> {
        let Some(binary) = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from) else {
            bench.note("kube-proxy itself was not measured: `--kube-proxy PATH` gives its binary.");
            return Ok(None);
        };
        let version = version(&binary)?;
        bench.note(&format!("kube-proxy is that of {version}."));
        Ok(Some(Self { binary, version }))
    }

    /// Measures both modes at these sizes, once: they are far apart, and it takes long.
    pub(crate) fn measure(&self, bench: &mut Bench, sizes: &[u32]) -> Result<()> {
        for mode in Mode::ALL {
            for services in sizes {
                let rows = rows(bench, mode, *services);
                let measured = self.measure_one(bench, mode, *services, &rows);
                let what = || format!("{} with {services} Services: {} mode", self.version, mode.name());
                measured.with_context(what)?;
            }
        }
        Ok(())
    }

    fn measure_one(&self, bench: &mut Bench, mode: Mode, services: u32, rows: &Rows) -> Result<()> {
        let topology = Topology::two_nodes(1)?;
        let stage = Stage::server(&topology, services)?;
        let Source::Cluster { kubeconfig, .. } = stage.source() else { bail!("no API server") };
        let node = topology.node(NODE_NAMES[0]).host();
        let begun = Instant::now();
        let mut proxy = KubeProxy::start(&self.binary, node, kubeconfig, mode)?;
        let usage = Usage::of(proxy.id());
        let last = fleet::cluster_ip(services - 1);
        let (_, at) = proxy.wait_for_service(last, fleet::PORT, DEADLINE)?;
        bench.add(rows.programmed, (at - begun).as_secs_f64() * 1e3);
        bench.add(rows.programmed_cpu, usage.cpu_ms()?);
        let before_ms = usage.cpu_ms()?;
        let times_ms = churn(&stage, &mut proxy, services)?;
        bench.add(rows.change_cpu, (usage.cpu_ms()? - before_ms) / f64::from(CHANGES));
        bench.add(rows.change_p50, quantile(&times_ms, 0.5));
        bench.add(rows.change_p99, quantile(&times_ms, 0.99));
        bench.add(rows.peak, usage.peak_mib()?);
        Ok(())
    }
}

/// The rows of one mode and size.
struct Rows {
    programmed: RowId,
    programmed_cpu: RowId,
    peak: RowId,
    change_p50: RowId,
    change_p99: RowId,
    change_cpu: RowId,
}

fn rows(bench: &mut Bench, mode: Mode, services: u32) -> Rows {
    let mut row = |case: &str, unit: &str| {
        let parameters: [(&str, Parameter); 3] = [
            ("services", services.into()),
            ("endpoints", (services * fleet::ENDPOINTS).into()),
            ("mode", mode.name().into()),
        ];
        bench.row("kube-proxy, control plane", case, parameters, unit, Better::Less)
    };
    Rows {
        programmed: row("from the start to the last Service in its rules", "ms"),
        programmed_cpu: row("CPU time until then", "ms"),
        peak: row("peak of its resident memory", "MiB"),
        change_p50: row("from an endpoint's change to the rules', half of all", "ms"),
        change_p99: row("from an endpoint's change to the rules', 99 of 100", "ms"),
        change_cpu: row("CPU time for a change", "ms"),
    }
}

/// One endpoint after the other leaves its Service and comes back. Times until the rules show it, ms.
fn churn(stage: &Stage, proxy: &mut KubeProxy, services: u32) -> Result<Vec<f64>> {
    let mut times_ms = Vec::new();
    for turn in 0..CHANGES / 2 {
        let service = (turn * 7_919) % services;
        let endpoint = turn % fleet::ENDPOINTS;
        let (chain, _) = proxy.wait_for_service(fleet::cluster_ip(service), fleet::PORT, DEADLINE)?;
        let address = SocketAddr::new(fleet::pod(service, endpoint), fleet::POD_PORT);
        for (without, is_there) in [(Some(endpoint), false), (None, true)] {
            let slice = fleet::slice(service, without);
            let begun = Instant::now();
            stage.put_slice(service, slice)?;
            let at = proxy.wait_for_endpoint(&chain, address, is_there, DEADLINE)?;
            times_ms.push((at - begun).as_secs_f64() * 1e3);
        }
    }
    Ok(times_ms)
}
