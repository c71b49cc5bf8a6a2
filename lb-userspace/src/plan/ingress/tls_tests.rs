//! What Ingresses ask of TLS, and who decides for hosts that several name.
use super::*;
use crate::model::{ClientVerification, ClientVerify, ProxyVersion, TlsVersion};

/// `shop/NAME` for these hosts, with a certificate.
fn secure(name: &str, hosts: &[&str]) -> Ingress {
    let tls = vec![IngressTls { hosts: vec![], secret: "cert".into() }];
    Ingress { tls, ..ingress(name, hosts.iter().map(|host| rule(host, &[("/", "web")])).collect()) }
}

fn verifying(facts: Ingress, secret: &str, verify: ClientVerify) -> Ingress {
    let secret = ObjectName::new("shop", secret);
    Ingress { client_verification: Some(ClientVerification { secret, verify }), ..facts }
}

/// The demands of the only URL map: host, least version, Secret and mode.
fn demands_of(maps: &UrlMaps) -> Vec<String> {
    let [map] = maps.maps() else { panic!("{} maps", maps.maps().len()) };
    let text = |(host, demand): &(HostPattern, TlsDemand)| {
        let clients = demand.clients.as_ref();
        let clients = clients.map(|clients| format!(" {} {}", clients.verify.name(), clients.secret));
        format!("{host} {}{}", demand.min_version.name(), clients.unwrap_or_default())
    };
    map.tls.iter().map(text).collect()
}

/// What becomes of a plain request.
fn over_http(maps: &UrlMaps, host: &str, path: &str) -> Option<PlainHttp> {
    let found =
        maps.maps()[0].map.find(&Host::of(host).expect("a host"), &NormalPath::of(path).expect("a path"));
    found.map(|found| found.target.plain_http)
}

#[test]
fn an_ingress_that_asks_for_nothing_has_no_demands() {
    let maps = url_maps(&snapshot([secure("a", &["a.example"])]), &node());
    assert_eq!(demands_of(&maps), [""; 0]);
    assert_eq!(maps.authority_secrets(), BTreeSet::new());
}

#[test]
fn demands_are_those_of_the_hosts_that_an_ingress_names() {
    let strict = Ingress { min_tls_version: Some(TlsVersion::V1_3), ..secure("a", &["a.example"]) };
    let strict = verifying(strict, "clients", ClientVerify::Optional);
    let maps = url_maps(&snapshot([strict, secure("b", &["b.example", ""])]), &node());
    assert_eq!(demands_of(&maps), ["a.example 1.3 optional shop/clients", "b.example 1.2", "* 1.2"]);
    assert_eq!(maps.authority_secrets(), [ObjectName::new("shop", "clients")].into());
    let least = |host| maps.maps()[0].tls_demand(&Host::of(host).expect("a host")).min_version;
    assert_eq!((least("a.example"), least("b.example")), (TlsVersion::V1_3, TlsVersion::V1_2));
    assert_eq!(problems(&maps), [""; 0]);
}

#[test]
fn a_default_backend_asks_for_all_hosts_without_a_rule() {
    let facts = Ingress { default_backend: Some(backend("rest")), ..secure("a", &["a.example"]) };
    let maps = url_maps(&snapshot([verifying(facts, "clients", ClientVerify::Require)]), &node());
    assert_eq!(demands_of(&maps), ["a.example 1.2 require shop/clients", "* 1.2 require shop/clients"]);
}

#[test]
fn the_frontend_configs_least_version_holds_where_the_ingress_says_none() {
    let named = |name: &str, own| Ingress {
        frontend_config: Some("strict".into()),
        min_tls_version: own,
        ..secure(name, &[&format!("{name}.example")])
    };
    let mut snapshot = snapshot([named("a", None), named("b", Some(TlsVersion::V1_2))]);
    let name = ObjectName::new("shop", "strict");
    let config = FrontendConfig {
        name: name.clone(),
        resource_version: "1".into(),
        uid: "".into(),
        redirect_code: None,
        min_tls_version: Some(TlsVersion::V1_3),
    };
    snapshot.frontend_configs.insert(name, config.into());
    assert_eq!(demands_of(&url_maps(&snapshot, &node())), ["a.example 1.3", "b.example 1.2"]);
}

