use super::*;
use crate::model::{
    BackendConfigNames, Balancer, CheckKind, DrainContract, ExternalMode, HealthCheck, HttpTransport,
    NegRequest, NegStatus, ObjectName, Protocol, SourceRanges,
};

fn converted(yaml: &str) -> Converted {
    service(&serde_yaml_ng::from_str(yaml).expect("test YAML"), &mut Interner::default())
}

fn fact(converted: Converted) -> Service {
    match converted.change {
        Change::Service(service) => Arc::unwrap_or_clone(service),
        other => panic!("not a Service: {other:?}"),
    }
}

fn messages(converted: &Converted) -> Vec<&str> {
    converted.problems.iter().map(|problem| problem.message.as_str()).collect()
}

fn gone() -> Converted {
    Converted { change: Change::ServiceGone(ObjectName::new("shop", "web")), problems: vec![] }
}

#[test]
fn load_balancer_service_keeps_every_field_that_forwarding_needs() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          resourceVersion: '42'
          uid: 0d4f
          creationTimestamp: '2026-01-02T03:04:05Z'
          labels: {app: web}
          annotations:
            podway.io/drain: reset
            cloud.google.com/backend-config: '{\"default\": \"plain\", \"ports\": {\"http\": \"web\", \"53\": \"names\"}}'
            podway.io/external-mode: dsr
            podway.io/proxy-protocol: v2
            podway.io/endpoint-weights: 203.0.113.99=3
            cloud.google.com/neg: '{\"exposed_ports\": {\"80\": {\"name\": \"web-neg\"}}}'
            cloud.google.com/neg-status: '{}'
            podway.io/neg-status: agent
        spec:
          type: LoadBalancer
          clusterIP: 198.51.100.7
          clusterIPs: [198.51.100.7, '2001:db8::7']
          externalIPs: [203.0.113.7]
          externalTrafficPolicy: Local
          healthCheckNodePort: 30999
          loadBalancerSourceRanges: ['2001:db8::7/32', ' 192.0.2.9/24 ', 192.0.2.0/24]
          sessionAffinity: ClientIP
          sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
          ports:
          - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
          - {name: dns, port: 53, protocol: UDP}
          - {name: signal, port: 36412, protocol: SCTP}
        status:
          loadBalancer:
            ingress:
            - {ip: 203.0.113.20, ipMode: VIP}
            - {ip: 203.0.113.21, ipMode: Proxy}
            - {hostname: lb.example.net}
            - {ip: 203.0.113.22}
        ",
    );
    let expected = Service {
        name: ObjectName::new("shop", "web"),
        resource_version: "42".into(),
        uid: "0d4f".into(),
        created_s: Some(1_767_323_045),
        labels: Arc::new([("app".into(), "web".into())].into()),
        is_headless: false,
        cluster_ips: vec![IpAddr::from([198, 51, 100, 7]), "2001:db8::7".parse().expect("address")],
        external_ips: vec![IpAddr::from([203, 0, 113, 7])],
        load_balancer_ips: vec![IpAddr::from([203, 0, 113, 20]), IpAddr::from([203, 0, 113, 22])],
        balancer: Balancer::Other,
        ports: vec![
            ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30_080),
                transport: HttpTransport::Http1,
            },
            ServicePort {
                name: "dns".into(),
                protocol: Protocol::Udp,
                port: 53,
                node_port: None,
                transport: HttpTransport::Http1,
            },
            ServicePort {
                name: "signal".into(),
                protocol: Protocol::Sctp,
                port: 36_412,
                node_port: None,
                transport: HttpTransport::Http1,
            },
        ],
        external_traffic_policy: TrafficPolicy::Local,
        internal_traffic_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: Some(60),
        health_check: None,
        health_policy: crate::model::HealthPolicy::default(),
        source_ranges: SourceRanges {
            ranges: vec![
                ("192.0.2.0".parse().expect("address"), 24),
                ("2001:db8::".parse().expect("address"), 32),
            ],
            has_unreadable: false,
        },
        health_check_node_port: Some(30_999),
        drain: Some(DrainContract { deadline_s: 0 }),
        backend_configs: BackendConfigNames {
            default: Some("plain".into()),
            ports: [("http".into(), "web".into()), ("53".into(), "names".into())].into(),
        },
        proxy_protocol: Some(crate::model::ProxyVersion::V2),
        external_mode: Some(ExternalMode::Dsr),
        endpoint_weights: [("203.0.113.99".parse().expect("address"), 3)].into(),
        neg_request: Some(NegRequest {
            is_for_ingress: false,
            exposed_ports: [(80, Some("web-neg".into()))].into(),
        }),
        neg_status: NegStatus { text: Some("{}".into()), is_ours: true },
        neg_type: None,
    };
    assert_eq!(converted, Converted { change: Change::Service(expected.into()), problems: vec![] });
}

