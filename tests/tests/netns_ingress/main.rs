//! Ingresses, served by a real agent on a simulated node to a client outside: rules, TLS, failing pods.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::manifests::{EXTERNAL_IP, LOAD_BALANCER_IPS, Manifests, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, Web, ask, ask_by_tls, certificate};
use lb_userspace::model::Protocol;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

mod receiver;

use receiver::{Receiver, text};

const DEADLINE: Duration = Duration::from_secs(30);
/// The pods of a node.
const PODS: u8 = 2;
const REQUESTS: u32 = 200;

/// Two nodes, a server in each pod, two Services, an agent on the first node.
struct World {
    agent: Agent,
    webs: Vec<Web>,
    manifests: Manifests,
    _dir: TempDir,
    runtime: Runtime,
    topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met. `web` has the first pod of each node, `cart` the second.
    fn start() -> Option<Self> {
        Self::start_with(Options::default())
    }

    fn start_with(options: Options) -> Option<Self> {
        let need = need::netns()?;
        let topology = Topology::two_nodes(PODS).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let dir = TempDir::with_prefix("podway-manifests-").unwrap();
        let mut manifests = Manifests::new(dir.path(), &topology).unwrap();
        for (number, name) in ["web", "cart"].into_iter().enumerate() {
            let mut service =
                Service::new(name, 80 + number as u8).port("http", Protocol::Tcp, 80, HTTP_PORT);
            for node in topology.nodes() {
                service = service.backed_by(node, &node.pods()[number]);
            }
            manifests.put(service).unwrap();
        }
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let mut agent = Agent::start(&podway, &topology, NODE_NAMES[0], manifests.dir(), options).unwrap();
        agent.wait_for(&manifests.cluster_frontends()).unwrap();
        Some(Self { agent, webs, manifests, _dir: dir, runtime, topology })
    }

    fn put(&self, name: &str, object: &Value) {
        // A file that is there as a whole, as an editor's rename makes it.
        let dir = self.manifests.dir();
        std::fs::write(dir.join(format!("{name}.new")), object.to_string()).unwrap();
        std::fs::rename(dir.join(format!("{name}.new")), dir.join(format!("{name}.json"))).unwrap();
    }

    /// Waits until a host is answered with this code at a VIP.
    fn wait_for(&self, vip: IpAddr, host: &str, code: u16) {
        let to = SocketAddr::new(vip, 80);
        wait_until(DEADLINE, &format!("{code} for {host} at {vip}"), || {
            ask(self.topology.client(), to, host, "/").is_ok_and(|answer| answer.code == code)
        })
        .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", self.agent.log()));
    }

    /// The pods that answer some requests, none of which may fail.
    fn answerers(&self, vip: IpAddr, host: &str, path: &str) -> BTreeSet<String> {
        let answers = (0..REQUESTS).map(|number| {
            let answer = ask(self.topology.client(), SocketAddr::new(vip, 80), host, path);
            let answer = answer.unwrap_or_else(|error| panic!("request {number}: {error}"));
            assert_eq!(answer.code, 200, "request {number}: {answer:?}");
            answer.pod().to_owned()
        });
        answers.collect()
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn ingress_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"},
    })
}

/// Two hosts, one of which has a path for another Service.
fn ingress(vips: &[IpAddr], tls: &[(&str, &str)]) -> Value {
    let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
    let backend = |service: &str| json!({"service": {"name": service, "port": {"name": "http"}}});
    let path =
        |path: &str, service: &str| json!({"path": path, "pathType": "Prefix", "backend": backend(service)});
    let tls: Vec<_> = tls.iter().map(|(host, name)| json!({"hosts": [host], "secretName": name})).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": "shop", "namespace": NAMESPACE, "annotations": {"podway.io/vips": vips.join(",")},
        },
        "spec": {"ingressClassName": "podway", "tls": tls, "rules": [
            {"host": "shop.example", "http": {"paths": [path("/", "web"), path("/cart", "cart")]}},
            {"host": "api.example", "http": {"paths": [path("/v1", "cart")]}},
        ]},
    })
}

