//! An Ingress and its Secret by the API server: the agent reads the one Secret that is named, and follows it.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask_by_tls, certificate};
use lb_userspace::model::Protocol;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(40);
const HOST: &str = "shop.example";

fn ingress(secret: &str) -> Value {
    json!({
        "metadata": {
            "name": "shop", "namespace": NAMESPACE,
            "annotations": {"podway.io/vips": LOAD_BALANCER_IPS[0].to_string()},
        },
        "spec": {
            "ingressClassName": "podway",
            "tls": [{"hosts": [HOST], "secretName": secret}],
            "defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}},
        },
    })
}

#[test]
fn a_certificate_follows_its_secret_and_no_other_is_read() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _webs: Vec<_> = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
    let api = GatewayApi::start(&topology).unwrap();
    let web = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT).backed_by_all(&topology);
    api.publish(&web);
    let class = json!({"metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"}});
    api.server.put(Resource::IngressClasses, class);
    let (first, secret) = certificate("tls", HOST).unwrap();
    api.server.put(Resource::Secrets, secret);
    api.server.put(Resource::Secrets, certificate("other", HOST).unwrap().1);
    api.server.put(Resource::Ingresses, ingress("tls"));
    let kubeconfig = api.kubeconfig();
    let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
    let agent = Agent::start_from(&podway, &topology, NODE_NAMES[0], source, Options::default()).unwrap();
    let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 443);
    let is_served = |trusted: &CertificateDer<'static>| {
        ask_by_tls(topology.client(), to, HOST, "/", trusted).is_ok_and(|answer| answer.code == 200)
    };
    let wait_for = |what: &str, trusted: &CertificateDer<'static>| {
        wait_until(DEADLINE, what, || is_served(trusted))
            .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", agent.log()));
    };
    wait_for("the first certificate", &first);

    let (second, secret) = certificate("tls", HOST).unwrap();
    api.server.put(Resource::Secrets, secret);
    wait_for("the second certificate", &second);
    assert!(!is_served(&first), "the first one is not shown any more");

    let (third, secret) = certificate("next", HOST).unwrap();
    api.server.put(Resource::Secrets, secret);
    api.server.put(Resource::Ingresses, ingress("next"));
    wait_for("the certificate of another Secret", &third);
    let requests = api.server.requests(Resource::Secrets);
    let asked: BTreeSet<_> =
        requests.iter().map(|request| request.parameter("fieldSelector").unwrap_or_default()).collect();
    let selector = |name: &str| format!("metadata.name={name},metadata.namespace={NAMESPACE}");
    assert_eq!(asked, BTreeSet::from([&*selector("next"), &*selector("tls")]));
}
