//! What agents tell each other by way of the API server.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::peers::{Known, Local, Report, Settings, run};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for what a test expects: a collector that is gone is missed after 18 seconds.
const DEADLINE: Duration = Duration::from_secs(40);

/// Well before the first renewal of a report, ten seconds.
const BEFORE_RENEWAL: Duration = Duration::from_secs(8);

/// What one agent does. It ends with this.
struct Peer {
    local: watch::Sender<Local>,
    known: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Begins to talk in a cluster of these nodes.
    fn start(server: &ApiServer, node: &str, nodes: &[&str], report: Report) -> Self {
        let nodes: BTreeSet<Arc<str>> = nodes.iter().map(|node| (*node).into()).collect();
        let (local, locals) = watch::channel(Local { report: Some(report), nodes: nodes.into() });
        let (sender, known) = watch::channel(Known::default());
        let settings = Settings { node: node.into(), namespace: "podway".to_owned(), probers: 3 };
        let config = kube::Config::new(server.url().parse().expect("a URL"));
        let task =
            tokio::spawn(async move { run(config, settings, locals, sender).await.expect("a client") });
        Self { local, known, task }
    }

    fn report(&self, report: Report) {
        self.local.send_modify(|local| local.report = Some(report));
    }

    /// Waits until it knows something.
    async fn until(&mut self, what: &str, patience: Duration, holds: impl Fn(&Known) -> bool) {
        let found = timeout(patience, self.known.wait_for(|known| holds(known))).await.is_ok();
        if !found {
            panic!("after {patience:?} still not: {what}; known is {:?}", self.known.borrow());
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn programmed(programmed: u64) -> Report {
    Report { programmed, ..Report::default() }
}

fn lease(server: &ApiServer, name: &str) -> Option<Value> {
    server.objects(Resource::Leases).into_iter().find(|lease| lease["metadata"]["name"] == name)
}

#[tokio::test]
async fn agent_that_is_alone_waits_for_nobody() {
    let server = ApiServer::start().await;
    let mut peer = Peer::start(&server, "node-a", &["node-a"], programmed(7));
    peer.until("it knows itself", DEADLINE, |known| known.summary.programmed == 7).await;
    // Of its own maps no object has to tell it.
    server.set_away(true);
    peer.report(programmed(9));
    peer.until("it is further", BEFORE_RENEWAL, |known| known.summary.programmed == 9).await;
}

#[tokio::test]
async fn what_one_agent_waits_for_all_tell_at_once() {
    let server = ApiServer::start().await;
    let nodes = ["node-a", "node-b", "node-c"];
    let mut peers = nodes.map(|node| Peer::start(&server, node, &nodes, programmed(7)));
    for peer in &mut peers {
        let is_whole = |known: &Known| known.summary.programmed == 7 && known.summary.absent.is_empty();
        peer.until("all three have come to seven", DEADLINE, is_whole).await;
    }
    peers[0].report(Report { wanted: 12, ..programmed(12) });
    peers[1].report(programmed(12));
    peers[2].until("the question", BEFORE_RENEWAL, |known| known.summary.wanted == 12).await;
    assert!(peers.iter().all(|peer| peer.known.borrow().summary.programmed < 12));
    peers[2].report(programmed(12));
    for peer in &mut peers {
        peer.until("all have come to twelve", BEFORE_RENEWAL, |known| known.summary.programmed == 12).await;
    }
}

#[tokio::test]
async fn findings_of_most_probers_reach_all_agents() {
    let server = ApiServer::start().await;
    let nodes = ["node-a", "node-b", "node-c"];
    let mut peers = nodes.map(|node| Peer::start(&server, node, &nodes, programmed(7)));
    for peer in &mut peers {
        peer.until("all agents", DEADLINE, |known| {
            known.renewed_ms.is_some() && known.summary.absent.is_empty()
        })
        .await;
    }
    let finds = |keys: &[u64]| {
        let unhealthy = lb_userspace::peers::Keys(keys.iter().copied().collect());
        Report { unhealthy, ..programmed(7) }
    };
    peers[0].report(finds(&[0x1f]));
    peers[1].report(finds(&[0x1f, 0x2f]));
    for peer in &mut peers {
        let has = |known: &Known| known.summary.unhealthy.0.iter().eq(&[0x1f]);
        peer.until("the one that two find unhealthy", BEFORE_RENEWAL, has).await;
    }
}

#[tokio::test]
async fn agent_that_no_longer_renews_is_not_waited_for() {
    let server = ApiServer::start().await;
    let content = serde_json::to_string(&programmed(3)).expect("text");
    server.put(
        Resource::Leases,
        json!({
            "metadata": {
                "namespace": "podway", "name": "podway.node-b", "annotations": {"podway.io/content": content},
            },
            "spec": {
                "holderIdentity": "node-b", "leaseDurationSeconds": 2, "renewTime": "2026-01-01T00:00:00.000000Z",
            },
        }),
    );
    let mut peer = Peer::start(&server, "node-a", &["node-a", "node-b"], programmed(7));
    peer.until("node-b is waited for", DEADLINE, |known| known.summary.programmed == 3).await;
    peer.until("node-b is absent", DEADLINE, |known| {
        known.summary.absent.iter().any(|node| **node == *"node-b")
    })
    .await;
    assert_eq!(peer.known.borrow().summary.programmed, 7);
}

#[tokio::test]
async fn agents_that_are_gone_are_missed_however_far_ahead_their_clocks_were() {
    let server = ApiServer::start().await;
    let leave = |name: &str, content: Value, holds_s: u32| {
        let annotations = json!({"podway.io/content": content.to_string()});
        let metadata = json!({"namespace": "podway", "name": name, "annotations": annotations});
        let renewed = "2126-01-01T00:00:00.000000Z";
        let spec = json!({"holderIdentity": "node-b", "leaseDurationSeconds": holds_s, "renewTime": renewed});
        server.put(Resource::Leases, json!({"metadata": metadata, "spec": spec}));
    };
    // Of the collector, and its own report.
    leave("podway", json!({}), 15);
    leave("podway.node-b", json!(programmed(3)), 2);
    let mut peer = Peer::start(&server, "node-a", &["node-a", "node-b"], programmed(7));
    peer.until("it collects, without node-b", DEADLINE, |known| {
        known.is_collector
            && known.summary.programmed == 7
            && known.summary.absent.iter().any(|node| **node == *"node-b")
    })
    .await;
}

#[tokio::test]
async fn another_agent_collects_when_the_collector_is_gone() {
    let server = ApiServer::start().await;
    let nodes = ["node-a", "node-b"];
    let mut first = Peer::start(&server, "node-a", &nodes, programmed(7));
    first.until("it collects", DEADLINE, |known| known.summary.programmed == 7).await;
    let mut second = Peer::start(&server, "node-b", &nodes, programmed(8));
    second
        .until("both are there", DEADLINE, |known| {
            known.summary.absent.is_empty() && known.renewed_ms.is_some()
        })
        .await;
    let holder = || lease(&server, "podway").map(|lease| lease["spec"]["holderIdentity"].clone());
    assert_eq!(holder(), Some("node-a".into()));
    drop(first);
    second.report(Report { wanted: 9, ..programmed(9) });
    // What the first said holds for a while longer.
    second.until("it collects", DEADLINE, |known| known.summary.wanted == 9).await;
    assert_eq!((holder(), second.known.borrow().summary.programmed), (Some("node-b".into()), 7));
}

#[tokio::test]
async fn refused_writes_are_tried_again() {
    let server = ApiServer::start().await;
    // The Lease's patch, and the summary's creation.
    server.fail_list(Resource::Leases, Fault::Status(403, None));
    server.fail_list(Resource::Leases, Fault::Status(500, None));
    let mut peer = Peer::start(&server, "node-a", &["node-a"], programmed(7));
    peer.until("it knows itself", DEADLINE, |known| known.summary.programmed == 7).await;
    assert_eq!(server.faults_left(), 0);
}