#[test]
fn requests_go_where_host_and_path_say() {
    let Some(world) = World::start() else { return };
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS, &[]));
    for vip in LOAD_BALANCER_IPS {
        world.wait_for(vip, "shop.example", 200);
        assert_eq!(world.answerers(vip, "shop.example", "/"), names(&["web-a-1", "web-b-1"]));
        assert_eq!(world.answerers(vip, "shop.example", "/cart/7"), names(&["web-a-2", "web-b-2"]));
        let to = SocketAddr::new(vip, 80);
        let client = world.topology.client();
        let answer = ask(client, to, "api.example", "/v1/items?page=2").unwrap();
        let expected = format!("GET /v1/items?page=2 HTTP/1.1 api.example {}", client.address_for(vip));
        assert!(answer.body.ends_with(&expected), "{answer:?}");
        let answer = ask(client, to, "api.example", "/v2").unwrap();
        assert_eq!(answer.code, 404, "{answer:?}");
        assert!(answer.head.contains("x-podway-reason: "), "{answer:?}");
        assert_eq!(ask(client, to, "other.example", "/").unwrap().code, 404);
    }
    world.agent.verify().unwrap();
    let metrics = world.agent.metrics("/metrics").unwrap();
    let of_map = |class| [("url_map", "shop/shop"), ("code_class", class)];
    let requests = |class| metrics.value("podway_url_map_requests_total", &of_map(class)).unwrap_or_default();
    assert!(requests("2xx") >= f64::from(4 * REQUESTS), "{metrics:?}");
    assert!(requests("4xx") >= 4.0, "{metrics:?}");
    let web = [("namespace", NAMESPACE), ("service", "web"), ("port", "http"), ("protocol", "TCP")];
    let of_web = [web.as_slice(), &[("code_class", "2xx")]].concat();
    let answered = metrics.value("podway_backend_service_requests_total", &of_web).unwrap_or_default();
    assert!(answered >= f64::from(2 * REQUESTS), "{metrics:?}");
    let timed = metrics.value("podway_backend_service_request_duration_seconds_count", &web);
    assert_eq!(timed, Some(answered), "each request has its time");
    let top = world.agent.podway(&["top", "--once"]).unwrap();
    let row = top.lines().find(|line| line.starts_with("│shop/web:http/TCP")).unwrap();
    let requests = row.split(['│', ' ']).filter(|word| !word.is_empty()).nth(4);
    assert_eq!(requests, Some("0"), "known, and none now: {top}");
}

#[test]
fn requests_are_traced_to_a_receiver_on_the_node() {
    let further = &["--otlp-endpoint", "http://127.0.0.1:4318", "--trace-sample-ratio", "1"];
    let Some(world) = World::start_with(Options { further, ..Options::default() }) else { return };
    let node = world.topology.node(NODE_NAMES[0]).host();
    let receiver = Receiver::start(world.runtime.handle(), node);
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    let vip = LOAD_BALANCER_IPS[0];
    world.wait_for(vip, "shop.example", 200);
    let answer = ask(world.topology.client(), SocketAddr::new(vip, 80), "shop.example", "/cart/7").unwrap();
    let path = |span: &Span| text(&span.attributes, "url.path").map(str::to_owned);
    let (mut resource, mut server) = (Vec::new(), None);
    wait_until(DEADLINE, "the span of a request", || {
        let found = receiver.spans().into_iter().find(|(_, span)| path(span).as_deref() == Some("/cart/7"));
        let Some((attributes, span)) = found else { return false };
        (resource, server) = (attributes, Some(span));
        true
    })
    .unwrap_or_else(|error| panic!("{error}; the agent says:\n{}", world.agent.log()));
    let server = server.unwrap();
    assert_eq!((server.name.as_str(), server.kind()), ("GET /cart", SpanKind::Server));
    assert_eq!(text(&server.attributes, "podway.backend_service"), Some("shop/cart:http/TCP"));
    for (key, value) in [("service.name", "podway"), ("k8s.node.name", NODE_NAMES[0])] {
        assert_eq!(text(&resource, key), Some(value));
    }
    // They came in one message: a request and its attempts are not torn apart.
    let attempts = receiver.spans().into_iter().map(|(_, span)| span);
    let attempts: Vec<_> = attempts.filter(|span| span.parent_span_id == server.span_id).collect();
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!((attempt.kind(), &attempt.trace_id), (SpanKind::Client, &server.trace_id));
    let endpoint = world.topology.pod(answer.pod()).v4().to_string();
    assert_eq!(text(&attempt.attributes, "server.address"), Some(endpoint.as_str()));
    let metrics = world.agent.metrics("/metrics").unwrap();
    let sent = metrics.value("podway_front_end_spans_total", &[("outcome", "sent")]).unwrap_or_default();
    assert!(sent >= 2.0, "{metrics:?}");
}