#[test]
fn headless_service_has_ports_and_no_address_of_any_kind() {
    for cluster_ip in ["clusterIP: None", "clusterIPs: [None]"] {
        let converted = converted(&format!(
            "
        metadata: {{namespace: shop, name: web}}
        spec:
          {cluster_ip}
          type: LoadBalancer
          externalIPs: [203.0.113.9]
          externalTrafficPolicy: Local
          healthCheckNodePort: 30999
          ports: [{{port: 80, nodePort: 30080}}]
        status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.8}}]}}}}
        "
        ));
        let ports = vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            transport: HttpTransport::default(),
        }];
        let expected = Service {
            is_headless: true,
            external_traffic_policy: TrafficPolicy::Local,
            ports,
            ..Service::new(ObjectName::new("shop", "web"))
        };
        assert_eq!(converted, Converted { change: Change::Service(expected.into()), problems: vec![] });
    }
}

#[test]
fn external_name_service_is_not_ours() {
    let spec = "spec: {type: ExternalName, externalName: example.net}";
    assert_eq!(converted(&format!("metadata: {{namespace: shop, name: web}}\n{spec}")), gone());
}

#[test]
fn service_of_another_proxy_is_not_ours() {
    let yaml = "
        metadata:
          namespace: shop
          name: web
          labels: {service.kubernetes.io/service-proxy-name: other}
        spec: {clusterIP: 198.51.100.7, ports: [{port: 80}]}
        ";
    assert_eq!(converted(yaml), gone());
}

#[test]
fn service_with_the_headless_label_is_not_ours() {
    let yaml = "
        metadata: {namespace: shop, name: web, labels: {service.kubernetes.io/headless: ''}}
        spec: {clusterIP: 198.51.100.7, ports: [{port: 80}]}
        ";
    assert_eq!(converted(yaml), gone());
}

#[test]
fn unusable_ports_are_named_and_the_others_stay() {
    let converted = converted(
        "
        metadata: {namespace: shop, name: web}
        spec:
          clusterIP: 198.51.100.7
          ports:
          - {name: odd, port: 1, protocol: DCCP}
          - {port: 70000}
          - {name: http, port: 80, nodePort: 70001}
        ",
    );
    assert_eq!(
        messages(&converted),
        [
            "port \"odd\" (1) is left out: protocol \"DCCP\" is unknown; use TCP, UDP or SCTP",
            "port 70000 is left out: port number 70000 is not between 1 and 65535",
            "port \"http\" (80) has no node port: port number 70001 is not between 1 and 65535",
        ]
    );
    let http = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        transport: HttpTransport::Http1,
    };
    assert_eq!(fact(converted).ports, [http]);
}

#[test]
fn bad_addresses_policies_and_affinity_are_named() {
    let converted = converted(
        "
        metadata: {namespace: shop, name: web}
        spec:
          clusterIPs: [198.51.100.7, 198.51.100.300]
          internalTrafficPolicy: Nearby
          sessionAffinity: ClientIP
          sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}
        ",
    );
    assert_eq!(
        messages(&converted),
        [
            "spec.clusterIPs: \"198.51.100.300\" is not an IP address; it is left out",
            "internalTrafficPolicy \"Nearby\" is unknown; Cluster is used",
            "affinity timeoutSeconds 90000 is not between 1 and 86400; 10800 is used",
        ]
    );
    let fact = fact(converted);
    assert_eq!(fact.cluster_ips, [IpAddr::from([198, 51, 100, 7])]);
    assert_eq!(fact.affinity_timeout_s, Some(10_800));
}

#[test]
fn health_check_annotations_are_read() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          annotations:
            podway.io/health-check: tcp
            podway.io/health-check-interval-ms: '500'
            podway.io/health-check-timeout-ms: '200'
            podway.io/health-check-healthy-threshold: '2'
            podway.io/health-check-unhealthy-threshold: '4'
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(messages(&converted), [""; 0]);
    assert_eq!(
        fact(converted).health_check.as_deref(),
        Some(&HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval_ms: 500,
            timeout_ms: 200,
            healthy_threshold: 2,
            unhealthy_threshold: 4
        })
    );
}

