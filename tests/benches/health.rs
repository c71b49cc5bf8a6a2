//! What it costs one agent to probe many endpoints: `cargo xtask bench --only health`.
//!
//! The endpoints are addresses of one pod, in which one thread for each protocol answers all of them: each address
//! is probed every ten seconds. The agent is a real one, its facts come from a folder. Its CPU time is taken over a
//! while in which nothing but probes happens; the pod's side is not in it.
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::bench::usage::Usage;
use lb_tests::bench::{Bench, RowId};
use lb_tests::manifests::{Endpoint, Families, Manifests, Service};
use lb_tests::need;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_userspace::admin;
use lb_userspace::health::{ProbingStats, ReasonCode};
use lb_userspace::model::{CheckKind, HealthCheck, HttpTransport, Protocol};
use tempfile::TempDir;

const ENDPOINTS_PER_SERVICE: u32 = 100;
const INTERVAL_MS: u32 = 10_000;
/// For those that answer, so that none fails on a busy machine.
const TIMEOUT_MS: u32 = 5_000;
/// For those that do not.
const SILENT_TIMEOUT_MS: u32 = 1_000;
/// Which answers by TCP, and which by HTTP; packets to the last one vanish.
const TCP_PORT: u16 = 8_080;
const HTTP_PORT: u16 = 8_081;
const SILENT_PORT: u16 = 8_082;
const DEADLINE: Duration = Duration::from_secs(180);
const GROUP: &str = "Health checks, each endpoint every 10 s";

/// How the endpoints are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    None,
    Tcp,
    Http,
    /// By TCP; nobody answers.
    Silent,
}

/// The rows of one size and check.
struct Rows {
    cpu: RowId,
    resident: RowId,
    /// Where anything is probed.
    probing: Option<ProbingRows>,
}

struct ProbingRows {
    rate: RowId,
    lateness: [RowId; 2],
    effect: [RowId; 2],
}

fn main() -> Result<()> {
    let need = need::find_netns().map_err(anyhow::Error::msg)?;
    let mut bench = Bench::new("health")?;
    let sizes = bench.choose(&[1_000, 10_000, 50_000][..], &[1_000]);
    let seconds = bench.choose(30, 10);
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    for endpoints in sizes {
        for check in [Check::None, Check::Tcp, Check::Http, Check::Silent] {
            let rows = check.rows(&mut bench, *endpoints);
            measure(&mut bench, &rows, &podway, *endpoints, check, Duration::from_secs(seconds))?;
        }
    }
    bench.finish()
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "TCP",
            Self::Http => "HTTP",
            Self::Silent => "TCP, no answer",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::None | Self::Tcp => TCP_PORT,
            Self::Http => HTTP_PORT,
            Self::Silent => SILENT_PORT,
        }
    }

    fn health_check(self) -> Option<HealthCheck> {
        let kind = match self {
            Self::None => return None,
            Self::Tcp | Self::Silent => CheckKind::Tcp,
            Self::Http => CheckKind::Http {
                transport: HttpTransport::Http1,
                path: "/healthz".into(),
                host: None,
                expected_codes: [(200, 399)].into(),
            },
        };
        Some(HealthCheck {
            kind,
            port: None,
            interval_ms: INTERVAL_MS,
            timeout_ms: if self == Self::Silent { SILENT_TIMEOUT_MS } else { TIMEOUT_MS },
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        })
    }

    fn rows(self, bench: &mut Bench, endpoints: u32) -> Rows {
        let parameters =
            || [("endpoints", Parameter::from(endpoints)), ("check", Parameter::from(self.name()))];
        let mut row = |case: &str, unit, better| bench.row(GROUP, case, parameters(), unit, better);
        let cpu = row("CPU of the agent", "% of a core", Better::Less);
        let resident = row("resident memory of the agent", "MiB", Better::Less);
        let probing = (self != Self::None).then(|| ProbingRows {
            rate: row("probes", "1/s", Better::More),
            lateness: ["lateness of probes, p50", "lateness of probes, p99"]
                .map(|case| row(case, "ms", Better::Less)),
            effect: ["decision to store, p50", "decision to store, p99"]
                .map(|case| row(case, "ms", Better::Less)),
        });
        Rows { cpu, resident, probing }
    }
}

fn measure(
    bench: &mut Bench,
    rows: &Rows,
    podway: &Podway,
    endpoints: u32,
    check: Check,
    time: Duration,
) -> Result<()> {
    let scene = Scene::start(podway, endpoints, check)?;
    let Scene { mut agent, topology, servers, .. } = scene;
    let run_dir = topology.run_dir(NODE_NAMES[0]);
    let stats = || admin::probing(&run_dir);
    let usage = Usage::of(agent.process().id());
    if check != Check::None {
        // Once round: the agent has begun, and each target is in the state that it stays in.
        wait_for(&agent, "every endpoint to be probed", || {
            stats().is_ok_and(|now| {
                now.targets == endpoints as usize && now.latency.count() >= u64::from(endpoints)
            })
        })?;
    }
    let (before, before_ms, begun) = (stats()?, usage.cpu_ms()?, Instant::now());
    std::thread::sleep(time);
    let (after, after_ms, elapsed) = (stats()?, usage.cpu_ms()?, begun.elapsed());
    bench.add(rows.cpu, (after_ms - before_ms) / elapsed.as_secs_f64() / 10.0);
    bench.add(rows.resident, usage.resident_mib()?);
    let Some(rows) = &rows.probing else { return Ok(()) };
    bench.add(rows.rate, after.latency.since(&before.latency).count() as f64 / elapsed.as_secs_f64());
    let lateness = after.lateness.since(&before.lateness);
    for (row, part) in rows.lateness.into_iter().zip([0.5, 0.99]) {
        bench.add(row, lateness.quantile(part).as_secs_f64() * 1e3);
    }
    ensure!(
        is_as_expected(&after, check),
        "{} of {endpoints} are unhealthy: {:?}",
        after.unhealthy,
        after.probes
    );
    let effect = match check {
        Check::Silent => after.effect,
        _ => {
            servers.into_iter().for_each(Server::stop);
            wait_for(&agent, "every endpoint to fail", || {
                stats().is_ok_and(|now| now.effect.count() >= u64::from(endpoints))
            })?;
            stats()?.effect
        }
    };
    for (row, part) in rows.effect.into_iter().zip([0.5, 0.99]) {
        bench.add(row, effect.quantile(part).as_secs_f64() * 1e3);
    }
    Ok(())
}

