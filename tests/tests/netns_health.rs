//! Health checks that ask more than a connection: pods leave and return by what a port of their own says, while
//! their servers go on.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{self, Dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, HttpTransport, Protocol};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

/// Where the pods say how they are.
const HEALTH_PORT: u16 = 9_000;
const INTERVAL: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(20);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;

/// What a pod says when it is asked.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Mood {
    /// Code 200.
    Well,
    /// Code 503.
    Ill,
    /// Accepts, and says nothing.
    Hung,
    /// Code 200, a byte at a time, for longer than anybody waits.
    Slow,
    /// Hangs up.
    Gone,
}

/// A health port; it goes with the process.
struct HealthPort {
    mood: Arc<AtomicU8>,
    /// Whether anybody has asked.
    asked: Arc<AtomicBool>,
}

impl HealthPort {
    fn open(pod: &Host) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HEALTH_PORT));
        let listener = pod.run_in_netns(|| TcpListener::bind(any)).unwrap().unwrap();
        let mood = Arc::new(AtomicU8::new(Mood::Well as u8));
        let asked = Arc::new(AtomicBool::new(false));
        let of_thread = (Arc::clone(&mood), Arc::clone(&asked));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mood = of_thread.0.load(Ordering::Relaxed);
                of_thread.1.store(true, Ordering::Relaxed);
                std::thread::spawn(move || answer(stream, mood));
            }
        });
        Self { mood, asked }
    }

    fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }
}

/// Whoever asked may have gone.
fn answer(mut stream: TcpStream, mood: u8) {
    const WELL: u8 = Mood::Well as u8;
    const ILL: u8 = Mood::Ill as u8;
    const SLOW: u8 = Mood::Slow as u8;
    const HUNG: u8 = Mood::Hung as u8;
    let mut request = [0; 1_024];
    if mood == Mood::Gone as u8 || stream.read(&mut request).is_err() {
        return;
    }
    assert!(request.starts_with(b"GET /healthz HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
    let _ = match mood {
        WELL => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ILL => stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
        SLOW => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".iter().try_for_each(|byte| {
            std::thread::sleep(INTERVAL);
            stream.write_all(&[*byte])
        }),
        HUNG => stream.read_to_end(&mut Vec::new()).map(drop),
        _ => Ok(()),
    };
}

/// Waits until exactly `expected` answer new connections.
fn wait_for_answerers(client: &Host, to: SocketAddr, expected: &[&str]) {
    traffic::wait_for_answerers(client, &Dial::times(REQUESTS, Protocol::Tcp, to), expected, DEADLINE);
}

/// A check of the health port.
fn check() -> HealthCheck {
    let kind = CheckKind::Http {
        transport: HttpTransport::Http1,
        path: "/healthz".into(),
        host: None,
        expected_codes: [(200, 399)].into(),
    };
    HealthCheck {
        kind,
        port: Some(HEALTH_PORT),
        interval_ms: INTERVAL.as_millis() as u32,
        timeout_ms: TIMEOUT.as_millis() as u32,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

/// State and ring slots of the endpoints of the Service `near` at the port 8080 on node-a, by backend service and
/// address.
fn endpoints(cluster: &Cluster) -> BTreeMap<[String; 2], (String, u64)> {
    let rows = cluster.agents[0].get("endpoints").unwrap();
    let of_near = rows.as_array().unwrap().iter().filter(|row| {
        row["backendService"].as_str().is_some_and(|name| name.contains("shop/near"))
            && row["address"].as_str().is_some_and(|address| address.ends_with(":8080"))
    });
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let key = |row: &serde_json::Value| [text(&row["backendService"]), text(&row["address"])];
    of_near.map(|row| (key(row), (text(&row["state"]), row["slots"].as_u64().unwrap()))).collect()
}

#[test]
fn pod_leaves_and_returns_by_what_its_health_port_says() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let ports = ["web-a-1", "web-a-2"].map(|pod| HealthPort::open(cluster.topology.pod(pod)));
    cluster.manifests.edit("near", |service| service.health_check = Some(check())).unwrap();
    let client = cluster.topology.client();
    for to in cluster.load_balancer_addresses("near", Protocol::Tcp) {
        for mood in [Mood::Ill, Mood::Hung, Mood::Slow, Mood::Gone] {
            ports[0].is(mood);
            wait_for_answerers(client, to, &["web-a-2"]);
            ports[0].is(Mood::Well);
            wait_for_answerers(client, to, &["web-a-1", "web-a-2"]);
        }
        // None is healthy: all are used rather than none.
        ports.iter().for_each(|port| port.is(Mood::Ill));
        wait_until(DEADLINE, "all are unhealthy", || {
            let endpoints = endpoints(&cluster);
            !endpoints.is_empty() && endpoints.values().all(|(state, _)| state == "unhealthy")
        })
        .unwrap();
        wait_for_answerers(client, to, &["web-a-1", "web-a-2"]);
        wait_until(DEADLINE, "the NEGs to be in panic", || {
            let rows = cluster.agents[0].get("negs").unwrap();
            let mut near = rows
                .as_array()
                .unwrap()
                .iter()
                .filter(|row| row["backendService"].as_str().unwrap().contains("shop/near:tcp"));
            near.all(|row| row["panic"] == true && row["healthy"] == 0 && row["endpoints"] == 2)
        })
        .unwrap();
        assert!(cluster.agents[0].count("panic").unwrap() > 0);
        ports.iter().for_each(|port| port.is(Mood::Well));
        wait_for_answerers(client, to, &["web-a-1", "web-a-2"]);
    }
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
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let ports = ["web-a-1", "web-a-2"].map(|pod| HealthPort::open(cluster.topology.pod(pod)));
    cluster.manifests.edit("near", |service| service.health_check = Some(check())).unwrap();
    wait_until(DEADLINE, "a probe", || ports[0].asked.load(Ordering::Relaxed)).unwrap();
    let agent = cluster.agents[0].process().id();
    let stopper = Stopper::new(&cluster, "far");
    cluster.manifests.edit("far", |service| service.endpoints.truncate(1)).unwrap();
    wait_until(DEADLINE, "the loop to be stopped", || stopper.holds(agent)).unwrap();

    ports[0].is(Mood::Ill);
    let is_out = |(state, _): &(String, u64)| state == "unhealthy";
    wait_until(DEADLINE, "one of the two pods to be out", || {
        let endpoints = endpoints(&cluster);
        endpoints.values().filter(|endpoint| is_out(endpoint)).count() * 2 == endpoints.len()
    })
    .unwrap();
    assert!(stopper.holds(agent));
    assert!(endpoints(&cluster).values().all(|(_, slots)| *slots > 0), "no ring has followed yet");
    let to = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    wait_for_answerers(cluster.topology.client(), to, &["web-a-2"]);

    drop(stopper);
    wait_until(DEADLINE, "the rings to follow", || {
        endpoints(&cluster).values().all(|endpoint| is_out(endpoint) == (endpoint.1 == 0))
    })
    .unwrap();
}
