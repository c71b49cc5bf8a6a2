//! Netns tier: the commands tell what the maps hold and what really happens.
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::traffic::{Dial, dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use serde_json::Value;

/// Longest wait for an agent to follow a manifest.
const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster, or `None` where the machine lacks a need.
fn cluster() -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options::default()).unwrap())
}

fn explain(cluster: &Cluster, from: &str, to: &str, protocol: &str) -> Value {
    let run_dir = cluster.topology.run_dir("node-a");
    let run_dir = run_dir.to_str().unwrap();
    let arguments =
        ["explain", "--from", from, "--to", to, "--proto", protocol, "-o", "json", "--run-dir", run_dir];
    serde_json::from_str(&cluster.agents[0].podway(&arguments).unwrap()).unwrap()
}

#[test]
fn explain_and_the_program_in_the_kernel_agree() {
    let Some(cluster) = cluster() else { return };
    for (service, wanted) in
        [("web", "forward"), ("near", "forward"), ("empty", "refuse"), ("far-local", "drop")]
    {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for to in cluster.load_balancer_addresses(service, protocol) {
                for port in 40_000..40_002 {
                    let client = cluster.topology.client().address_for(to.ip());
                    let from = std::net::SocketAddr::new(client, port).to_string();
                    let word = protocol.to_string().to_lowercase();
                    let told = explain(&cluster, &from, &to.to_string(), &word);
                    assert_eq!(told["verdict"], wanted, "{told:#}");
                    assert_eq!(told["kernel"]["agrees"], true, "{told:#}");
                }
            }
        }
    }
}

#[test]
fn explain_names_the_objects_with_their_versions() {
    let Some(cluster) = cluster() else { return };
    let to = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let from = std::net::SocketAddr::new(cluster.topology.client().address_for(to.ip()), 40_000);
    let told = explain(&cluster, &from.to_string(), &to.to_string(), "tcp");
    let origin = |stage: &str| {
        let steps = told["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["stage"] == stage).unwrap_or_else(|| panic!("{told:#}"));
        step["origin"].as_str().unwrap_or_else(|| panic!("{told:#}")).to_owned()
    };
    let starts = |stage: &str, wanted: &str| assert!(origin(stage).starts_with(wanted), "{told:#}");
    starts("frontend", "Service shop/near at resourceVersion ");
    starts("neg", "Service shop/near at resourceVersion ");
    starts("endpoint", "EndpointSlice shop/near-");
    assert!(origin("endpoint").contains(" at resourceVersion "), "{told:#}");
}

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: shop, annotations: {kubernetes.io/ingress.class: podway}}
spec:
  rules:
  - host: shop.example.com
    http: {paths: [{path: /near, pathType: Prefix, backend: {service: {name: near, port: {number: 81}}}}]}
";

#[test]
fn the_agent_tells_url_maps_as_they_change() {
    let Some(cluster) = cluster() else { return };
    let agent = &cluster.agents[0];
    let maps = || agent.get("url-maps").unwrap();
    assert_eq!(maps(), Value::Array(vec![]));
    let file = cluster.manifests.dir().join("ingress.yaml");
    std::fs::write(&file, INGRESS).unwrap();
    wait_until(DEADLINE, "the URL map is told", || maps()[0]["name"] == "shop/shop").unwrap();
    let node = cluster.topology.node("node-a").host().v4().to_string();
    assert_eq!(maps()[0]["vips"][0], serde_json::json!({"address": node, "source": "node addresses"}));
    let run_dir = cluster.topology.run_dir("node-a");
    let url = ["explain", "--url", "http://shop.example.com/near/1", "-o", "json", "--run-dir"];
    let told = agent.podway(&[&url[..], &[run_dir.to_str().unwrap()]].concat()).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let answer = &told["answers"][0];
    assert_eq!((&answer["verdict"], &answer["pathRule"]), (&"forward".into(), &"/near".into()), "{told:#}");
    assert_eq!(answer["endpoints"].as_array().map(Vec::len), Some(4), "two pods, by IPv4 and IPv6: {told:#}");
    let described = agent.podway(&["describe", "ingress", "shop/shop"]).unwrap();
    assert!(described.starts_with("URL map shop/shop\nPorts   80\n"), "{described}");
    std::fs::remove_file(&file).unwrap();
    wait_until(DEADLINE, "the URL map is gone", || maps() == Value::Array(vec![])).unwrap();
}

#[test]
fn explain_writes_nothing() {
    let Some(cluster) = cluster() else { return };
    let to = cluster.load_balancer_addresses("web", Protocol::Tcp)[0];
    let before = cluster.agents[0].get("counters").unwrap();
    for port in 40_000..40_010 {
        let from =
            std::net::SocketAddr::new(cluster.topology.client().address_for(to.ip()), port).to_string();
        explain(&cluster, &from, &to.to_string(), "tcp");
    }
    let flows = cluster.agents[0].get("conntrack").unwrap();
    assert!(!flows.to_string().contains(":4000"), "{flows:#}");
    let forwarded = |counters: &Value| {
        let rows = counters.as_array().unwrap().clone();
        rows.into_iter().find(|row| row["reason"] == "new-flow").unwrap()["packets"].clone()
    };
    assert_eq!(forwarded(&before), forwarded(&cluster.agents[0].get("counters").unwrap()));
}

#[test]
fn counters_and_conntrack_show_real_traffic() {
    let Some(cluster) = cluster() else { return };
    let to = cluster.load_balancer_addresses("web", Protocol::Tcp)[0];
    let answers = dial(cluster.topology.client(), &Dial::times(30, Protocol::Tcp, to)).unwrap();
    assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
    let endpoints = cluster.agents[0].get("endpoints").unwrap();
    let web = endpoints.as_array().unwrap().iter().filter(|row| {
        row["backendService"].as_str().is_some_and(|name| name.contains("/web:")) && row["protocol"] == "TCP"
    });
    let flows: u64 = web.filter_map(|row| row["newFlows"].as_u64()).sum();
    assert_eq!(flows, 30);
    let conntrack = cluster.agents[0].get("conntrack").unwrap();
    let to_vip = conntrack.as_array().unwrap().iter().filter(|row| row["destination"] == to.to_string());
    assert_eq!(to_vip.count(), 30);
    cluster.agents[0].verify().unwrap();
}
