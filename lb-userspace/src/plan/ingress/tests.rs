use super::*;

use crate::l7::{Host, NormalPath};
use crate::model::{
    ClassChoice, Dialect, FrontendConfig, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls,
    PathType, Protocol, Service,
};
use crate::plan::fixture::{ip, node, port, service};
use crate::plan::{Selection, plan};

/// A snapshot with the Services `shop/cart`, `shop/web` and `shop/rest` (port http, 80) and these Ingresses.
fn snapshot(ingresses: impl IntoIterator<Item = Ingress>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, address) in [("cart", "10.96.0.1"), ("web", "10.96.0.2"), ("rest", "10.96.0.3")] {
        put(&mut snapshot, service(name, address));
    }
    for ingress in ingresses {
        snapshot.ingresses.insert(ingress.name.clone(), ingress.into());
    }
    snapshot
}

fn put(snapshot: &mut Snapshot, service: Service) {
    snapshot.services.insert(service.name.clone(), service.into());
}

/// `shop/NAME` of our class on 203.0.113.80, with these rules.
fn ingress(name: &str, rules: Vec<IngressRule>) -> Ingress {
    Ingress {
        class: ClassChoice::Annotation("podway".into()),
        vips: vec![ip("203.0.113.80")],
        rules,
        ..Ingress::new(ObjectName::new("shop", name))
    }
}

fn backend(service: &str) -> IngressBackend {
    IngressBackend::Service(service.into(), BackendPort::Number(80))
}

/// A rule whose paths are prefixes that lead to port 80 of Services.
fn rule(host: &str, paths: &[(&str, &str)]) -> IngressRule {
    let path = |(path, service): &(&str, &str)| IngressPath {
        path_type: PathType::Prefix,
        path: (*path).into(),
        backend: backend(service),
    };
    IngressRule { host: host.into(), paths: paths.iter().map(path).collect() }
}

fn problems(maps: &UrlMaps) -> Vec<String> {
    maps.problems().iter().map(ToString::to_string).collect()
}

/// The backend service that a request meets on the only URL map, or why there is none.
fn met(maps: &UrlMaps, host: &str, path: &str) -> String {
    let [map] = maps.maps() else { panic!("{} maps", maps.maps().len()) };
    met_on(map, host, path)
}

fn met_on(map: &UrlMapPlan, host: &str, path: &str) -> String {
    let found = map.map.find(&Host::of(host).expect("a host"), &NormalPath::of(path).expect("a path"));
    match found.map(|found| &found.target.backend) {
        None => "no rule".to_owned(),
        Some(Ok(name)) => name.to_string(),
        Some(Err(reason)) => reason.to_string(),
    }
}

#[test]
fn a_rule_leads_to_a_service_port_by_number_or_name() {
    let mut facts = service("web", "10.96.0.2");
    facts.ports = vec![port("", 8080), port("admin", 9090)];
    facts.ports.push(crate::model::ServicePort { protocol: Protocol::Udp, ..port("quic", 443) });
    let of = |path: &str, port| IngressPath {
        path_type: PathType::Exact,
        path: path.into(),
        backend: IngressBackend::Service("web".into(), port),
    };
    let paths = vec![
        of("/number", BackendPort::Number(8080)),
        of("/name", BackendPort::Name("admin".into())),
        of("/udp", BackendPort::Number(443)),
        of("/other", BackendPort::Name("http".into())),
    ];
    let mut snapshot = snapshot([ingress("a", vec![IngressRule { host: "".into(), paths }])]);
    put(&mut snapshot, facts);
    let maps = url_maps(&snapshot, &node());
    assert_eq!(met(&maps, "a.example", "/number"), "shop/web:8080/TCP");
    assert_eq!(met(&maps, "a.example", "/name"), "shop/web:admin/TCP");
    assert_eq!(met(&maps, "a.example", "/udp"), "Service shop/web has no TCP port 443");
    assert_eq!(met(&maps, "a.example", "/other"), "Service shop/web has no TCP port http");
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot serve path \"/other\" of host \"\": Service shop/web has no TCP port http; its \
             requests are answered with 404",
            "Ingress shop/a: cannot serve path \"/udp\" of host \"\": Service shop/web has no TCP port 443; its \
             requests are answered with 404",
        ]
    );
}

