//! Health checks that ask more than a connection: pods leave and return by what a port of their own says, while
//! their servers go on.
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{self, Dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::{CheckKind, HealthCheck, HttpTransport, Protocol};

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
}

impl HealthPort {
    fn open(pod: &Host) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HEALTH_PORT));
        let listener = pod.run_in_netns(|| TcpListener::bind(any)).unwrap().unwrap();
        let mood = Arc::new(AtomicU8::new(Mood::Well as u8));
        let of_thread = Arc::clone(&mood);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mood = of_thread.load(Ordering::Relaxed);
                std::thread::spawn(move || answer(stream, mood));
            }
        });
        Self { mood }
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

#[test]
fn pod_leaves_and_returns_by_what_its_health_port_says() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let ports = ["web-a-1", "web-a-2"].map(|pod| HealthPort::open(cluster.topology.pod(pod)));
    let kind = CheckKind::Http {
        transport: HttpTransport::Http1,
        path: "/healthz".into(),
        host: None,
        expected_codes: [(200, 399)].into(),
    };
    let check = HealthCheck {
        kind,
        port: Some(HEALTH_PORT),
        interval_ms: INTERVAL.as_millis() as u32,
        timeout_ms: TIMEOUT.as_millis() as u32,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    };
    cluster.manifests.edit("near", |service| service.health_check = Some(check)).unwrap();
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
            let rows = cluster.agents[0].get("endpoints").unwrap();
            let of_near = rows.as_array().unwrap().iter().filter(|row| {
                row["backendService"].as_str().is_some_and(|name| name.contains("shop/near"))
                    && row["address"].as_str().is_some_and(|address| address.ends_with(":8080"))
            });
            let states: Vec<&str> = of_near.filter_map(|row| row["state"].as_str()).collect();
            !states.is_empty() && states.iter().all(|state| *state == "unhealthy")
        })
        .unwrap();
        wait_for_answerers(client, to, &["web-a-1", "web-a-2"]);
        ports.iter().for_each(|port| port.is(Mood::Well));
        wait_for_answerers(client, to, &["web-a-1", "web-a-2"]);
    }
}
