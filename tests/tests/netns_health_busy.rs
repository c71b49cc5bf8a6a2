//! Health takes effect whatever the agent's loop is at, and where too few endpoints are healthy all are used.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{self, Dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::net::Shutdown;

/// Where the pods are probed: by whether they accept.
const HEALTH_PORT: u16 = 9_000;
const DEADLINE: Duration = Duration::from_secs(20);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;

/// A port that accepts until this is dropped.
struct HealthPort {
    listener: Arc<TcpListener>,
    /// Whether anybody has asked.
    asked: Arc<AtomicBool>,
}

impl HealthPort {
    fn open(pod: &Host) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HEALTH_PORT));
        let listener = Arc::new(pod.run_in_netns(|| TcpListener::bind(any)).unwrap().unwrap());
        let asked = Arc::new(AtomicBool::new(false));
        let of_thread = (Arc::clone(&listener), Arc::clone(&asked));
        std::thread::spawn(move || {
            while of_thread.0.accept().is_ok() {
                of_thread.1.store(true, Ordering::Relaxed);
            }
        });
        Self { listener, asked }
    }

    fn wait_for_a_probe(&self) {
        wait_until(DEADLINE, "a probe", || self.asked.load(Ordering::Relaxed)).unwrap();
    }
}

/// Ends the listening and the thread's wait.
impl Drop for HealthPort {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.listener, Shutdown::Both).unwrap();
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(HEALTH_PORT),
        interval_ms: 200,
        timeout_ms: 300,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

/// A cluster whose pods behind `near` have a health port each, or `None` where the machine lacks a need.
fn cluster() -> Option<(Cluster, [HealthPort; 2])> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let cluster = Cluster::start(&podway, Options::default()).unwrap();
    let ports = ["web-a-1", "web-a-2"].map(|pod| HealthPort::open(cluster.topology.pod(pod)));
    Some((cluster, ports))
}

/// State and ring slots of the endpoints of `near` over TCP on node-a, by address.
fn endpoints(cluster: &Cluster) -> BTreeMap<String, (String, u64)> {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    let is_near =
        |row: &&serde_json::Value| row["backendService"].as_str().unwrap().contains("shop/near:tcp/");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let of_near = rows.as_array().unwrap().iter().filter(is_near);
    of_near
        .map(|row| (text(&row["address"]), (text(&row["state"]), row["slots"].as_u64().unwrap())))
        .collect()
}

/// A pipe in the place of a file that the agent's loop writes when the plan of a Service changes, at the end of an
/// apply. It is full, so the loop stays in that write until this is dropped.
struct Stopper {
    path: PathBuf,
    pipe: File,
}

impl Stopper {
    fn new(cluster: &Cluster, service: &str) -> Self {
        let path = cluster.topology.run_dir("node-a").join(format!("origins/shop.{service}.new"));
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let options = OFlags::RDWR | OFlags::NONBLOCK;
        let mut pipe = File::from(rustix::fs::open(&path, options, Mode::empty()).unwrap());
        while pipe.write(&[0; 4_096]).is_ok() {}
        Self { path, pipe }
    }

    /// Whether the process has come so far as to write.
    fn holds(&self, process: u32) -> bool {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|file| file == self.path)
    }
}

/// The write fails, and the loop goes on.
impl Drop for Stopper {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
        // What is read makes room for the file's few bytes.
        let _ = self.pipe.read(&mut [0; 65_536]);
    }
}