#[test]
fn a_rule_without_a_service_keeps_its_requests_from_other_rules() {
    let rules = vec![rule("", &[("/", "web"), ("/gone", "gone")])];
    let maps = url_maps(&snapshot([ingress("a", rules)]), &node());
    assert_eq!(met(&maps, "a.example", "/gone/x"), "Service shop/gone is missing or of type ExternalName");
    assert_eq!(met(&maps, "a.example", "/other"), "shop/web:http/TCP");
    assert!(
        maps.names_service(&ObjectName::new("shop", "gone"))
            && maps.names_service(&ObjectName::new("shop", "web"))
    );
    assert!(!maps.names_service(&ObjectName::new("shop", "cart")));
}

#[test]
fn a_service_of_another_proxy_is_no_backend() {
    let selection = Selection { names: [ObjectName::new("shop", "cart")].into(), selector: None };
    let node = NodeContext { selection: selection.into(), ..node() };
    let maps = url_maps(&snapshot([ingress("a", vec![rule("", &[("/", "web"), ("/cart", "cart")])])]), &node);
    assert_eq!(met(&maps, "a.example", "/"), "Service shop/web is left to another proxy");
    assert_eq!(met(&maps, "a.example", "/cart"), "shop/cart:http/TCP");
}

#[test]
fn an_unusable_backend_is_named_by_its_object_alone() {
    let unusable =
        IngressPath { path_type: PathType::Prefix, path: "/".into(), backend: IngressBackend::Unusable };
    let rules = vec![IngressRule { host: "".into(), paths: vec![unusable] }];
    let maps = url_maps(&snapshot([ingress("a", rules)]), &node());
    assert_eq!(met(&maps, "a.example", "/"), "the backend is no Service port");
    assert_eq!(problems(&maps), [""; 0]);
}

#[test]
fn the_default_backend_gets_what_no_rule_is_for() {
    let rules = vec![rule("a.example", &[("/cart", "cart")]), rule("b.example", &[])];
    let facts = Ingress { default_backend: Some(backend("rest")), ..ingress("a", rules) };
    let maps = url_maps(&snapshot([facts]), &node());
    assert_eq!(met(&maps, "a.example", "/cart"), "shop/cart:http/TCP");
    for (host, path) in [("a.example", "/"), ("b.example", "/cart"), ("c.example", "/")] {
        assert_eq!(met(&maps, host, path), "shop/rest:http/TCP", "{host}{path}");
    }
    let without = url_maps(&snapshot([ingress("a", vec![rule("a.example", &[("/cart", "cart")])])]), &node());
    assert_eq!(met(&without, "a.example", "/"), "no rule");
}

#[test]
fn bad_hosts_and_paths_are_named_and_the_other_rules_hold() {
    let star = IngressPath { path_type: PathType::Prefix, path: "/*".into(), backend: backend("web") };
    let rules = vec![
        rule("a_b!.example", &[("/", "web")]),
        rule("a.example", &[("/a//b", "web"), ("/cart", "cart")]),
        IngressRule { host: "c.example".into(), paths: vec![star] },
    ];
    let maps = url_maps(&snapshot([ingress("a", rules)]), &node());
    assert_eq!(met(&maps, "a.example", "/cart"), "shop/cart:http/TCP");
    assert_eq!(met(&maps, "a.example", "/a/b"), "no rule");
    assert_eq!(met(&maps, "c.example", "/x"), "no rule");
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot follow path \"/a//b\" of host \"a.example\": the path has an element that is empty, \
             `.` or `..`; correct it; its requests meet other rules",
            "Ingress shop/a: cannot follow the rule for host \"a_b!.example\": the host has a character other than \
             letters, digits, `-`, `_` and `.`; correct it; its requests meet other rules",
            "Ingress shop/a: path /* of host \"c.example\" has type Prefix, where `*` is an ordinary character; write \
             ImplementationSpecific, or the path without it",
        ]
    );
}

#[test]
fn the_dialect_of_the_node_decides_what_a_wildcard_is() {
    let facts = || [ingress("a", vec![rule("*.foo.com", &[("/", "web")])])];
    let gce = NodeContext { dialect: Dialect::Gce, ..node() };
    assert_eq!(met(&url_maps(&snapshot(facts()), &node()), "b.a.foo.com", "/"), "no rule");
    assert_eq!(met(&url_maps(&snapshot(facts()), &gce), "b.a.foo.com", "/"), "shop/web:http/TCP");
}

