//! A rolling update under load: of 21 endpoints each is replaced by a new one, as a Deployment does it, while
//! clients outside open connections and make requests. None may fail.
//!
//! A pod that leaves behaves as it should: it is terminating and serves on, answers `Connection: close` from then
//! on, stops when nobody is connected any more, and only then leaves its slice. `PODWAY_ROLLOUT` sets the
//! connections a second, each with four requests, and makes the test ask for that rate:
//! `PODWAY_ROLLOUT=500` is what Podway promises, in the release profile.
use std::io::{BufRead as _, BufReader, Error, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::manifests::{Endpoint, LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::topology::{Host, Topology};
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, HttpTransport, Protocol};
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

const NODES: usize = 3;
/// Of a node all but one are in the Service; this one is about to be.
const PODS_PER_NODE: u8 = 8;
const ENDPOINTS: usize = NODES * (PODS_PER_NODE as usize - 1);
const HTTP_PORT: u16 = 8_081;
const WORKERS: u32 = 16;
const REQUESTS_PER_CONNECTION: u32 = 4;
/// Connections a second, by all workers together.
const RATE: u32 = 500;
/// A request that takes longer has failed. Linux sends a lost SYN again after 1, 3 and 7 seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A worker that is later than this starts to count anew: no burst makes up for what was missed.
const LATE_MAX: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);
/// A pod that leaves has no more clients when none has come for so long.
const IDLE_MS: u64 = 200;

/// An HTTP server in a pod; it ends with the process, or as a pod does.
struct Web {
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    begun: Instant,
    is_leaving: AtomicBool,
    connections: AtomicU32,
    /// When the last one came, milliseconds after the beginning.
    last_ms: AtomicU64,
}

impl Web {
    fn start(handle: &Handle, pod: &Host) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP_PORT));
        let listener = pod.run_in_netns(|| std::net::TcpListener::bind(any)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            begun: Instant::now(),
            is_leaving: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            last_ms: AtomicU64::new(0),
        });
        let of_task = Arc::clone(&state);
        let accepting = handle.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                of_task.connections.fetch_add(1, Ordering::Relaxed);
                of_task.last_ms.store(of_task.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                let state = Arc::clone(&of_task);
                tokio::spawn(async move {
                    // A client that goes away ends its connection, nothing else.
                    let _ = state.serve(stream).await;
                    state.connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { state, accepting }
    }

    /// Ends when nobody is connected any more and nobody comes.
    fn leave(self, handle: &Handle) {
        self.state.is_leaving.store(true, Ordering::Relaxed);
        wait_until(DEADLINE, "the last client of a pod that leaves", || {
            let idle_ms =
                self.state.begun.elapsed().as_millis() as u64 - self.state.last_ms.load(Ordering::Relaxed);
            self.state.connections.load(Ordering::Relaxed) == 0 && idle_ms > IDLE_MS
        })
        .unwrap();
        self.accepting.abort();
        // Its listener is closed when it has ended.
        let _ = handle.block_on(self.accepting);
    }
}

impl State {
    async fn serve(&self, stream: tokio::net::TcpStream) -> std::io::Result<()> {
        let mut stream = tokio::io::BufReader::new(stream);
        loop {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
            }
            let is_leaving = self.is_leaving.load(Ordering::Relaxed);
            let answer: &[u8] = match is_leaving {
                true => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            };
            stream.get_mut().write_all(answer).await?;
            if is_leaving {
                return Ok(());
            }
        }
    }
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    requests: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

/// Opens connections at a rate and makes requests by each, until it is over.
fn load(to: SocketAddr, rate: u32, number: u32, seen: &Seen, is_over: &AtomicBool) {
    let interval = Duration::from_secs(1) * WORKERS / rate;
    let mut due = Instant::now() + interval * number / WORKERS;
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        due = (due + interval).max(began - LATE_MAX);
        if let Err(error) = requests(to, seen) {
            seen.failures.lock().unwrap().push(format!("{error:?} after {:?}", began.elapsed()));
        }
    }
}

/// The requests of one connection, or of several where a server wants to end.
fn requests(to: SocketAddr, seen: &Seen) -> Result<(), Error> {
    let mut left = REQUESTS_PER_CONNECTION;
    while left > 0 {
        let stream = std::net::TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        // A reset at the end: there are fewer ports than connections in a minute.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let mut stream = BufReader::new(stream);
        let mut is_open = true;
        while left > 0 && is_open {
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")?;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head)? == 0 {
                    return Err(Error::other(format!("ended after {head:?}")));
                }
            }
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(Error::other(head));
            }
            is_open = !head.contains("connection: close");
            left -= 1;
            seen.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn service() -> Service {
    let mut service = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
    service.load_balancer_ips = vec![LOAD_BALANCER_IPS[0]];
    let (path, expected_codes) = ("/".into(), [(200, 200)].into());
    service.health_check = Some(HealthCheck {
        kind: CheckKind::Http { transport: HttpTransport::Http1, path, host: None, expected_codes },
        port: None,
        interval_ms: 1_000,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    });
    service
}