/// What a browser shows of a page once its scripts have run.
fn shown(world: &World, fragment: &str) -> String {
    let profile = TempDir::with_prefix("podway-browser-").unwrap();
    let mut command = world.topology.node(NODE_NAMES[0]).host().command("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    // Its clock stands still while it waits for an answer.
    command.args(["--virtual-time-budget=5000", "--dump-dom"]);
    let output =
        command.arg(format!("http://{}/{fragment}", lb_userspace::web::ADDRESS_DEFAULT)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_is_shown_the_chain_and_what_becomes_of_it() {
    let Some(mut world) = World::start() else { return };
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    let vip = LOAD_BALANCER_IPS[0];
    world.wait_for(vip, "shop.example", 200);
    let web = format!("{NAMESPACE}/web:http/TCP");
    let endpoint = |pod: &str| SocketAddr::new(world.topology.pod(pod).v4().into(), HTTP_PORT).to_string();
    let (first, second) = (endpoint("web-a-1"), endpoint("web-b-1"));
    let drawn = |style: &str, key: &str| format!("<g class=\"{style}\" data-key=\"{key}\"");

    let page = shown(&world, "");
    for listed in
        ["#map=shop%2Fshop", "#service=shop%2Fweb%3Ahttp%2FTCP", "#service=shop%2Fcart%3Ahttp%2FTCP"]
    {
        assert!(page.contains(listed), "{listed} in {page}");
    }
    let page = shown(&world, "#map=shop%2Fshop");
    let rules = ["shop.example /cart", "shop.example /", "api.example /v1"];
    for text in rules.into_iter().chain([vip.to_string().as_str(), "clusterV4"]) {
        assert!(page.contains(text), "{text} in {page}");
    }
    for address in [&first, &second] {
        let wanted = drawn("healthy choice", &format!("{web} {address}"));
        assert!(page.contains(&wanted), "{wanted} in {page}");
    }
    world.manifests.edit("web", |service| service.endpoint("web-a-1").ready = false).unwrap();
    wait_until(DEADLINE, "the pod to be out", || {
        let rows = world.agent.get("endpoints").unwrap();
        let is_out = |row: &Value| row["address"] != first.as_str() || row["state"] != "healthy";
        rows.as_array().unwrap().iter().all(is_out)
    })
    .unwrap();
    let page = shown(&world, &format!("#service=shop%2Fweb%3Ahttp%2FTCP&endpoint={second}"));
    assert!(!page.contains(&drawn("healthy choice", &format!("{web} {first}"))), "{page}");
    assert!(page.contains(&drawn("healthy choice", &format!("{web} {second}"))), "{page}");
    for detail in ["<h2>Endpoint ", "<th>slots</th>", "<th>generation</th>"] {
        assert!(page.contains(detail), "{detail} in {page}");
    }
}

#[test]
fn a_pod_of_this_node_is_a_client_like_any_other() {
    let Some(world) = World::start() else { return };
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    world.wait_for(LOAD_BALANCER_IPS[0], "shop.example", 200);
    let pod = world.topology.pod("web-a-1");
    let answer = ask(pod, SocketAddr::new(LOAD_BALANCER_IPS[0], 80), "shop.example", "/").unwrap();
    assert_eq!(answer.code, 200);
    assert!(answer.body.ends_with(&pod.v4().to_string()), "{answer:?}");
}

#[test]
fn no_request_fails_when_a_pod_does() {
    let Some(mut world) = World::start() else { return };
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    let vip = LOAD_BALANCER_IPS[0];
    world.wait_for(vip, "shop.example", 200);
    assert_eq!(world.answerers(vip, "shop.example", "/"), names(&["web-a-1", "web-b-1"]));
    // The first pod's: its port refuses from now on, and nobody has said so.
    drop(world.webs.swap_remove(0));
    assert_eq!(world.answerers(vip, "shop.example", "/"), names(&["web-b-1"]));
    world.manifests.edit("web", |service| service.endpoint("web-a-1").ready = false).unwrap();
    assert_eq!(world.answerers(vip, "shop.example", "/"), names(&["web-b-1"]));
    let web = Web::start(world.runtime.handle(), world.topology.pod("web-a-1")).unwrap();
    world.manifests.edit("web", |service| service.endpoint("web-a-1").ready = true).unwrap();
    wait_until(DEADLINE, "the pod to be back", || {
        world.answerers(vip, "shop.example", "/") == names(&["web-a-1", "web-b-1"])
    })
    .unwrap();
    drop(web);
}

#[test]
fn a_pod_that_answers_with_errors_is_ejected_from_both_layers() {
    let Some(mut world) = World::start() else { return };
    let judged = |service: &mut Service| {
        *service = service
            .clone()
            .annotated("podway.io/passive-health", "true")
            .annotated("podway.io/passive-health-consecutive-failures", "3")
            .annotated("podway.io/passive-health-ejection-seconds", "300");
    };
    world.manifests.edit("web", judged).unwrap();
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    let vip = LOAD_BALANCER_IPS[0];
    world.wait_for(vip, "shop.example", 200);
    drop(world.webs.swap_remove(0));
    let pod = world.topology.pod("web-a-1");
    let mut failing = None;
    wait_until(DEADLINE, "the port of the former server", || {
        failing = Web::with_code(world.runtime.handle(), pod, 500).ok();
        failing.is_some()
    })
    .unwrap();
    let codes = || {
        let code =
            |_| ask(world.topology.client(), SocketAddr::new(vip, 80), "shop.example", "/").unwrap().code;
        (0..20).map(code).collect::<BTreeSet<_>>()
    };
    wait_until(DEADLINE, "errors", || codes().contains(&500)).unwrap();
    wait_until(DEADLINE, "an end of errors", || codes() == BTreeSet::from([200])).unwrap();
    assert_eq!(world.answerers(vip, "shop.example", "/"), names(&["web-b-1"]));
    let wanted = SocketAddr::new(pod.v4().into(), HTTP_PORT).to_string();
    let rows = world.agent.get("endpoints").unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["address"] == wanted.as_str()).unwrap();
    assert_eq!(row["state"], "unhealthy", "the packet path knows it too: {row}");
}

#[test]
fn certificates_follow_their_secrets_and_a_bad_one_leaves_the_last_good() {
    let Some(world) = World::start() else { return };
    let (first, secret) = certificate("tls", "shop.example").unwrap();
    world.put("class", &ingress_class());
    world.put("secret", &secret);
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[("shop.example", "tls")]));
    let (client, to) = (world.topology.client(), SocketAddr::new(LOAD_BALANCER_IPS[0], 443));
    let is_served = |trusted: &CertificateDer<'static>| {
        ask_by_tls(client, to, "shop.example", "/", trusted).is_ok_and(|answer| answer.code == 200)
    };
    wait_until(DEADLINE, "the first certificate", || is_served(&first)).unwrap();

    let mut garbage = secret.clone();
    garbage["stringData"]["tls.crt"] = "no certificate".into();
    world.put("secret", &garbage);
    wait_until(DEADLINE, "the problem", || world.agent.log().contains("the last good certificate is served"))
        .unwrap();
    assert!(is_served(&first));

    let (second, secret) = certificate("tls", "shop.example").unwrap();
    world.put("secret", &secret);
    wait_until(DEADLINE, "the second certificate", || is_served(&second)).unwrap();
    assert!(!is_served(&first), "the first one is not shown any more");
    assert!(!world.agent.log().contains("PRIVATE KEY"));
}