#[test]
fn the_class_says_whose_an_ingress_is() {
    let class = |name: &str, controller: &str, is_default| IngressClass {
        name: name.into(),
        resource_version: "1".into(),
        controller: controller.into(),
        is_default,
    };
    let ours = || class("ours", "podway.io/ingress", false);
    let theirs = || class("theirs", "example.net/ingress", false);
    let default = |class: IngressClass| IngressClass { is_default: true, ..class };
    let cases = [
        (ClassChoice::Field("ours".into()), vec![ours()], Ok(())),
        (ClassChoice::Annotation("ours".into()), vec![ours()], Ok(())),
        (ClassChoice::Annotation("podway".into()), vec![], Ok(())),
        (ClassChoice::Default, vec![default(ours()), theirs()], Ok(())),
        (ClassChoice::Field("podway".into()), vec![], Err("there is no IngressClass podway")),
        (
            ClassChoice::Annotation("podway".into()),
            vec![class("podway", "example.net/ingress", false)],
            Err(
                "IngressClass podway is of the controller \"example.net/ingress\", not \"podway.io/ingress\"",
            ),
        ),
        (
            ClassChoice::Field("theirs".into()),
            vec![default(ours()), theirs()],
            Err(
                "IngressClass theirs is of the controller \"example.net/ingress\", not \"podway.io/ingress\"",
            ),
        ),
        (ClassChoice::Default, vec![ours()], Err("it names no class, and no IngressClass is the default")),
        (
            ClassChoice::Default,
            vec![default(ours()), default(theirs())],
            Err("it names no class, and IngressClasses ours and theirs are both the default"),
        ),
    ];
    for (choice, classes, expected) in cases {
        let facts = Ingress { class: choice.clone(), ..ingress("a", vec![rule("", &[("/", "web")])]) };
        let mut snapshot = snapshot([facts]);
        snapshot.ingress_classes =
            classes.into_iter().map(|class| (class.name.clone(), class.into())).collect();
        let maps = url_maps(&snapshot, &node());
        let found =
            maps.left_out().get(&ObjectName::new("shop", "a")).map_or(Ok(()), |reason| Err(&**reason));
        assert_eq!(found, expected, "{choice:?}");
        assert_eq!(maps.maps().len(), usize::from(expected.is_ok()), "{choice:?}");
    }
}

#[test]
fn vips_come_from_the_annotation_else_the_status_else_the_node() {
    let all = Ingress {
        load_balancer_ips: vec![ip("203.0.113.9")],
        ..ingress("a", vec![rule("", &[("/", "web")])])
    };
    let vips = |facts: Ingress| {
        let maps = url_maps(&snapshot([facts]), &node());
        maps.maps()[0].vips.clone()
    };
    assert_eq!(vips(all.clone()), [(ip("203.0.113.80"), VipSource::Annotation)]);
    let status = Ingress { vips: vec![], ..all };
    assert_eq!(vips(status.clone()), [(ip("203.0.113.9"), VipSource::Status)]);
    let own = Ingress { load_balancer_ips: vec![], ..status };
    let of_node = [(ip("198.51.100.1"), VipSource::Node), (ip("2001:db8:1::1"), VipSource::Node)];
    assert_eq!(vips(own.clone()), of_node, "without the loopback one");
    let maps = url_maps(&snapshot([own]), &NodeContext::default());
    assert_eq!(maps.maps()[0].vips, []);
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot tell its VIPs: this node's addresses are unknown; give podway.io/vips or --node-ip"
        ]
    );
}

