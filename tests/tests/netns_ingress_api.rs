//! An Ingress and its Secret by the API server: the agent reads the one Secret that is named, and follows it.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{EXTERNAL_IP, LOAD_BALANCER_IPS, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask, ask_by_tls, certificate};
use lb_userspace::model::Protocol;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const DEADLINE: Duration = Duration::from_secs(40);
const HOST: &str = "shop.example";

/// An agent on the first node, a pod on each, and `web` behind an Ingress with a Secret.
struct World {
    agent: Agent,
    api: GatewayApi,
    _webs: Vec<Web>,
    _runtime: Runtime,
    topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met.
    fn start(secrets: &[Value], ingress: Value) -> Option<Self> {
        let need = need::netns()?;
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let topology = Topology::two_nodes(1).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let api = GatewayApi::start(&topology).unwrap();
        let web = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
        api.publish(&web.backed_by_all(&topology));
        let class = json!({"metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"}});
        api.server.put(Resource::IngressClasses, class);
        for secret in secrets {
            api.server.put(Resource::Secrets, secret.clone());
        }
        api.server.put(Resource::Ingresses, ingress);
        let kubeconfig = api.kubeconfig();
        let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
        let agent = Agent::start_from(&podway, &topology, NODE_NAMES[0], source, Options::default()).unwrap();
        Some(Self { agent, api, _webs: webs, _runtime: runtime, topology })
    }

    fn wait_for(&self, what: &str, holds: impl FnMut() -> bool) {
        wait_until(DEADLINE, what, holds)
            .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", self.agent.log()));
    }

    /// Whether a client that trusts this certificate alone is answered.
    fn is_served(&self, trusted: &CertificateDer<'static>) -> bool {
        let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 443);
        ask_by_tls(self.topology.client(), to, HOST, "/", trusted).is_ok_and(|answer| answer.code == 200)
    }

    /// What the server has of the Ingress.
    fn ingress(&self) -> Value {
        self.api.server.objects(Resource::Ingresses).remove(0)
    }

    /// Puts the Ingress on other VIPs; its status stays.
    fn move_to(&self, vip: IpAddr) {
        let mut object = self.ingress();
        object["metadata"]["annotations"]["podway.io/vips"] = vip.to_string().into();
        self.api.server.put(Resource::Ingresses, object);
    }
}

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
    let (first, secret) = certificate("tls", HOST).unwrap();
    let (_, other) = certificate("other", HOST).unwrap();
    let Some(world) = World::start(&[secret, other], ingress("tls")) else { return };
    world.wait_for("the first certificate", || world.is_served(&first));

    let (second, secret) = certificate("tls", HOST).unwrap();
    world.api.server.put(Resource::Secrets, secret);
    world.wait_for("the second certificate", || world.is_served(&second));
    assert!(!world.is_served(&first), "the first one is not shown any more");

    let (third, secret) = certificate("next", HOST).unwrap();
    world.api.server.put(Resource::Secrets, secret);
    world.api.server.put(Resource::Ingresses, ingress("next"));
    world.wait_for("the certificate of another Secret", || world.is_served(&third));
    let requests = world.api.server.requests(Resource::Secrets);
    let asked: BTreeSet<_> =
        requests.iter().map(|request| request.parameter("fieldSelector").unwrap_or_default()).collect();
    let selector = |name: &str| format!("metadata.name={name},metadata.namespace={NAMESPACE}");
    assert_eq!(asked, BTreeSet::from([&*selector("next"), &*selector("tls")]));
}

#[test]
fn a_status_follows_the_vips_until_another_controller_writes_it() {
    let Some(world) = World::start(&[], ingress("tls")) else { return };
    let status = |vip: IpAddr| json!({"loadBalancer": {"ingress": [{"ip": vip}]}});
    let is_told = |vip| world.ingress()["status"] == status(vip);
    world.wait_for("the status", || is_told(LOAD_BALANCER_IPS[0]));
    world.move_to(EXTERNAL_IP);
    world.wait_for("the status of other VIPs", || is_told(EXTERNAL_IP));

    let mut object = world.ingress();
    object["status"] = status(LOAD_BALANCER_IPS[1]);
    world.api.server.put(Resource::Ingresses, object);
    world.move_to(LOAD_BALANCER_IPS[0]);
    // What is written later, of an Ingress whose name comes later, says that the first one was looked at.
    let mut later = ingress("tls");
    later["metadata"]["name"] = "trail".into();
    later["metadata"]["annotations"]["podway.io/vips"] = EXTERNAL_IP.to_string().into();
    world.api.server.put(Resource::Ingresses, later);
    let is_later_told = || {
        let all = world.api.server.objects(Resource::Ingresses);
        all.iter()
            .any(|object| object["metadata"]["name"] == "trail" && object["status"] == status(EXTERNAL_IP))
    };
    world.wait_for("the status of a later Ingress", is_later_told);
    assert!(is_told(LOAD_BALANCER_IPS[1]), "{}", world.ingress());
}

#[test]
fn a_headless_service_is_served_by_its_pods_and_what_is_wrong_stands_on_the_ingress() {
    let mut faulty = ingress("gone");
    faulty["metadata"]["uid"] = "0d4f".into();
    faulty["metadata"]["annotations"]["podway.io/other"] = "x".into();
    let backend = json!({"service": {"name": "pods", "port": {"name": "http"}}});
    let paths = json!([{"path": "/pods", "pathType": "Prefix", "backend": backend}]);
    faulty["spec"]["rules"] = json!([{"host": HOST, "http": {"paths": paths}}]);
    let Some(world) = World::start(&[], faulty) else { return };
    let pods = Service::new("pods", 81).port("http", Protocol::Tcp, 80, HTTP_PORT);
    let pods = pods.with_spec("clusterIP", "None".into()).with_spec("clusterIPs", json!(["None"]));
    for mut object in pods.backed_by_all(&world.topology).objects(1) {
        let resource = match object["kind"].as_str() {
            Some("Service") => Resource::Services,
            _ => {
                object["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
                Resource::EndpointSlices
            }
        };
        world.api.server.put(resource, object);
    }
    let vip = SocketAddr::new(LOAD_BALANCER_IPS[0], 80);
    world.wait_for("an answer of a pod", || {
        ask(world.topology.client(), vip, HOST, "/pods").is_ok_and(|answer| answer.code == 200)
    });
    let told = || -> BTreeSet<String> {
        let events = world.api.server.objects(Resource::Events).into_iter();
        let of_ingress = events.filter(|event| {
            event["regarding"]["kind"] == "Ingress"
                && event["regarding"]["uid"] == "0d4f"
                && event["reason"] == "IngressFault"
        });
        of_ingress.filter_map(|event| Some(event["note"].as_str()?.to_owned())).collect()
    };
    let expected = [
        "Secret gone: cannot serve TLS from it: it is not there; its hosts have no certificate",
        "annotation podway.io/other is not served; the rest holds",
    ];
    world.wait_for("the faults", || told() == expected.map(str::to_owned).into());
}