fn is_as_expected(stats: &ProbingStats, check: Check) -> bool {
    let failed = stats.probes.iter().filter(|(code, _)| **code != ReasonCode::Passed).count();
    match check {
        Check::Silent => stats.targets == stats.unhealthy,
        _ => stats.unhealthy == 0 && failed == 0,
    }
}

fn wait_for(agent: &Agent, what: &str, is_so: impl FnMut() -> bool) -> Result<()> {
    wait_until(DEADLINE, what, is_so).with_context(|| format!("the agent's log:\n{}", agent.log()))
}

/// One node with one pod that has all addresses, and its agent.
struct Scene {
    agent: Agent,
    servers: Vec<Server>,
    topology: Topology,
    _dir: TempDir,
}

impl Scene {
    fn start(podway: &Podway, endpoints: u32, check: Check) -> Result<Self> {
        let topology = Topology::two_nodes(1)?;
        let node = topology.node(NODE_NAMES[0]);
        let pod = &node.pods()[0];
        let interface = node.pod_interface(0);
        node.host()
            .namespace()
            .ip_batch(&format!("route add 10.128.0.0/16 via {} dev {interface} onlink", pod.v4()))?;
        pod.namespace().ip_batch("route add local 10.128.0.0/16 dev lo")?;
        let rule = "add table inet silent; add chain inet silent input { type filter hook input priority 0; }; \
                    add rule inet silent input tcp dport";
        let output = pod.command("nft").arg(format!("{rule} {SILENT_PORT} drop")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let servers = vec![Server::start(pod, TCP_PORT, greet)?, Server::start(pod, HTTP_PORT, answer)?];
        let dir = TempDir::with_prefix("podway-health-").context("cannot make a folder")?;
        let mut manifests = Manifests::new(dir.path(), &topology)?;
        for number in 0..endpoints / ENDPOINTS_PER_SERVICE {
            manifests.put(service(number, check))?;
        }
        let agent = Agent::start(podway, &topology, NODE_NAMES[0], manifests.dir(), Options::default())?;
        let run_dir = topology.run_dir(NODE_NAMES[0]);
        let services = (endpoints / ENDPOINTS_PER_SERVICE) as usize;
        wait_for(&agent, "every Service to be in the maps", || {
            let rows = agent.get("frontends").unwrap_or_default();
            rows.as_array().is_some_and(|rows| rows.len() == services) && admin::probing(&run_dir).is_ok()
        })?;
        Ok(Self { agent, servers, topology, _dir: dir })
    }
}

fn service(number: u32, check: Check) -> Service {
    let [_, _, high, low] = (number + 1).to_be_bytes();
    let mut service = Service::new(&format!("web-{number}"), 1).port("tcp", Protocol::Tcp, 80, check.port());
    service.cluster_ips[0] = Ipv4Addr::new(10, 96, high, low).into();
    service.families = Families::V4;
    service.health_check = check.health_check();
    let first = number * ENDPOINTS_PER_SERVICE;
    let endpoint = |index: u32| {
        let [_, _, high, low] = (first + index).to_be_bytes();
        let addresses: [IpAddr; 2] = [Ipv4Addr::new(10, 128, high, low).into(), Ipv6Addr::LOCALHOST.into()];
        Endpoint::ready(&format!("web-{number}-{index}"), NODE_NAMES[0], addresses)
    };
    service.endpoints = (0..ENDPOINTS_PER_SERVICE).map(endpoint).collect();
    service
}

/// A thread that answers one port of a pod.
struct Server {
    is_over: Arc<AtomicBool>,
    address: SocketAddr,
    pod: Host,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(pod: &Host, port: u16, each: fn(TcpStream)) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = pod.run_in_netns(|| TcpListener::bind(any))??;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let serve = move || {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                each(stream);
            }
        };
        let thread = std::thread::spawn(serve);
        let address = SocketAddr::new(pod.v4().into(), port);
        Ok(Self { is_over, address, pod: pod.clone(), thread })
    }

    /// From now on connections are refused.
    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It waits for one more.
        let woken = self.pod.run_in_netns(|| TcpStream::connect(self.address).map(drop));
        drop(woken);
        let ended = self.thread.join().map_err(|_| anyhow!("a server panicked"));
        drop(ended);
    }
}

fn greet(stream: TcpStream) {
    drop(stream);
}

/// Whoever asked may have gone.
fn answer(mut stream: TcpStream) {
    let mut request = [0; 1_024];
    let _ = stream.set_read_timeout(Some(Duration::from_millis(TIMEOUT_MS.into())));
    if stream.read(&mut request).is_ok_and(|count| count > 0) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }
}
