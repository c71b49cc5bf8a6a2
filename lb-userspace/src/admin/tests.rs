use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use super::*;
use crate::health::{self, ChangedTargets, Target};
use crate::model::{CheckKind, HealthCheck, ObjectName, Protocol};
use crate::plan::BackendServiceName;

/// More than a page of targets. None is probed before the test is over.
const TARGETS: u16 = 1_000;

const CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval_ms: 3_600_000,
    timeout_ms: 1_000,
    healthy_threshold: 1,
    unhealthy_threshold: 1,
};

fn targets(name: &str, count: u16) -> (ObjectName, health::Targets) {
    let service = ObjectName::new("shop", name);
    let backend_service = Arc::new(BackendServiceName {
        service: service.clone(),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    });
    let target =
        |port| Target { backend_service: Arc::clone(&backend_service), address: [192, 0, 2, 1].into(), port };
    (service, (1..=count).map(|port| (target(port), Arc::new(CHECK))).collect())
}

/// A server in a directory of its own, with targets that are known.
struct Fixture {
    dir: TempDir,
    server: Option<Server>,
    _targets: watch::Sender<ChangedTargets>,
    _results: mpsc::Receiver<health::HealthEvent>,
}

impl Fixture {
    async fn start() -> Self {
        let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
        let known = Known::default();
        let all = BTreeMap::from([targets("cart", 1), targets("web", TARGETS)]);
        let (sender, receiver) = watch::channel(ChangedTargets::new(all));
        let (results_sender, results) = mpsc::channel(1);
        tokio::spawn(health::run(known.probing.clone(), receiver, results_sender));
        while known.probing.page(None, None, 1).0.is_empty() {
            tokio::task::yield_now().await;
        }
        let server = Server::start(dir.path(), known).expect("a server");
        Self { dir, server: Some(server), _targets: sender, _results: results }
    }

    /// What the server says to these bytes.
    async fn say(&self, request: &'static [u8]) -> String {
        let path = socket_path(self.dir.path());
        let ask = move || {
            let mut stream = UnixStream::connect(path).expect("a server");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            // It may hang up before it has read all.
            let _ = stream.write_all(request);
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            text
        };
        spawn_blocking(ask).await.expect("no panic")
    }

    async fn health(&self, backend_service: Option<&'static str>) -> Vec<TargetHealth> {
        let dir = self.dir.path().to_owned();
        spawn_blocking(move || health_of(&dir, backend_service)).await.expect("no panic")
    }
}

fn health_of(dir: &Path, backend_service: Option<&str>) -> Vec<TargetHealth> {
    health(dir, backend_service).expect("an answer")
}

#[tokio::test]
async fn answer_of_many_pages_is_whole() {
    let fixture = Fixture::start().await;
    let ports: Vec<u16> = fixture.health(None).await.iter().map(|health| health.endpoint.port()).collect();
    let expected: Vec<u16> = [1].into_iter().chain(1..=TARGETS).collect();
    assert_eq!(ports, expected);
}

#[tokio::test]
async fn one_backend_service_is_told_alone() {
    let fixture = Fixture::start().await;
    let names: Vec<String> = fixture
        .health(Some("shop/cart:http/TCP"))
        .await
        .into_iter()
        .map(|health| health.backend_service)
        .collect();
    assert_eq!(names, ["shop/cart:http/TCP"]);
}

