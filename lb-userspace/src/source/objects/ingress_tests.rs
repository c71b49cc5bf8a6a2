use super::*;
use crate::model::{ClientVerification, ClientVerify, ObjectName, ProxyVersion, ProxyVersions, TlsVersion};

/// The fact of an Ingress `shop/web`, and the faults in it.
fn converted(annotations: &str, rest: &str) -> (Ingress, Vec<String>) {
    let yaml = format!(
        "{{metadata: {{namespace: shop, name: web, resourceVersion: '3', annotations: {annotations}}}, {rest}}}"
    );
    let object = serde_yaml_ng::from_str(&yaml).expect("test YAML");
    let converted = ingress(&object, &mut Interner::default());
    let Change::Ingress(fact) = converted.change else { panic!("{:?}", converted.change) };
    ((*fact).clone(), converted.problems.into_iter().map(|problem| problem.message).collect())
}

fn service(name: &str, port: BackendPort) -> IngressBackend {
    IngressBackend::Service(name.into(), port)
}

#[test]
fn everything_that_an_ingress_says_is_read() {
    let annotations = "{
        kubernetes.io/ingress.allow-http: 'false',
        networking.gke.io/v1beta1.FrontendConfig: redirect,
        podway.io/vips: '192.0.2.80, 2001:db8::80,192.0.2.80',
        podway.io/min-tls-version: '1.3',
        podway.io/client-ca: clients,
        podway.io/client-verify: optional,
        podway.io/proxy-protocol: v2,
        example.net/other: x}";
    let (fact, faults) = converted(
        annotations,
        "
        spec: {
          ingressClassName: podway,
          defaultBackend: {service: {name: rest, port: {number: 80}}},
          tls: [{hosts: [a.example, '*.b.example'], secretName: cert}, {secretName: any}],
          rules: [
            {host: a.example, http: {paths: [
              {path: /cart, pathType: Exact, backend: {service: {name: cart, port: {name: http}}}},
              {pathType: ImplementationSpecific, backend: {service: {name: web, port: {number: 8080}}}}]}},
            {host: b.example},
            {http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 8080}}}}]}}]},
        status: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {hostname: lb.example}]}}
        ",
    );
    assert_eq!(faults, [""; 0]);
    let path = |path_type, path: &str, backend| IngressPath { path_type, path: path.into(), backend };
    let expected = Ingress {
        resource_version: "3".into(),
        class: ClassChoice::Field("podway".into()),
        default_backend: Some(service("rest", BackendPort::Number(80))),
        rules: vec![
            IngressRule {
                host: "a.example".into(),
                paths: vec![
                    path(PathType::Exact, "/cart", service("cart", BackendPort::Name("http".into()))),
                    path(PathType::ImplementationSpecific, "", service("web", BackendPort::Number(8080))),
                ],
            },
            IngressRule { host: "b.example".into(), paths: vec![] },
            IngressRule {
                host: "".into(),
                paths: vec![path(PathType::Prefix, "/", service("web", BackendPort::Number(8080)))],
            },
        ],
        tls: vec![
            IngressTls { hosts: vec!["a.example".into(), "*.b.example".into()], secret: "cert".into() },
            IngressTls { hosts: vec![], secret: "any".into() },
        ],
        allows_http: false,
        frontend_config: Some("redirect".into()),
        min_tls_version: Some(TlsVersion::V1_3),
        client_verification: Some(ClientVerification {
            secret: ObjectName::new("shop", "clients"),
            verify: ClientVerify::Optional,
        }),
        proxy_protocol: Some(ProxyVersions::One(ProxyVersion::V2)),
        vips: vec!["192.0.2.80".parse().unwrap(), "2001:db8::80".parse().unwrap()],
        load_balancer_ips: vec!["203.0.113.9".parse().unwrap()],
        has_load_balancer_hosts: true,
        ..Ingress::new(ObjectName::new("shop", "web"))
    };
    assert_eq!(fact, expected);
}

#[test]
fn an_empty_ingress_is_one_without_rules() {
    let (fact, faults) = converted("{}", "spec: null");
    let expected = Ingress { resource_version: "3".into(), ..Ingress::new(ObjectName::new("shop", "web")) };
    assert_eq!((fact, faults), (expected, vec![]));
}