fn ready(topology: &Topology, (node, pod): (usize, usize)) -> Endpoint {
    let pod = &topology.nodes()[node].pods()[pod];
    Endpoint::ready(pod.name(), topology.nodes()[node].host().name(), [pod.v4().into(), pod.v6().into()])
}

/// Waits until all agents show the endpoint of a pod in this state.
fn wait_for_state(cluster: &Cluster, pod: &Host, state: &str) {
    let address = SocketAddr::new(pod.v4().into(), HTTP_PORT).to_string();
    for agent in &cluster.agents {
        wait_until(DEADLINE, &format!("{address} to be {state}"), || {
            let rows = agent.get("endpoints").unwrap();
            rows.as_array().unwrap().iter().any(|row| row["address"] == *address && row["state"] == state)
        })
        .unwrap_or_else(|error| panic!("{error}; log:\n{}", agent.log()));
    }
}

/// Replaces every endpoint, each by the pod that the one before it on its node has made free.
fn roll(cluster: &mut Cluster, handle: &Handle, mut webs: Vec<Vec<Option<Web>>>) {
    for step in 0..ENDPOINTS {
        let (node, old) = (step % NODES, step / NODES);
        let new = if old == 0 { usize::from(PODS_PER_NODE) - 1 } else { old - 1 };
        let [old_pod, new_pod] = [old, new].map(|pod| cluster.topology.nodes()[node].pods()[pod].clone());
        webs[node][new] = Some(Web::start(handle, &new_pod));
        let endpoint = ready(&cluster.topology, (node, new));
        cluster.manifests.edit("web", |web| web.endpoints.push(endpoint)).unwrap();
        wait_for_state(cluster, &new_pod, "healthy");
        let leave = |web: &mut Service| {
            let endpoint = web.endpoint(old_pod.name());
            (endpoint.ready, endpoint.terminating) = (false, true);
        };
        cluster.manifests.edit("web", leave).unwrap();
        wait_for_state(cluster, &old_pod, "draining");
        webs[node][old].take().unwrap().leave(handle);
        let is_other = |endpoint: &Endpoint| endpoint.pod != old_pod.name();
        cluster.manifests.edit("web", |web| web.endpoints.retain(is_other)).unwrap();
    }
}

#[test]
fn no_request_fails_while_all_endpoints_are_replaced() {
    let Some(need) = need::netns() else { return };
    let asked: Option<u32> = std::env::var("PODWAY_ROLLOUT").ok().and_then(|rate| rate.parse().ok());
    let rate = asked.unwrap_or(RATE);
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::three_nodes(PODS_PER_NODE).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let in_use = usize::from(PODS_PER_NODE) - 1;
    let start = |pod: &Host| Some(Web::start(runtime.handle(), pod));
    let webs = topology
        .nodes()
        .iter()
        .map(|node| node.pods()[..in_use].iter().map(start).chain([None]).collect::<Vec<_>>());
    let webs = webs.collect();
    let mut service = service();
    let all = (0..NODES).flat_map(|node| (0..in_use).map(move |pod| (node, pod)));
    service.endpoints = all.map(|place| ready(&topology, place)).collect();
    let mut cluster = Cluster::on(topology, vec![service], &podway, Options::default()).unwrap();
    let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 80);
    let (seen, is_over, client) =
        (Seen::default(), AtomicBool::new(false), cluster.topology.client().clone());
    let elapsed = std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let (client, seen, is_over) = (&client, &seen, &is_over);
            scope.spawn(move || client.run_in_netns(|| load(to, rate, number, seen, is_over)).unwrap());
        }
        let _end = End(&is_over);
        let begun = Instant::now();
        roll(&mut cluster, runtime.handle(), webs);
        begun.elapsed().as_secs_f64()
    });
    let (connections, requests) = (seen.connections.into_inner(), seen.requests.into_inner());
    let reached = connections as f64 / elapsed;
    println!(
        "{connections} connections, {requests} requests in {elapsed:.1} s: {reached:.0} connections a second of {rate}"
    );
    assert_eq!(*seen.failures.lock().unwrap(), Vec::<String>::new(), "of {requests} requests");
    assert!(requests > 0);
    if asked.is_some() {
        assert!(reached >= f64::from(rate) * 0.95, "{reached:.0} connections a second of {rate}");
    }
}

/// Ends the load also when the update panics: its scope waits for it.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
