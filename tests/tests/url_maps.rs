//! URL maps from manifests to what `podway get`, `describe`, `explain` and `plan` print of them.
use lb_userspace::cli::printed;
use serde_json::Value;

const MANIFESTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.244.1.0/24},
 status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: podway}, spec: {controller: podway.io/ingress}}
---
apiVersion: networking.gke.io/v1beta1
kind: FrontendConfig
metadata: {namespace: shop, name: redirect}
spec: {redirectToHttps: {enabled: true}}
---
apiVersion: cloud.google.com/v1
kind: BackendConfig
metadata: {namespace: shop, name: sticky}
spec: {timeoutSec: 40, sessionAffinity: {affinityType: GENERATED_COOKIE, affinityCookieTtlSec: 50}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart, annotations: {cloud.google.com/backend-config: '{\"default\": \"sticky\"}'}}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.8], nodeName: node-b}, {addresses: [10.244.1.9], nodeName: node-a}]
ports: [{name: http, port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: shop
  name: web
  creationTimestamp: '2026-01-01T00:00:00Z'
  annotations: {podway.io/vips: 203.0.113.80, networking.gke.io/v1beta1.FrontendConfig: redirect}
spec:
  ingressClassName: podway
  tls: [{hosts: ['*.example.com'], secretName: cert}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /cart, pathType: Prefix, backend: {service: {name: cart, port: {name: http}}}}
      - {path: /gone, pathType: Exact, backend: {service: {name: gone, port: {number: 80}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: shop
  name: plain
  annotations: {podway.io/vips: 203.0.113.80}
spec:
  ingressClassName: podway
  rules:
  - host: '*.example.net'
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: cart, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: other}
spec: {ingressClassName: other, defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: node}
spec: {ingressClassName: podway, defaultBackend: {service: {name: web, port: {number: 80}}}}
";

/// What a command prints of the manifests on node-a.
fn print(arguments: &[&str]) -> anyhow::Result<String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS).expect("the manifests");
    let folder = folder.path().display().to_string();
    printed([arguments, &["--node-name", "node-a", "--manifests", &folder]].concat())
}

fn json(arguments: &[&str]) -> Value {
    let text = print(&[arguments, &["-o", "json"]].concat()).expect("an answer");
    serde_json::from_str(&text).expect("JSON")
}

/// The only answer to a URL.
fn explain(url: &str, flags: &[&str]) -> Value {
    let told = json(&[&["explain", "--url", url], flags].concat());
    let answers = told["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 1, "{told:#}");
    answers[0].clone()
}

fn found<'a>(told: &'a Value, stage: &str) -> Option<&'a str> {
    let steps = told["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["stage"] == stage).and_then(|step| step["found"].as_str())
}

#[test]
fn rules_are_listed_by_url_map_host_and_path() {
    let expected = "\
URL MAP              VIP           HOST              PATH   BACKEND SERVICE
shop/node            192.0.2.11    *                 -      shop/web:http/TCP
shop/web+shop/plain  203.0.113.80  shop.example.com  /cart  shop/cart:http/TCP
shop/web+shop/plain  203.0.113.80  shop.example.com  /gone  none
shop/web+shop/plain  203.0.113.80  shop.example.com  /      shop/web:http/TCP
shop/web+shop/plain  203.0.113.80  *.example.net     /      shop/cart:http/TCP
";
    assert_eq!(print(&["get", "url-maps"]).expect("a table"), expected);
}

#[test]
fn a_filter_keeps_the_rules_that_have_its_text() {
    let expected = "\
URL MAP              VIP           HOST           PATH  BACKEND SERVICE     MATCH   INGRESS     HTTP    HTTPS
shop/web+shop/plain  203.0.113.80  *.example.net  /     shop/cart:http/TCP  prefix  shop/plain  served  served
";
    assert_eq!(print(&["get", "url-maps", "example.net", "-o", "wide"]).expect("a table"), expected);
    assert_eq!(print(&["get", "url-maps", "nowhere"]).expect("a table"), "nothing found\n");
}

#[test]
fn a_url_map_is_written_with_stable_names() {
    let maps = json(&["get", "url-maps", "shop/plain"]);
    let expected = serde_json::json!([{
        "name": "shop/web+shop/plain",
        "ingresses": ["shop/web", "shop/plain"],
        "vips": [{"address": "203.0.113.80", "source": "podway.io/vips"}],
        "http": true,
        "https": true,
        "certificates": [{"secret": "shop/cert", "hosts": ["*.example.com"]}],
        "hosts": [
            {"host": "shop.example.com", "default": null, "paths": [
                {"path": "/cart", "kind": "prefix", "backendService": "shop/cart:http/TCP", "ingress": "shop/web",
                 "plainHttp": "redirected", "redirectCode": 301},
                {"path": "/gone", "kind": "exact", "backendService": null,
                 "reason": "Service shop/gone is missing or of type ExternalName", "ingress": "shop/web",
                 "plainHttp": "redirected", "redirectCode": 301},
                {"path": "/", "kind": "prefix", "backendService": "shop/web:http/TCP", "ingress": "shop/web",
                 "plainHttp": "redirected", "redirectCode": 301},
            ]},
            {"host": "*.example.net", "default": null, "paths": [
                {"path": "/", "kind": "prefix", "backendService": "shop/cart:http/TCP", "ingress": "shop/plain",
                 "plainHttp": "served"},
            ]},
        ],
        "default": null,
    }]);
    assert_eq!(maps, expected);
    let table = print(&["plan"]).expect("tables");
    assert!(
        table.contains("\n\nURL MAP ") && table.contains(" shop.example.com  /cart  shop/cart:http/TCP\n"),
        "{table}"
    );
    let plan = json(&["plan"]);
    assert_eq!(plan["urlMaps"][1], expected[0], "the plan has it too");
}

#[test]
fn an_ingress_is_described_with_all_that_hangs_on_it() {
    let expected = "\
URL map shop/web+shop/plain
Ports   80, 443

VIPs
ADDRESS       FROM
203.0.113.80  podway.io/vips

Certificates
SECRET     HOSTS
shop/cert  *.example.com

Rules
HOST              PATH   MATCH   BACKEND SERVICE     INGRESS     HTTP
shop.example.com  /cart  prefix  shop/cart:http/TCP  shop/web    redirected 301
shop.example.com  /gone  exact   none                shop/web    redirected 301
shop.example.com  /      prefix  shop/web:http/TCP   shop/web    redirected 301
*.example.net     /      prefix  shop/cart:http/TCP  shop/plain  served

Backend services
NAME                SPOKEN TO BY  NEG TYPE  ENDPOINTS  TIMEOUT  AFFINITY
shop/cart:http/TCP  H2C           GCE_POD   2          40s      cookie, 50s
shop/web:http/TCP   HTTP          GCE_POD   0          -        -

Endpoints
BACKEND SERVICE     ENDPOINT         STATE    NODE
shop/cart:http/TCP  10.244.1.9:8080  healthy  node-a
shop/cart:http/TCP  10.244.2.8:8080  healthy  node-b

Problems
Ingress shop/web: cannot serve path \"/gone\" of host \"shop.example.com\": Service shop/gone is missing or of type \
ExternalName; its requests are answered with 404
";
    assert_eq!(print(&["describe", "ingress", "shop/web"]).expect("a text"), expected);
    assert_eq!(print(&["describe", "url-map", "web+shop/plain"]).expect("a text"), expected);
}

#[test]
fn an_ingress_that_is_not_served_is_described_by_its_reason() {
    let error = |name| print(&["describe", "ingress", name]).expect_err("none is served").to_string();
    assert_eq!(error("shop/other"), "Ingress shop/other is not served: there is no IngressClass other");
    assert_eq!(error("shop/nothing"), "there is no Ingress shop/nothing");
}

#[test]
fn a_request_is_led_to_the_endpoints_of_its_rule() {
    let told = explain("https://Shop.Example.com:443/cart//1?page=2", &[]);
    assert_eq!(told["verdict"], "forward");
    assert_eq!(told["status"], Value::Null);
    assert_eq!((&told["hostRule"], &told["pathRule"]), (&"shop.example.com".into(), &"/cart".into()));
    assert_eq!(told["path"], "/cart/1");
    assert_eq!(told["ingress"], "shop/web");
    assert_eq!(told["backendService"], "shop/cart:http/TCP");
    assert_eq!((&told["negType"], &told["negs"]), (&"GCE_POD".into(), &serde_json::json!(["clusterV4"])));
    assert_eq!(told["endpoints"], serde_json::json!(["10.244.1.9:8080", "10.244.2.8:8080"]));
    assert_eq!(found(&told, "path"), Some("/cart/1, the normal form, is routed and forwarded"));
    assert_eq!(found(&told, "certificate"), Some("Secret shop/cert"));
    assert_eq!(found(&told, "backend service"), Some("shop/cart:http/TCP, endpoints are spoken to by H2C"));
}

#[test]
fn a_request_is_told_step_by_step() {
    let expected = "\
STEP             FOUND                                                    FROM
request          HTTP for /x at a.example.net
host             a.example.net
path             /x
VIP              203.0.113.80:80                                          podway.io/vips
URL map          shop/web+shop/plain                                      Ingress shop/web, Ingress shop/plain
host rule        *.example.net                                            Ingress shop/plain
path rule        /                                                        Ingress shop/plain
backend service  shop/cart:http/TCP, endpoints are spoken to by H2C       Service shop/cart
NEG              clusterV4, GCE_POD: 2 endpoints
endpoint         10.244.1.9:8080, healthy, weight 1                       EndpointSlice shop/cart-1
endpoint         10.244.2.8:8080, healthy, weight 1                       EndpointSlice shop/cart-1

forward
";
    let told = print(&["explain", "--url", "http://a.example.net/x"]).expect("a text");
    let squeezed = |text: &str| {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&told), squeezed(expected));
}

#[test]
fn what_is_not_forwarded_is_told_with_its_code() {
    let cases = [
        ("http://shop.example.com/cart", "redirect", 301, "plain HTTP", "redirected to https with 301"),
        (
            "https://shop.example.com/gone",
            "refuse",
            404,
            "backend service",
            "Service shop/gone is missing or of type ExternalName; answered with 404",
        ),
        ("https://shop.example.com/", "refuse", 503, "endpoint", "none is usable; answered with 503"),
        (
            "https://shop.example.com/a%2fb",
            "refuse",
            400,
            "path",
            "the path has a backslash or an escaped slash or backslash; refused with 400",
        ),
        (
            "https://shop..com/",
            "refuse",
            400,
            "host",
            "the host has a label that is empty or longer than 63 bytes; refused with 400",
        ),
    ];
    for (url, verdict, code, stage, text) in cases {
        let told = explain(url, &[]);
        assert_eq!((&told["verdict"], &told["status"]), (&verdict.into(), &code.into()), "{url}");
        assert_eq!(found(&told, stage), Some(text), "{url}");
    }
}

#[test]
fn a_vip_chooses_the_url_map() {
    let told = explain("http://shop.example.com/cart", &["--vip", "192.0.2.11"]);
    assert_eq!((&told["urlMap"], &told["verdict"]), (&"shop/node".into(), &"refuse".into()));
    assert_eq!((&told["hostRule"], &told["backendService"]), (&Value::Null, &"shop/web:http/TCP".into()));
    let told = explain("http://unknown.example/", &["--vip", "203.0.113.80"]);
    assert_eq!((&told["verdict"], &told["status"]), (&"refuse".into(), &404.into()));
    let told = explain("http://unknown.example/", &["--vip", "203.0.113.81"]);
    assert_eq!(
        (&told["verdict"], found(&told, "URL map")),
        (&"unserved".into(), Some("no Ingress answers on 203.0.113.81"))
    );
}

#[test]
fn a_port_that_is_not_open_is_told() {
    let told = explain("https://x.example/", &["--vip", "192.0.2.11"]);
    assert_eq!(told["verdict"], "unserved");
    let vips: Vec<&str> = told["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter(|step| step["stage"] == "VIP")
        .filter_map(|step| step["found"].as_str())
        .collect();
    assert_eq!(vips, ["192.0.2.11:443", "HTTPS is not served on port 443"]);
}

#[test]
fn without_manifests_the_agent_is_asked_and_the_remedy_named() {
    for arguments in
        [&["get", "url-maps"][..], &["describe", "ingress", "a/b"], &["explain", "--url", "http://a/"]]
    {
        let arguments = [arguments, &["--run-dir", "/nonexistent"]].concat();
        let error = printed(arguments).expect_err("nobody to ask");
        let expected = "cannot ask the agent for its URL maps; give its --run-dir, --manifests DIR or --snapshot FILE: no agent \
                        answers at /nonexistent/agent.sock: No such file or directory (os error 2)";
        assert_eq!(format!("{error:#}"), expected);
    }
    let error = print(&["get", "frontends"]).expect_err("of maps alone").to_string();
    let expected =
        "cannot list this from manifests: it stands in BPF maps; use `podway plan`, or leave --manifests out";
    assert_eq!(error, expected);
}