#[test]
fn ingresses_on_one_vip_share_a_url_map_and_the_older_one_keeps_a_path() {
    let young = Ingress {
        created_s: Some(20),
        ..ingress("a", vec![rule("a.example", &[("/", "web"), ("/cart", "web")])])
    };
    let old = Ingress { created_s: Some(10), ..ingress("b", vec![rule("a.example", &[("/cart", "cart")])]) };
    let maps = url_maps(&snapshot([young, old]), &node());
    assert_eq!(&*maps.maps()[0].name, "shop/b+shop/a");
    assert_eq!(met(&maps, "a.example", "/cart"), "shop/cart:http/TCP");
    assert_eq!(met(&maps, "a.example", "/"), "shop/web:http/TCP");
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot have path /cart of host a.example: Ingress shop/b has it on the same VIPs, being the \
             older one or, of one age, of the lesser name; change one of them, or podway.io/vips"
        ]
    );
}

#[test]
fn of_one_age_the_lesser_name_keeps_a_path_and_an_undated_one_goes_last() {
    let with =
        |name, created_s, service| Ingress { created_s, ..ingress(name, vec![rule("", &[("/", service)])]) };
    let owner = |ingresses: [Ingress; 2]| met(&url_maps(&snapshot(ingresses), &node()), "a.example", "/");
    assert_eq!(owner([with("a", Some(1), "web"), with("b", Some(1), "cart")]), "shop/web:http/TCP");
    assert_eq!(owner([with("a", None, "web"), with("b", Some(1), "cart")]), "shop/cart:http/TCP");
}

#[test]
fn a_path_that_one_ingress_has_twice_is_named() {
    let maps =
        url_maps(&snapshot([ingress("a", vec![rule("", &[("/a", "web"), ("/a/", "cart")])])]), &node());
    assert_eq!(met(&maps, "a.example", "/a"), "shop/web:http/TCP");
    assert_eq!(problems(&maps), ["Ingress shop/a: has path /a of host * twice; the first holds; remove one"]);
}

#[test]
fn vips_with_the_same_ingresses_are_one_url_map() {
    let on = |name, vips: &[&str], service| Ingress {
        vips: vips.iter().map(|vip| ip(vip)).collect(),
        ..ingress(name, vec![rule("", &[("/", service)])])
    };
    let maps = url_maps(
        &snapshot([
            on("a", &["203.0.113.1", "203.0.113.2", "2001:db8::1"], "web"),
            on("b", &["203.0.113.2", "203.0.113.3"], "cart"),
        ]),
        &node(),
    );
    let found: Vec<(&str, Vec<String>)> = maps
        .maps()
        .iter()
        .map(|map| (&*map.name, map.vips.iter().map(|(vip, _)| vip.to_string()).collect()))
        .collect();
    let expected = [
        ("shop/a", vec!["203.0.113.1".to_owned(), "2001:db8::1".to_owned()]),
        ("shop/a+shop/b", vec!["203.0.113.2".to_owned()]),
        ("shop/b", vec!["203.0.113.3".to_owned()]),
    ];
    assert_eq!(found, expected);
    assert_eq!(met_on(&maps.maps()[1], "a.example", "/"), "shop/web:http/TCP");
    assert_eq!(met_on(&maps.maps()[2], "a.example", "/"), "shop/cart:http/TCP");
}

#[test]
fn a_default_backend_gets_no_requests_to_the_hosts_of_another_ingress() {
    let a = Ingress { created_s: Some(1), ..ingress("a", vec![rule("a.example", &[("/cart", "cart")])]) };
    let b = Ingress {
        created_s: Some(2),
        default_backend: Some(backend("rest")),
        ..ingress("b", vec![rule("b.example", &[("/cart", "cart")])])
    };
    let c = Ingress {
        created_s: Some(3),
        default_backend: Some(backend("web")),
        ..ingress("c", vec![rule("c.example", &[("/cart", "cart")])])
    };
    let maps = url_maps(&snapshot([a, b, c]), &node());
    let none = "no rule has the path, and the Ingress has no default backend";
    assert_eq!(met(&maps, "a.example", "/"), none);
    assert_eq!(met(&maps, "b.example", "/"), "shop/rest:http/TCP");
    assert_eq!(met(&maps, "c.example", "/"), "shop/web:http/TCP");
    assert_eq!(met(&maps, "d.example", "/"), "shop/rest:http/TCP");
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/c: cannot have the requests to hosts without a rule: Ingress shop/b has them on the same VIPs, \
             being the older one or, of one age, of the lesser name; its default backend serves its own hosts alone"
        ]
    );
}

