//! Many agents at one API server: they do not come all at once.
use std::collections::BTreeSet;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::source::SourceEvent;
use lb_userspace::source::kube::{Settings, run};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::observer::server;

/// Among so many a spread shows by chance as good as never where there is none, and always where there is one.
const AGENTS: usize = 30;

/// Wait after a failure; what a jitter takes off is half of it at most.
const WAIT: Duration = Duration::from_secs(1);

/// Longest wait for what a test expects.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sources that watch until this is dropped, once each has all facts.
async fn agents(server: &ApiServer) -> JoinSet<()> {
    let mut agents = JoinSet::new();
    let (synced, mut all_synced) = mpsc::channel(AGENTS);
    for index in 0..AGENTS {
        let config = kube::Config::new(server.url().parse().expect("a URL"));
        let settings = Settings {
            backoff_min: WAIT,
            backoff_max: WAIT,
            pods_of_node: Some(format!("node-{index}")),
            ..Settings::default()
        };
        let (sender, mut events) = mpsc::channel(64);
        agents.spawn(async move { run(config, settings, sender).await.expect("a client") });
        let synced = synced.clone();
        agents.spawn(async move {
            while let Some(event) = events.recv().await {
                if event == SourceEvent::Synced {
                    synced.send(()).await.expect("the test waits");
                }
            }
        });
    }
    let all = async {
        for _ in 0..AGENTS {
            all_synced.recv().await.expect("a source that is synced");
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("all sources are synced in time");
    agents
}

/// When each agent asked for the pods of its node.
fn asked(server: &ApiServer) -> Vec<Vec<std::time::Instant>> {
    let requests = server.requests(Resource::Pods);
    let of = |index: usize| {
        let node = format!("spec.nodeName=node-{index}");
        let own = requests.iter().filter(|request| request.parameter("fieldSelector") == Some(&node));
        own.map(|request| request.at).collect()
    };
    (0..AGENTS).map(of).collect()
}

#[tokio::test]
async fn agents_come_back_spread_over_time_after_an_outage() {
    let server = server().await;
    let _agents = agents(&server).await;
    for _ in 0..AGENTS {
        server.fail_watch(Resource::Pods, Fault::Status(503, None));
    }
    server.disconnect();
    let deadline = Instant::now() + DEADLINE;
    // The first watch, a refused one, and one that goes on.
    while server.requests(Resource::Pods).len() < 3 * AGENTS {
        assert!(Instant::now() < deadline, "not all are back: {:?}", asked(&server));
        sleep(Duration::from_millis(5)).await;
    }
    let after_failures = asked(&server);
    let after_failures = after_failures.iter().flat_map(|times| times.windows(2).skip(1));
    let mut waits: Vec<_> = after_failures.map(|pair| pair[1] - pair[0]).collect();
    waits.sort();
    assert!(waits[0] >= WAIT / 2, "{waits:?}");
    assert!(waits[AGENTS / 4] < WAIT, "many come before the whole wait is over: {waits:?}");
    assert!(waits[AGENTS - 1] - waits[0] >= WAIT / 5, "{waits:?}");
}

#[tokio::test]
async fn watches_that_began_together_do_not_end_together() {
    let server = server().await;
    let _agents = agents(&server).await;
    let requests = server.requests(Resource::Services);
    let timeouts: Vec<u64> = requests
        .iter()
        .map(|request| {
            request.parameter("timeoutSeconds").and_then(|text| text.parse().ok()).expect("a number")
        })
        .collect();
    assert!(timeouts.iter().all(|timeout| (120..=240).contains(timeout)), "{timeouts:?}");
    let different = timeouts.iter().collect::<BTreeSet<_>>().len();
    assert!(different >= AGENTS / 3, "{timeouts:?}");
}
