use std::sync::Arc;

use super::*;
use crate::model::{ObjectName, Protocol};

const HEAD: &str = "metadata:
  namespace: shop
  name: web-1
  resourceVersion: '42'
  labels: {kubernetes.io/service-name: web}
";

fn converted(yaml: &str) -> Converted {
    endpoint_slice(&serde_yaml_ng::from_str(yaml).expect("test YAML"), &mut Interner::default())
}

fn fact(converted: Converted) -> EndpointSlice {
    match converted.change {
        Change::EndpointSlice(slice) => slice,
        other => panic!("not a slice: {other:?}"),
    }
}

fn messages(converted: &Converted) -> Vec<&str> {
    converted.problems.iter().map(|problem| problem.message.as_str()).collect()
}

fn gone() -> Change {
    Change::EndpointSliceGone(ObjectName::new("shop", "web-1"))
}

#[test]
fn slice_keeps_every_field_that_forwarding_needs() {
    let converted = converted(&format!(
        "{HEAD}
addressType: IPv4
endpoints:
- addresses: [198.51.100.1, 198.51.100.2]
  conditions: {{ready: false, serving: true, terminating: true}}
  nodeName: node-a
  zone: zone-1
  hints: {{forZones: [{{name: zone-1}}, {{name: zone-2}}], forNodes: [{{name: node-a}}]}}
ports:
- {{name: http, port: 8080}}
- {{name: dns, port: 53, protocol: UDP}}
- {{name: signal, port: 36412, protocol: SCTP}}
- {{name: everything}}
"
    ));
    let expected = EndpointSlice {
        name: ObjectName::new("shop", "web-1"),
        service: "web".into(),
        resource_version: "42".into(),
        change_trigger_unix_ms: None,
        is_headless: false,
        endpoints: vec![SliceEndpoint {
            address: IpAddr::from([198, 51, 100, 1]),
            ready: false,
            serving: true,
            terminating: true,
            node: Some("node-a".into()),
            zone: Some("zone-1".into()),
            zone_hints: vec!["zone-1".into(), "zone-2".into()],
            node_hints: vec!["node-a".into()],
            weight: None,
        }],
        ports: vec![
            SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 },
            SlicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53 },
            SlicePort { name: "signal".into(), protocol: Protocol::Sctp, port: 36_412 },
        ],
    };
    assert_eq!(converted, Converted { change: Change::EndpointSlice(expected), problems: vec![] });
}

#[test]
fn absent_conditions_mean_ready_and_serving_as_ready_says() {
    let slice = fact(converted(&format!(
        "{HEAD}
addressType: IPv4
endpoints:
- addresses: [198.51.100.1]
- {{addresses: [198.51.100.2], conditions: {{ready: false}}}}
"
    )));
    let conditions: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(conditions, [(true, true, false), (false, false, false)]);
}

#[test]
fn endpoint_of_the_wrong_family_is_named_and_left_out() {
    let converted = converted(&format!(
        "{HEAD}
addressType: IPv4
endpoints:
- addresses: ['2001:db8::1']
- addresses: [198.51.100]
- addresses: [224.0.0.1]
- addresses: [198.51.100.4]
"
    ));
    assert_eq!(
        messages(&converted),
        [
            "endpoint \"2001:db8::1\" is left out: the slice's addressType is IPv4",
            "endpoint \"198.51.100\" is left out: it is not an IP address",
            "endpoint \"224.0.0.1\" is left out: no pod can have this address",
        ]
    );
    let addresses: Vec<_> = fact(converted).endpoints.iter().map(|e| e.address).collect();
    assert_eq!(addresses, [IpAddr::from([198, 51, 100, 4])]);
}

#[test]
fn ipv6_slice_takes_no_ipv4_address_in_either_form() {
    let converted = converted(&format!(
        "{HEAD}
addressType: IPv6
endpoints:
- addresses: [198.51.100.1]
- addresses: ['::ffff:198.51.100.2']
- addresses: ['2001:db8::3']
"
    ));
    assert_eq!(
        messages(&converted),
        [
            "endpoint \"198.51.100.1\" is left out: the slice's addressType is IPv6",
            "endpoint \"::ffff:198.51.100.2\" is left out: it is an IPv4 address in IPv6 form",
        ]
    );
    assert_eq!(fact(converted).endpoints.len(), 1);
}