/// What becomes of HTTP, whether ports 80 and 443 are open, and the problems.
fn plain_http(facts: Ingress, redirect_code: Option<u16>) -> (PlainHttp, bool, bool, Vec<String>) {
    let facts = Ingress { rules: vec![rule("", &[("/", "web")])], ..facts };
    let mut snapshot = snapshot([facts]);
    let name = ObjectName::new("shop", "redirect");
    let config = FrontendConfig {
        name: name.clone(),
        resource_version: "1".into(),
        uid: "".into(),
        redirect_code,
        min_tls_version: None,
    };
    snapshot.frontend_configs.insert(name, config.into());
    let maps = url_maps(&snapshot, &node());
    let map = &maps.maps()[0];
    let found = map.targets().next().expect("a rule").plain_http;
    (found, map.has_http, map.has_https, problems(&maps))
}

#[test]
fn http_is_served_redirected_or_refused() {
    let tls = || vec![IngressTls { hosts: vec![], secret: "cert".into() }];
    let with = |tls, allows_http, config: Option<&str>| Ingress {
        tls,
        allows_http,
        frontend_config: config.map(Into::into),
        ..ingress("a", vec![])
    };
    assert_eq!(plain_http(with(vec![], true, None), None), (PlainHttp::Served, true, false, vec![]));
    assert_eq!(plain_http(with(tls(), true, None), None), (PlainHttp::Served, true, true, vec![]));
    assert_eq!(plain_http(with(tls(), false, None), None), (PlainHttp::Refused, false, true, vec![]));
    let redirect = Some("redirect");
    assert_eq!(plain_http(with(tls(), true, redirect), Some(308)).0, PlainHttp::Redirected(308));
    assert_eq!(plain_http(with(tls(), true, redirect), None).0, PlainHttp::Served);
    assert_eq!(plain_http(with(tls(), false, redirect), Some(301)).0, PlainHttp::Refused);
    let (found, _, _, problems) = plain_http(with(vec![], true, redirect), Some(301));
    assert_eq!(found, PlainHttp::Served);
    assert_eq!(
        problems,
        [
            "Ingress shop/a: cannot redirect to HTTPS: the Ingress has no certificate; give spec.tls a Secret; HTTP is \
          served"
        ]
    );
    let (found, _, _, problems) = plain_http(with(tls(), true, Some("gone")), Some(301));
    assert_eq!(found, PlainHttp::Served);
    assert_eq!(
        problems,
        ["Ingress shop/a: cannot find FrontendConfig shop/gone; create it or correct annotation \
          networking.gke.io/v1beta1.FrontendConfig; without it nothing is redirected"]
    );
}

#[test]
fn certificates_are_for_the_hosts_that_are_named() {
    let tls = vec![
        IngressTls { hosts: vec!["a.example".into(), "*.b.example".into()], secret: "one".into() },
        IngressTls { hosts: vec![], secret: "any".into() },
        IngressTls { hosts: vec!["bad!".into()], secret: "none".into() },
    ];
    let maps = url_maps(&snapshot([Ingress { tls, ..ingress("a", vec![]) }]), &node());
    let one = vec![HostPattern::Exact("a.example".into()), HostPattern::OneLabel("b.example".into())];
    let expected = [
        CertificateUse { secret: ObjectName::new("shop", "one"), hosts: one },
        CertificateUse { secret: ObjectName::new("shop", "any"), hosts: vec![] },
    ];
    assert_eq!(maps.maps()[0].certificates, expected);
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot serve TLS for host \"bad!\" of Secret none: the host has a character other than \
          letters, digits, `-`, `_` and `.`; correct spec.tls"
        ]
    );
}

#[test]
fn a_port_that_a_service_has_is_named() {
    let mut snapshot = snapshot([ingress("a", vec![rule("", &[("/", "web")])])]);
    put(&mut snapshot, Service { external_ips: vec![ip("203.0.113.80")], ..service("web", "10.96.0.2") });
    let desired = plan(&snapshot, &node(), &crate::plan::ReadinessAlone);
    let problems: Vec<String> = desired.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Ingress shop/a: cannot serve 203.0.113.80:80/TCP: Service shop/web has it; change the Service's address or \
          port, or give the Ingress other addresses by podway.io/vips"
        ]
    );
}

#[path = "tls_tests.rs"]
mod tls;