#[test]
fn bad_health_check_annotation_gives_the_default() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          annotations: {podway.io/health-check: tcp, podway.io/health-check-interval-ms: 5s}
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(
        messages(&converted),
        [
            "annotation podway.io/health-check-interval-ms \"5s\" is not a number between 100 and 3600000; 2000 is used"
        ]
    );
    assert_eq!(
        fact(converted).health_check.as_deref(),
        Some(&HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval_ms: 2_000,
            timeout_ms: 1_000,
            healthy_threshold: 1,
            unhealthy_threshold: 3
        })
    );
}

#[test]
fn unknown_health_check_leaves_the_decision_to_readiness() {
    let converted = converted(
        "
        metadata: {namespace: shop, name: web, annotations: {podway.io/health-check: ping}}
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(
        messages(&converted),
        [
            "annotation podway.io/health-check \"ping\" is unknown; use tcp, http, https, http2, h2c, grpc or grpcs; \
          readiness alone decides"
        ]
    );
    assert_eq!(fact(converted).health_check, None);
}

#[test]
fn health_check_asks_by_http_as_annotated() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          annotations:
            podway.io/health-check: https
            podway.io/health-check-port: '9443'
            podway.io/health-check-path: /healthz?deep=1
            podway.io/health-check-host: web.example
            podway.io/health-check-expected-codes: 200-299, 401
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(messages(&converted), [""; 0]);
    let check = fact(converted).health_check.unwrap();
    assert_eq!(check.port, Some(9_443));
    let kind = CheckKind::Http {
        transport: HttpTransport::Https,
        path: "/healthz?deep=1".into(),
        host: Some("web.example".into()),
        expected_codes: [(200, 299), (401, 401)].into(),
    };
    assert_eq!(check.kind, kind);
}

#[test]
fn health_check_asks_for_a_grpc_service_as_annotated() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          annotations: {podway.io/health-check: grpc, podway.io/health-check-grpc-service: shop.Cart}
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(messages(&converted), [""; 0]);
    let kind = CheckKind::Grpc { is_tls: false, service: "shop.Cart".into() };
    assert_eq!(fact(converted).health_check.unwrap().kind, kind);
}

#[test]
fn what_a_health_check_cannot_ask_gives_a_fault_and_the_default() {
    let converted = converted(
        "
        metadata:
          namespace: shop
          name: web
          annotations:
            podway.io/health-check: http
            podway.io/health-check-port: '0'
            podway.io/health-check-path: healthz
            podway.io/health-check-host: a b
            podway.io/health-check-expected-codes: 2xx
        spec: {clusterIP: 198.51.100.7}
        ",
    );
    assert_eq!(
        messages(&converted),
        [
            "annotation podway.io/health-check-path \"healthz\" is not a path that begins with a slash of up to \
             1024 bytes; it is left out",
            "annotation podway.io/health-check-host \"a b\" is not a host of up to 1024 bytes; it is left out",
            "annotation podway.io/health-check-expected-codes \"2xx\" are not codes; write for instance \
             200-299,401; 200-399 are used",
            "annotation podway.io/health-check-port \"0\" is not a port; the endpoint's own is probed",
        ]
    );
    let check = fact(converted).health_check.unwrap();
    let kind = CheckKind::Http {
        transport: HttpTransport::Http1,
        path: "/".into(),
        host: None,
        expected_codes: [(200, 399)].into(),
    };
    assert_eq!((&check.kind, check.port), (&kind, None));
}

#[test]
fn an_unreadable_source_range_is_named_and_the_others_hold() {
    let converted = converted(
        "
        metadata: {namespace: shop, name: web}
        spec:
          clusterIP: 198.51.100.7
          loadBalancerSourceRanges: [192.0.2.0/33, 192.0.2.0/24]
          ports: [{port: 80}]
        ",
    );
    assert_eq!(
        messages(&converted),
        ["spec.loadBalancerSourceRanges: \"192.0.2.0/33\" is not an address prefix; nobody comes in by it"]
    );
    let ranges = vec![(IpAddr::from([192, 0, 2, 0]), 24)];
    assert_eq!(fact(converted).source_ranges, SourceRanges { ranges, has_unreadable: true });
}

#[test]
fn health_check_node_port_is_for_balanced_services_with_local_policy() {
    let port = |spec: &str| {
        let yaml = format!(
            "metadata: {{name: web}}\nspec: {{clusterIP: 198.51.100.7, healthCheckNodePort: 30999, {spec}}}"
        );
        fact(converted(&yaml)).health_check_node_port
    };
    assert_eq!(port("type: LoadBalancer, externalTrafficPolicy: Local"), Some(30_999));
    assert_eq!(port("type: LoadBalancer"), None);
    assert_eq!(port("type: NodePort, externalTrafficPolicy: Local"), None);
}