#[test]
fn many_faults_are_counted_beyond_the_first_sixteen() {
    let endpoints = "- addresses: [nowhere]\n".repeat(1_000);
    let converted = converted(&format!("{HEAD}\naddressType: IPv4\nendpoints:\n{endpoints}"));
    assert_eq!(converted.problems.len(), 17);
    assert_eq!(converted.problems[16].message, "and 984 more faults of this object");
}

#[test]
fn fqdn_slice_is_left_out_in_silence() {
    let converted =
        converted(&format!("{HEAD}\naddressType: FQDN\nendpoints: [{{addresses: [example.net]}}]"));
    assert_eq!(converted, Converted { change: gone(), problems: vec![] });
}

#[test]
fn unknown_address_type_is_named() {
    let converted = converted(&format!("{HEAD}\naddressType: IPX\nendpoints: []"));
    assert_eq!(messages(&converted), ["addressType \"IPX\" is unknown; use IPv4 or IPv6"]);
    assert_eq!(converted.change, gone());
}

#[test]
fn slice_without_a_service_is_named() {
    let converted = converted("metadata: {namespace: shop, name: web-1}\naddressType: IPv4\nendpoints: []");
    assert_eq!(
        messages(&converted),
        ["has no label kubernetes.io/service-name, so it belongs to no Service"]
    );
    assert_eq!(converted.change, gone());
}

#[test]
fn slice_says_whether_it_is_of_a_headless_service() {
    let yaml = "
        metadata:
          namespace: shop
          name: web-1
          labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}
        addressType: IPv4
        endpoints: []
        ";
    let is_headless = |yaml: &str| fact(converted(yaml)).is_headless;
    assert!(is_headless(yaml));
    assert!(!is_headless(&yaml.replace(", service.kubernetes.io/headless: ''", "")));
}

#[test]
fn unusable_ports_are_named_and_left_out() {
    let converted = converted(&format!(
        "{HEAD}
addressType: IPv4
endpoints: []
ports:
- {{name: odd, port: 1, protocol: DCCP}}
- {{name: zero, port: 0}}
"
    ));
    assert_eq!(
        messages(&converted),
        [
            "port \"odd\" (1) is left out: protocol \"DCCP\" is unknown; use TCP, UDP or SCTP",
            "port \"zero\" (0) is left out: port number 0 is not between 1 and 65535",
        ]
    );
    assert!(fact(converted).ports.is_empty());
}

#[test]
fn node_names_are_shared_between_slices() {
    let mut interner = Interner::default();
    let object = serde_yaml_ng::from_str(&format!(
        "{HEAD}\naddressType: IPv4\nendpoints: [{{addresses: [198.51.100.1], nodeName: node-a}}]"
    ))
    .expect("test YAML");
    let mut node = || match endpoint_slice(&object, &mut interner).change {
        Change::EndpointSlice(slice) => slice.endpoints[0].node.clone().expect("has a node"),
        other => panic!("not a slice: {other:?}"),
    };
    assert!(Arc::ptr_eq(&node(), &node()));
}

#[test]
fn weight_of_an_address_goes_before_that_of_its_slice() {
    let yaml = "
        metadata:
          namespace: shop
          name: web-1
          labels: {kubernetes.io/service-name: web}
          annotations: {podway.io/weight: '5', podway.io/endpoint-weights: 198.51.100.2=0}
        addressType: IPv4
        endpoints: [{addresses: [198.51.100.1]}, {addresses: [198.51.100.2]}]
        ";
    let weights = fact(converted(yaml)).endpoints.into_iter().map(|endpoint| endpoint.weight);
    assert_eq!(weights.collect::<Vec<_>>(), [Some(5), Some(0)]);
}

#[test]
fn time_of_the_change_is_read_from_its_annotation() {
    let trigger = |at: &str| {
        let annotations =
            format!("  annotations: {{endpoints.kubernetes.io/last-change-trigger-time: {at}}}\n");
        let converted = converted(&format!("{HEAD}{annotations}addressType: IPv4\nendpoints: []\n"));
        assert_eq!(messages(&converted), [""; 0]);
        fact(converted).change_trigger_unix_ms
    };
    assert_eq!(trigger("'2001-02-03T04:05:06Z'"), Some(981_173_106_000));
    assert_eq!(trigger("'2001-02-03T04:05:06.123456789Z'"), Some(981_173_106_123));
    assert_eq!(trigger("'1969-12-31T23:59:59Z'"), None);
    assert_eq!(trigger("yesterday"), None);
}
