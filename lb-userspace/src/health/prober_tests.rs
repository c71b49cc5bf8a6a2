use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::health::{Finding, LastProbe};
use crate::model::{CheckKind, HealthCheck, Protocol};
use crate::plan::BackendServiceName;

/// Longest wait for what a test expects.
const DEADLINE: Duration = Duration::from_secs(20);

const CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval_ms: 10,
    timeout_ms: 2_000,
    healthy_threshold: 2,
    unhealthy_threshold: 2,
};

struct Fixture {
    targets: watch::Sender<ChangedTargets>,
    results: mpsc::Receiver<HealthEvent>,
    probing: Probing,
}

impl Fixture {
    fn start(addresses: &[SocketAddr], check: &HealthCheck) -> Self {
        let (targets, targets_receiver) = watch::channel(set(addresses, check));
        let (results_sender, results) = mpsc::channel(1);
        let probing = Probing::default();
        tokio::spawn(run(probing.clone(), targets_receiver, results_sender));
        Self { targets, results, probing }
    }

    async fn next(&mut self) -> HealthEvent {
        timeout(DEADLINE, self.results.recv()).await.expect("an event in time").expect("the prober runs on")
    }

    async fn next_finding(&mut self) -> (u16, bool, Arc<str>) {
        match self.next().await {
            HealthEvent::Found(target, Finding { is_healthy, reason, .. }) => {
                (target.port, is_healthy, reason)
            }
            forgotten @ HealthEvent::Forgotten(_) => panic!("{forgotten:?}"),
        }
    }
}

fn set(addresses: &[SocketAddr], check: &HealthCheck) -> ChangedTargets {
    let service = ObjectName::new("shop", "web");
    let backend_service = Arc::new(BackendServiceName {
        service: service.clone(),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    });
    let target = |address: &SocketAddr| Target {
        backend_service: Arc::clone(&backend_service),
        address: address.ip(),
        port: address.port(),
    };
    let targets = addresses.iter().map(|address| (target(address), Arc::new(check.clone()))).collect();
    ChangedTargets::new(BTreeMap::from([(service, targets)]))
}

async fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("a loopback port");
    let address = listener.local_addr().expect("its number");
    (listener, address)
}

#[tokio::test]
async fn endpoint_that_closes_and_opens_again_is_found_both_times() {
    // Addresses of loopback's own that no other test uses, so that nobody takes the port meanwhile.
    let (steady, steady_address) = listen("127.31.0.1:0").await;
    let (listener, address) = listen("127.31.0.2:0").await;
    let mut fixture = Fixture::start(&[address, steady_address], &CHECK);
    drop(listener);
    let refused: Arc<str> = "connect-refused: Connection refused (os error 111)".into();
    assert_eq!(fixture.next_finding().await, (address.port(), false, refused));
    let _listener = TcpListener::bind(address).await.expect("the same port");
    assert_eq!(fixture.next_finding().await, (address.port(), true, "connected".into()));
    drop(steady);
    assert_eq!(fixture.next_finding().await.0, steady_address.port());
}

#[tokio::test]
async fn endpoint_that_does_not_answer_is_unhealthy_after_the_timeout() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.31.0.3:0".parse().expect("an address")).expect("a loopback port");
    let listener = socket.listen(1).expect("listen");
    let address = listener.local_addr().expect("its number");
    // Connections that nobody accepts fill the queue; then the kernel drops what arrives.
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream.expect("a connection"));
    }
    let check = HealthCheck { timeout_ms: 50, ..CHECK };
    let mut fixture = Fixture::start(&[address], &check);
    assert_eq!(
        fixture.next_finding().await,
        (address.port(), false, "connect-timeout: no connection within 50 ms".into())
    );
}

#[tokio::test]
async fn ipv6_endpoint_is_probed() {
    let (listener, address) = listen("[::1]:0").await;
    let mut fixture = Fixture::start(&[address], &CHECK);
    drop(listener);
    assert_eq!(fixture.next_finding().await.0, address.port());
}

#[tokio::test]
async fn target_that_is_no_more_is_forgotten() {
    let (listener, address) = listen("127.31.0.4:0").await;
    drop(listener);
    let mut fixture = Fixture::start(&[address], &CHECK);
    let HealthEvent::Found(target, _) = fixture.next().await else { panic!("not found") };
    fixture.targets.send(set(&[], &CHECK)).expect("the prober runs on");
    assert_eq!(fixture.next().await, HealthEvent::Forgotten(target));
    drop(fixture.targets);
    assert_eq!(timeout(DEADLINE, fixture.results.recv()).await, Ok(None), "ends without a plan");
}

#[tokio::test]
async fn last_probe_is_kept_with_its_reason() {
    let (listener, address) = listen("127.31.0.5:0").await;
    drop(listener);
    let mut fixture = Fixture::start(&[address], &CHECK);
    fixture.next_finding().await;
    let (page, _) = fixture.probing.page(None, None, 10);
    let LastProbe { reason_code, detail, .. } = page[0].last_probe.clone().expect("a probe");
    assert_eq!(
        (page[0].endpoint, page[0].healthy, reason_code, &*detail),
        (address, false, ReasonCode::ConnectRefused, "Connection refused (os error 111)")
    );
}