#[test]
fn the_annotation_of_the_class_goes_before_the_field() {
    let (fact, _) = converted("{kubernetes.io/ingress.class: old}", "spec: {ingressClassName: podway}");
    assert_eq!(fact.class, ClassChoice::Annotation("old".into()));
    assert_eq!(converted("{}", "spec: {}").0.class, ClassChoice::Default);
}

#[test]
fn annotations_that_are_not_served_are_named() {
    let annotations = "{
        ingress.gcp.kubernetes.io/pre-shared-cert: a,
        kubernetes.io/ingress.global-static-ip-name: a,
        networking.gke.io/managed-certificates: a,
        podway.io/vip: a,
        example.net/other: a}";
    assert_eq!(
        converted(annotations, "spec: {}").1,
        [
            "annotation ingress.gcp.kubernetes.io/pre-shared-cert is not served; the rest holds",
            "annotation kubernetes.io/ingress.global-static-ip-name is not served; the rest holds",
            "annotation networking.gke.io/managed-certificates is not served; the rest holds",
            "annotation podway.io/vip is not served; the rest holds",
        ]
    );
}

#[test]
fn backends_that_are_no_service_port_are_named_and_kept_unusable() {
    let backends = [
        (
            "{resource: {apiGroup: storage.example, kind: Bucket, name: b}}",
            ".resource is not served: only Services are",
        ),
        ("{}", " names no Service"),
        ("{service: {name: '', port: {number: 80}}}", " names no Service"),
        ("{service: {name: web}}", ".service.port has not one of name and number"),
        (
            "{service: {name: web, port: {name: http, number: 80}}}",
            ".service.port has not one of name and number",
        ),
        (
            "{service: {name: web, port: {number: 65536}}}",
            ".service.port: port number 65536 is not between 1 and 65535",
        ),
    ];
    for (backend, fault) in backends {
        let spec = format!(
            "spec: {{defaultBackend: {backend}, rules: [{{http: {{paths: [{{path: /a, pathType: Prefix, backend: {backend}}}]}}}}]}}"
        );
        let (fact, faults) = converted("{}", &spec);
        assert_eq!(fact.default_backend, Some(IngressBackend::Unusable), "{backend}");
        assert_eq!(fact.rules[0].paths[0].backend, IngressBackend::Unusable, "{backend}");
        let labels = ["spec.defaultBackend", "spec.rules[0].http.paths[0].backend"];
        assert_eq!(faults, labels.map(|label| format!("{label}{fault}; its requests are answered with 404")));
    }
}

#[test]
fn each_value_that_cannot_be_used_is_named_and_the_rest_holds() {
    let annotations = "{kubernetes.io/ingress.allow-http: 'no', podway.io/vips: '192.0.2.80,web,'}";
    let (fact, faults) = converted(
        annotations,
        "
        spec: {
          tls: [{hosts: [a.example]}],
          rules: [{host: a.example, http: {paths: [
            {path: /a, pathType: Regex, backend: {service: {name: web, port: {number: 80}}}},
            {path: /b, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}]}}]},
        status: {loadBalancer: {ingress: [{ip: x}]}}
        ",
    );
    assert_eq!((fact.allows_http, fact.vips.len(), fact.tls.len()), (true, 1, 0));
    assert_eq!(fact.rules[0].paths.iter().map(|path| &*path.path).collect::<Vec<_>>(), ["/b"]);
    assert_eq!(
        faults,
        [
            "spec.rules[0].http.paths[0]: pathType \"Regex\" is not Exact, Prefix or ImplementationSpecific; the path is \
             left out",
            "spec.tls[0] has no secretName, so no certificate; give a Secret of type kubernetes.io/tls",
            "annotation kubernetes.io/ingress.allow-http \"no\" is neither true nor false; true is used",
            "annotation podway.io/vips: \"web\" is not an IP address; it is left out",
            "status.loadBalancer.ingress: \"x\" is not an IP address; it is left out",
        ]
    );
}