#[test]
fn of_two_ingresses_with_one_host_the_stricter_holds() {
    let one = verifying(secure("a", &["a.example"]), "clients", ClientVerify::Optional);
    let one = Ingress { created_s: Some(1), ..one };
    let other = verifying(secure("b", &["a.example"]), "others", ClientVerify::Require);
    let other = Ingress {
        created_s: Some(2),
        min_tls_version: Some(TlsVersion::V1_3),
        rules: vec![rule("a.example", &[("/b", "web")])],
        ..other
    };
    let maps = url_maps(&snapshot([one, other]), &node());
    assert_eq!(demands_of(&maps), ["a.example 1.3 require shop/clients"]);
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/b: cannot verify the clients of host a.example by its own podway.io/client-ca: another Ingress has \
             the host on the same VIPs and verifies them by Secret shop/clients; give both one Secret"
        ]
    );
}

#[test]
fn where_clients_need_a_certificate_none_comes_without_tls() {
    let required = Ingress { created_s: Some(1), ..secure("a", &["a.example"]) };
    let required = verifying(required, "clients", ClientVerify::Require);
    // The host of another, and its default: which of them a plain request meets makes no difference.
    let other = Ingress {
        created_s: Some(2),
        rules: vec![rule("a.example", &[("/b", "web")]), rule("b.example", &[("/b", "web")])],
        default_backend: Some(backend("rest")),
        ..secure("b", &[])
    };
    let maps = url_maps(&snapshot([required, other]), &node());
    assert_eq!(over_http(&maps, "a.example", "/"), Some(PlainHttp::Refused));
    assert_eq!(over_http(&maps, "a.example", "/b"), Some(PlainHttp::Refused));
    assert_eq!(over_http(&maps, "b.example", "/b"), Some(PlainHttp::Served));
    assert_eq!(over_http(&maps, "c.example", "/"), Some(PlainHttp::Served));
    let optional = verifying(secure("a", &["a.example"]), "clients", ClientVerify::Optional);
    let maps = url_maps(&snapshot([optional]), &node());
    assert_eq!(over_http(&maps, "a.example", "/"), Some(PlainHttp::Served));
}

#[test]
fn a_default_that_http_reaches_is_not_that_of_a_host_whose_clients_need_a_certificate() {
    let facts = Ingress {
        rules: vec![rule("a.example", &[("/a", "web")])],
        ..verifying(secure("a", &[]), "clients", ClientVerify::Require)
    };
    let other = Ingress {
        rules: vec![rule("a.example", &[("/b", "web")])],
        default_backend: Some(backend("rest")),
        ..secure("b", &[])
    };
    let maps = url_maps(&snapshot([facts, other]), &node());
    assert_eq!(met(&maps, "a.example", "/other"), "shop/rest:http/TCP");
    assert_eq!(over_http(&maps, "a.example", "/other"), Some(PlainHttp::Refused));
    assert_eq!(over_http(&maps, "c.example", "/other"), Some(PlainHttp::Served));
}

#[test]
fn clients_cannot_be_verified_without_a_certificate_of_ones_own() {
    let facts = ingress("a", vec![rule("a.example", &[("/", "web")])]);
    let maps = url_maps(&snapshot([verifying(facts, "clients", ClientVerify::Require)]), &node());
    assert_eq!(over_http(&maps, "a.example", "/"), Some(PlainHttp::Refused));
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/a: cannot verify clients: the Ingress has no certificate, and HTTP knows no clients; give spec.tls \
             a Secret"
        ]
    );
}

#[test]
fn ingresses_on_the_same_vips_speak_one_proxy_protocol() {
    let of = |name, versions, created_s| Ingress {
        created_s: Some(created_s),
        proxy_protocol: versions,
        ..ingress(name, vec![rule(&format!("{name}.example"), &[("/", "web")])])
    };
    let (one, any) = (ProxyVersions::One(ProxyVersion::V1), ProxyVersions::Any);
    let maps = url_maps(&snapshot([of("a", None, 1), of("b", Some(any), 2), of("c", Some(one), 3)]), &node());
    assert_eq!(maps.maps()[0].proxy_protocol, Some(any));
    assert_eq!(
        problems(&maps),
        [
            "Ingress shop/c: cannot have its podway.io/proxy-protocol: Ingress shop/b has the same VIPs and says any; give \
             both one value"
        ]
    );
    assert_eq!(url_maps(&snapshot([of("a", None, 1)]), &node()).maps()[0].proxy_protocol, None);
}
