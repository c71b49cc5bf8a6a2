//! Statuses of Ingresses as they come to the API server.
use lb_tests::api_server::{ApiServer, Resource};
use lb_userspace::ingress_status::{Correction, run};
use lb_userspace::model::ObjectName;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::observer::{Observer, ingress};

/// Writes two addresses by what was seen at a version; the status then.
async fn write(server: &ApiServer, version: u64) -> Value {
    let (sender, receiver) = mpsc::channel(8);
    let vips = ["203.0.113.80", "2001:db8::80"].map(|text| text.parse().expect("an address"));
    let correction = Correction {
        ingress: ObjectName::new("shop", "web"),
        resource_version: version.to_string().into(),
        vips: vips.into(),
    };
    sender.send(correction).await.expect("room");
    drop(sender);
    run(kube::Config::new(server.url().parse().expect("a URL")), receiver).await.expect("a client");
    server.objects(Resource::Ingresses)[0]["status"].clone()
}

#[tokio::test]
async fn addresses_are_written_and_read_again() {
    let server = ApiServer::start().await;
    let version = server.put(Resource::Ingresses, ingress("web"));
    let expected = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}, {"ip": "2001:db8::80"}]}});
    assert_eq!(write(&server, version).await, expected);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let fact = observer.snapshot.ingresses.values().next().expect("the Ingress");
    let read: Vec<_> = fact.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(
        (read, fact.has_load_balancer_hosts),
        (vec!["203.0.113.80".into(), "2001:db8::80".into()], false)
    );
}

#[tokio::test]
async fn a_status_that_was_not_seen_is_not_overwritten() {
    let server = ApiServer::start().await;
    let version = server.put(Resource::Ingresses, ingress("web"));
    let mut written = ingress("web");
    written["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    server.put(Resource::Ingresses, written.clone());
    assert_eq!(write(&server, version).await, written["status"]);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    assert!(observer.snapshot.ingresses.values().all(|fact| fact.has_load_balancer_hosts));
}