#[tokio::test]
async fn sum_of_probing_counts_the_targets() {
    let fixture = Fixture::start().await;
    let dir = fixture.dir.path().to_owned();
    let stats = spawn_blocking(move || probing(&dir)).await.expect("no panic").expect("an answer");
    assert_eq!((stats.targets, stats.unhealthy, stats.latency.count()), (1_001, 0, 0));
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_an_error() {
    let fixture = Fixture::start().await;
    let answer = fixture.say(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with(r#"{"error":"no request: "#), "{answer}");
}

#[tokio::test]
async fn endless_request_is_not_read_to_its_end() {
    static LONG: [u8; 1 << 20] = [b' '; 1 << 20];
    let fixture = Fixture::start().await;
    let answer = fixture.say(&LONG).await;
    assert!(answer.starts_with(r#"{"error":"no request: "#), "{answer}");
    assert_eq!(fixture.health(Some("shop/cart:http/TCP")).await.len(), 1);
}

#[tokio::test]
async fn socket_is_for_its_owner_alone() {
    let fixture = Fixture::start().await;
    let mode = std::fs::metadata(socket_path(fixture.dir.path())).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn root_and_the_agents_own_user_are_answered() {
    assert_eq!([0, 1_000, 1_001].map(|user| server::is_answered(user, 1_000)), [true, true, false]);
}

#[tokio::test]
async fn client_of_another_user_is_told_nothing() {
    let (client, server) = tokio::net::UnixStream::pair().expect("a pair");
    let mut client = client.into_std().expect("a socket");
    client.set_nonblocking(false).expect("blocking");
    client.write_all(b"{\"health\":{\"backendService\":null}}\n").expect("room");
    server::serve(server, &Known::default(), |_| false).await;
    let mut text = String::new();
    // A reset where the request was not read.
    let _ = client.read_to_string(&mut text);
    assert_eq!(text, "");
}

#[tokio::test]
async fn file_of_an_agent_that_was_killed_is_replaced() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).expect("a socket"));
    let _server = Server::start(dir.path(), Known::default()).expect("a server");
    let path = dir.path().to_owned();
    assert_eq!(spawn_blocking(move || health_of(&path, None)).await.expect("no panic"), []);
}

#[tokio::test]
async fn second_agent_leaves_the_socket_to_the_first() {
    let fixture = Fixture::start().await;
    let error = Server::start(fixture.dir.path(), Known::default()).expect_err("it is taken");
    assert!(error.to_string().starts_with("another agent answers at "), "{error}");
    assert_eq!(fixture.health(Some("shop/cart:http/TCP")).await.len(), 1);
}

#[tokio::test]
async fn file_goes_with_the_server() {
    let mut fixture = Fixture::start().await;
    drop(fixture.server.take());
    assert!(!socket_path(fixture.dir.path()).exists());
    let error = health(fixture.dir.path(), None).expect_err("nobody answers").to_string();
    assert!(error.starts_with("no agent answers at "), "{error}");
}

#[tokio::test]
async fn questions_about_url_maps_are_answered_in_whole() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    let answer = |question: serde_json::Value| match question.as_str() {
        Some("all") => Ok("a line\nand another\n".repeat(100_000)),
        _ => Err(anyhow::anyhow!("no such question: {question}")),
    };
    let known = Known { url_maps: Some(Arc::new(answer)), ..Known::default() };
    let _server = Server::start(dir.path(), known).expect("a server");
    let ask = |question: &'static str| {
        let path = dir.path().to_owned();
        spawn_blocking(move || url_maps(&path, question.into()))
    };
    let text = ask("all").await.expect("no panic").expect("an answer");
    assert_eq!(text.lines().count(), 200_000);
    let error = ask("some").await.expect("no panic").expect_err("no answer").to_string();
    assert!(error.ends_with("agent.sock: no such question: \"some\""), "{error}");
}

#[tokio::test]
async fn an_agent_that_knows_no_url_maps_says_so() {
    let fixture = Fixture::start().await;
    let answer = fixture.say(b"{\"urlMaps\":{\"question\":null}}\n").await;
    assert!(answer.starts_with(r#"{"error":"nothing is known of URL maps"}"#), "{answer}");
}

#[tokio::test]
async fn interfaces_are_told_as_they_were_published_last() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    let known = Known::default();
    let _server = Server::start(dir.path(), known.clone()).expect("a server");
    let served = |name: &str, reason: Option<&str>| ServedInterface {
        name: name.to_owned(),
        index: 2,
        is_uplink: true,
        xdp: "generic".to_owned(),
        reason: reason.map(str::to_owned),
    };
    known.interfaces.publish(vec![served("eth0", None)]);
    known.interfaces.publish(vec![served("eth1", Some("the driver does not support it"))]);
    let path = dir.path().to_owned();
    let told = spawn_blocking(move || interfaces(&path)).await.expect("no panic").expect("an answer");
    assert_eq!(told, [served("eth1", Some("the driver does not support it"))]);
}

#[tokio::test]
async fn requests_are_told_as_they_are_counted_when_asked() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    let counted = Arc::new(AtomicU64::new(7));
    let of_web = |requests| vec![ServiceRequests { backend_service: "shop/web:http/TCP".into(), requests }];
    let now = Arc::clone(&counted);
    let counts = move || of_web(now.load(Ordering::Relaxed));
    let known = Known { requests: Some(Arc::new(counts)), ..Known::default() };
    let _server = Server::start(dir.path(), known).expect("a server");
    let ask = || {
        let path = dir.path().to_owned();
        spawn_blocking(move || requests(&path))
    };
    assert_eq!(ask().await.expect("no panic").expect("an answer"), of_web(7));
    counted.store(9, Ordering::Relaxed);
    assert_eq!(ask().await.expect("no panic").expect("an answer"), of_web(9));
}

#[tokio::test]
async fn an_agent_without_a_front_end_tells_no_requests() {
    let fixture = Fixture::start().await;
    let path = fixture.dir.path().to_owned();
    assert_eq!(spawn_blocking(move || requests(&path)).await.expect("no panic").expect("an answer"), []);
}

#[tokio::test]
async fn facts_are_lent_by_the_loop_and_written_down_beside_it() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    let (questions, mut asked) = mpsc::channel::<FactsQuestion>(1);
    let known = Known { facts: Some(questions), ..Known::default() };
    let _server = Server::start(dir.path(), known).expect("a server");
    let ask = || {
        let path = dir.path().to_owned();
        spawn_blocking(move || facts(&path))
    };
    let answer = ask();
    let question = asked.recv().await.expect("a question");
    assert!(question.send(Box::new(|| Ok("{}".to_owned()))).is_ok());
    assert_eq!(answer.await.expect("no panic").expect("an answer"), "{}");
    let answer = ask();
    drop(asked.recv().await.expect("a question"));
    let error = answer.await.expect("no panic").expect_err("the loop has ended").to_string();
    assert!(error.ends_with("the facts are not told"), "{error}");
}

#[tokio::test]
async fn an_agent_that_gives_nothing_away_says_so() {
    let fixture = Fixture::start().await;
    let answer = fixture.say(b"\"takeOver\"\n").await;
    assert!(answer.starts_with(r#"{"error":"this agent gives nothing away"}"#), "{answer}");
}

#[tokio::test]
async fn whoever_asks_for_the_node_is_answered_by_its_giver() {
    let dir = TempDir::with_prefix("podway-admin-").expect("a directory");
    let (sender, mut successors) = mpsc::channel(1);
    let known = Known { take_over: Some(sender), ..Known::default() };
    let _server = Server::start(dir.path(), known).expect("a server");
    let path = socket_path(dir.path());
    let asking = spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).expect("a server");
        stream.write_all(b"\"takeOver\"\n").expect("room");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    });
    let mut successor = successors.recv().await.expect("a successor");
    successor.write_all(b"yours").expect("room");
    drop(successor);
    assert_eq!(asking.await.expect("no panic"), "yours");
}