#[test]
fn unhealthy_endpoint_gets_no_new_flows_while_the_loop_is_busy() {
    let Some((mut cluster, [first, _second])) = cluster() else { return };
    cluster.manifests.edit("near", |service| service.health_check = Some(check())).unwrap();
    first.wait_for_a_probe();
    let agent = cluster.agents[0].process().id();
    let stopper = Stopper::new(&cluster, "far");
    cluster.manifests.edit("far", |service| service.endpoints.truncate(1)).unwrap();
    wait_until(DEADLINE, "the loop to be stopped", || stopper.holds(agent)).unwrap();

    drop(first);
    let is_out = |(state, _): &(String, u64)| state == "unhealthy";
    wait_until(DEADLINE, "one of the two pods to be out", || {
        endpoints(&cluster).values().filter(|endpoint| is_out(endpoint)).count() == 2
    })
    .unwrap();
    assert!(stopper.holds(agent));
    assert!(endpoints(&cluster).values().all(|(_, slots)| *slots > 0), "no ring has followed yet");
    let requests =
        Dial::times(REQUESTS, Protocol::Tcp, cluster.load_balancer_addresses("near", Protocol::Tcp)[0]);
    traffic::wait_for_answerers(cluster.topology.client(), &requests, &["web-a-2"], DEADLINE);

    drop(stopper);
    wait_until(DEADLINE, "the rings to follow", || {
        endpoints(&cluster).values().all(|endpoint| is_out(endpoint) == (endpoint.1 == 0))
    })
    .unwrap();
}

#[test]
fn below_the_panic_threshold_all_endpoints_are_used_shown_and_counted() {
    let Some((mut cluster, [first, second])) = cluster() else { return };
    let change = |service: &mut lb_tests::manifests::Service| {
        service.health_check = Some(check());
        *service = service.clone().annotated("podway.io/panic-threshold-percent", "60");
    };
    cluster.manifests.edit("near", change).unwrap();
    first.wait_for_a_probe();
    drop(first);
    wait_until(DEADLINE, "the NEGs to be in panic", || {
        let rows = cluster.agents[0].get("negs").unwrap();
        let is_near =
            |row: &&serde_json::Value| row["backendService"].as_str().unwrap().contains("/near:tcp/");
        let mut near = rows.as_array().unwrap().iter().filter(is_near);
        near.all(|row| row["panic"] == true && row["healthy"] == 1 && row["endpoints"] == 2)
    })
    .unwrap();
    let requests =
        Dial::times(REQUESTS, Protocol::Tcp, cluster.load_balancer_addresses("near", Protocol::Tcp)[0]);
    traffic::wait_for_answerers(cluster.topology.client(), &requests, &["web-a-1", "web-a-2"], DEADLINE);
    assert!(cluster.agents[0].count("panic").unwrap() > 0);
    let states: Vec<String> = endpoints(&cluster).into_values().map(|(state, _)| state).collect();
    assert_eq!(states.iter().filter(|state| *state == "unhealthy").count(), 2, "{states:?}");
    drop(second);
}

#[test]
fn endpoint_that_is_healthy_again_warms_up_in_its_ring() {
    let Some((mut cluster, [first, _second])) = cluster() else { return };
    let change = |service: &mut lb_tests::manifests::Service| {
        service.health_check = Some(check());
        *service = service.clone().annotated("podway.io/slow-start-seconds", "5");
    };
    cluster.manifests.edit("near", change).unwrap();
    first.wait_for_a_probe();
    drop(first);
    let first_pod = cluster.topology.pod("web-a-1").v4().to_string();
    let state = |cluster: &Cluster| {
        let all = endpoints(cluster);
        let (_, endpoint) = all.iter().find(|(address, _)| address.starts_with(&first_pod)).unwrap();
        endpoint.clone()
    };
    wait_until(DEADLINE, "it to be out of its ring", || state(&cluster) == ("unhealthy".to_owned(), 0))
        .unwrap();
    let _first = HealthPort::open(cluster.topology.pod("web-a-1"));
    wait_until(DEADLINE, "it to warm up", || state(&cluster).0 == "warming").unwrap();
    let (_, slots) = state(&cluster);
    assert!(slots > 0);
    let waited =
        wait_until(DEADLINE, "it to have its share", || state(&cluster) == ("healthy".to_owned(), slots));
    waited.unwrap_or_else(|error| {
        panic!(
            "{error}: {:?}, {slots} slots before; the agent's log:\n{}",
            state(&cluster),
            cluster.agents[0].log()
        )
    });
}
