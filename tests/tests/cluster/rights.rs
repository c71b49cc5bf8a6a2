//! The roles of the manifests against what an agent's parts really ask for: no more, no less.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Resource, Right};
use lb_tests::deployment;
use lb_userspace::gates::{self, GateReason, Met};
use lb_userspace::lb_pool::{self, Owner, OwnerKind};
use lb_userspace::model::{GatedPod, ObjectName, Protocol, ReadinessGate};
use lb_userspace::peers::{self, Known, Local};
use lb_userspace::plan::{BackendServiceName, Condition};
use lb_userspace::{events, ingress_status, neg_status};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::observer::{Observer, frontend_config, ingress, ingress_class, server};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

fn config(server: &ApiServer) -> kube::Config {
    kube::Config::new(server.url().parse().expect("a URL"))
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

/// A server with an object of each kind that an agent reads, which grants what the manifests do.
async fn cluster() -> (ApiServer, BTreeSet<Right>) {
    let server = server().await;
    server.put(Resource::Ingresses, ingress("a"));
    server.put(Resource::IngressClasses, ingress_class("podway"));
    server.put(Resource::FrontendConfigs, frontend_config("a"));
    server.put(
        Resource::Secrets,
        json!({
            "metadata": {"namespace": "shop", "name": "tls"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": "C", "tls.key": "K"},
        }),
    );
    server.put(
        Resource::Pods,
        json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "uid-web-1"},
            "spec": {
                "nodeName": "node-a", "containers": [],
                "readinessGates": [{"conditionType": "podway.io/programmed"}],
            },
            "status": {"podIPs": [{"ip": "192.0.2.9"}], "conditions": []},
        }),
    );
    let granted = deployment::rights().expect("the manifests");
    server.allow_only(granted.clone());
    (server, granted)
}

/// Reads all that there is, by lists that the server streams or by pages.
async fn read(server: &ApiServer) {
    let (_wanted, secrets) = watch::channel([name("tls")].into());
    let mut observer = Observer::of_agent(&server.url(), "node-a", secrets);
    observer.until_equal(server).await;
    let has_all = |o: &Observer| !o.snapshot.secrets.is_empty() && !o.snapshot.gated_pods.is_empty();
    observer.until("the Secret and the pod", has_all).await;
}

/// A queue with these for a writer, which ends when it has taken them all.
async fn queue<T>(items: impl IntoIterator<Item = T>) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(8);
    for item in items {
        assert!(sender.send(item).await.is_ok(), "room");
    }
    receiver
}

async fn write_events(server: &ApiServer) {
    let backend_service = Arc::new(BackendServiceName {
        service: name("a"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    });
    // The second time it is the same Event, counted.
    let report =
        events::Report::Condition { backend_service, uid: "0d4f".into(), condition: Condition::Empty };
    let reports = queue([report.clone(), report]).await;
    events::run(config(server), "node-a".to_owned(), reports).await.expect("a client");
}

async fn write_statuses(server: &ApiServer) {
    let pod = GatedPod {
        name: name("web-1"),
        uid: "uid-web-1".into(),
        addresses: vec![],
        unmet: ReadinessGate::ALL.into(),
    };
    let met = Met { pod: Arc::new(pod), gates: ReadinessGate::ALL.into(), reason: GateReason::Programmed };
    gates::run(config(server), queue([met]).await).await.expect("a client");
    let neg = neg_status::Correction { service: name("a"), text: Some("{}".to_owned()) };
    neg_status::run(config(server), queue([neg]).await).await.expect("a client");
    let resource_version = server.versions(Resource::Ingresses, "")["shop/a"].clone().into();
    let vips = ["203.0.113.80".parse().expect("an address")].into();
    let correction = ingress_status::Correction { ingress: name("a"), resource_version, vips };
    ingress_status::run(config(server), queue([correction]).await).await.expect("a client");
    let correction = lb_pool::Correction {
        owner: Owner { kind: OwnerKind::Service, object: name("a") },
        resource_version: server.versions(Resource::Services, "")["shop/a"].clone().into(),
        addresses: vec!["203.0.113.1".parse().expect("an address")],
    };
    let tasks = queue([lb_pool::Task::Correct(correction)]).await;
    lb_pool::run(config(server), "node-a".to_owned(), tasks).await.expect("a client");
}

/// Tells and collects, until the report of a node that is no more is gone.
async fn exchange_reports(server: &ApiServer) {
    let content = serde_json::to_string(&peers::Report::default()).expect("text");
    let gone = json!({
        "metadata": {
            "namespace": "podway", "name": "podway.node-z", "annotations": {"podway.io/content": content},
        },
        "spec": {
            "holderIdentity": "node-z", "leaseDurationSeconds": 0, "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    });
    server.put(Resource::Leases, gone);
    let nodes = Arc::new(BTreeSet::from(["node-a".into()]));
    let local = Local { report: Some(peers::Report::default()), nodes };
    let (_local, locals) = watch::channel(local);
    let (sender, _known) = watch::channel(Known::default());
    let settings = peers::Settings { node: "node-a".into(), namespace: "podway".to_owned(), probers: 3 };
    let talk = peers::run(config(server), settings, locals, sender);
    let is_there = |name: &str| server.versions(Resource::Leases, "").contains_key(&format!("podway/{name}"));
    let is_done = async {
        while is_there("podway.node-z") || !is_there("podway.node-a") {
            sleep(POLL).await;
        }
    };
    let result = timeout(DEADLINE, async {
        tokio::select! {
            ended = talk => panic!("the exchange has ended: {ended:?}"),
            () = is_done => {}
        }
    });
    assert!(result.await.is_ok(), "the report stays: {:?}", server.objects(Resource::Leases));
}

#[tokio::test]
async fn an_agent_asks_for_what_the_manifests_grant_and_for_nothing_else() {
    let (server, granted) = cluster().await;
    read(&server).await;
    server.set_streams_lists(false);
    read(&server).await;
    write_events(&server).await;
    write_statuses(&server).await;
    exchange_reports(&server).await;
    let asked = server.asked();
    let refused: Vec<_> =
        asked.iter().filter(|asked| !granted.iter().any(|right| right.covers(asked))).collect();
    assert_eq!(refused, [] as [&Right; 0]);
    let needed = granted.iter().filter(|right| asked.iter().any(|asked| right.covers(asked)));
    let surplus: Vec<_> = granted.difference(&needed.cloned().collect()).cloned().collect();
    assert_eq!(surplus, []);
}

#[tokio::test]
async fn what_no_role_grants_is_refused() {
    let (server, mut granted) = cluster().await;
    granted.retain(|right| right.resource != "events");
    server.allow_only(granted);
    write_events(&server).await;
    assert_eq!(server.objects(Resource::Events), [] as [Value; 0]);
    write_statuses(&server).await;
    assert_eq!(
        server.objects(Resource::Services)[0]["metadata"]["annotations"]["podway.io/neg-status"],
        "agent"
    );
}