#[test]
fn vips_follow_their_ingress_and_leave_with_podway() {
    let Some(mut world) = World::start() else { return };
    let node = world.topology.node(NODE_NAMES[0]).host();
    let hosted = || {
        let output = node.command("ip").args(["-o", "addr", "show", "dev", "lo"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let vips =
            LOAD_BALANCER_IPS.iter().chain([&EXTERNAL_IP]).filter(|vip| text.contains(&format!(" {vip}/")));
        vips.copied().collect::<Vec<_>>()
    };
    world.put("class", &ingress_class());
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS, &[]));
    world.wait_for(LOAD_BALANCER_IPS[0], "shop.example", 200);
    assert_eq!(hosted(), LOAD_BALANCER_IPS);
    world.put("ingress", &ingress(&[EXTERNAL_IP], &[]));
    world.wait_for(EXTERNAL_IP, "shop.example", 200);
    assert_eq!(hosted(), [EXTERNAL_IP]);
    // The next agent finds what the former one made.
    world.agent.restart().unwrap();
    world.put("ingress", &ingress(&LOAD_BALANCER_IPS[..1], &[]));
    world.wait_for(LOAD_BALANCER_IPS[0], "shop.example", 200);
    assert_eq!(hosted(), LOAD_BALANCER_IPS[..1]);
    world.agent.kill();
    assert_eq!(hosted(), LOAD_BALANCER_IPS[..1], "an agent that is to come back keeps its VIPs");
    let run_dir = world.topology.run_dir(NODE_NAMES[0]);
    world.agent.podway(&["remove", "--run-dir", run_dir.to_str().unwrap()]).unwrap();
    assert_eq!(hosted(), [] as [IpAddr; 0]);
}
