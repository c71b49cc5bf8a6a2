//! A Node as a fact.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node as Object, NodeSpec};

use super::{Converted, Faults, label, name_of, prefix};
use crate::model::{Change, Node};
use crate::source::Interner;

/// The well-known label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Keeps balancers away from a node, whatever its value (KEP-1143).
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The fact that a Node stands for.
#[must_use]
pub fn node(object: &Object, interner: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("Node", &name);
    let addresses = addresses(object, &mut faults);
    let fact = Node {
        name: interner.shared(&name.name),
        resource_version: object.metadata.resource_version.as_deref().unwrap_or_default().into(),
        internal_addresses: internal(object, &addresses),
        addresses,
        takes_balanced_traffic: is_ready(object) && label(&object.metadata, EXCLUDE_LABEL).is_none(),
        pod_cidrs: object.spec.as_ref().map(|spec| pod_cidrs(spec, &mut faults)).unwrap_or_default(),
        zone: label(&object.metadata, ZONE_LABEL).filter(|z| !z.is_empty()).map(|z| interner.shared(z)),
    };
    faults.with(Change::Node(fact))
}

/// A Node without the condition is one of a manifest: kubelets write it.
fn is_ready(object: &Object) -> bool {
    let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.all(|condition| condition.status == "True")
}

/// Those of the addresses that have the type `InternalIP`.
fn internal(object: &Object, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let entries = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let texts: Vec<&str> =
        entries.filter(|entry| entry.type_ == "InternalIP").map(|entry| entry.address.as_str()).collect();
    let is_internal = |address: &&IpAddr| texts.iter().any(|text| text.parse::<IpAddr>() == Ok(**address));
    addresses.iter().filter(is_internal).copied().collect()
}

fn addresses(object: &Object, faults: &mut Faults) -> Vec<IpAddr> {
    let mut parsed = Vec::new();
    for entry in object.status.iter().flat_map(|status| status.addresses.iter().flatten()) {
        if !matches!(entry.type_.as_str(), "InternalIP" | "ExternalIP") {
            continue;
        }
        match entry.address.parse::<IpAddr>() {
            Ok(ip) if !parsed.contains(&ip) => parsed.push(ip),
            Ok(_) => {}
            Err(_) => faults.add(format!(
                "status.addresses: {:?} of type {} is not an IP address; it is left out",
                entry.address, entry.type_
            )),
        }
    }
    parsed
}

/// `podCIDRs`, or `podCIDR` alone in manifests that predate dual stack (KEP-563).
fn pod_cidrs(spec: &NodeSpec, faults: &mut Faults) -> Vec<(IpAddr, u8)> {
    let texts: Vec<&String> = match &spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs.iter().collect(),
        _ => spec.pod_cidr.iter().filter(|cidr| !cidr.is_empty()).collect(),
    };
    let mut parsed = Vec::new();
    for text in texts {
        match prefix(text) {
            Some(prefix) => parsed.push(prefix),
            None => faults.add(format!("spec.podCIDRs: {text:?} is not an address prefix; it is left out")),
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(yaml: &str) -> Converted {
        node(&serde_yaml_ng::from_str(yaml).expect("test YAML"), &mut Interner::default())
    }

    #[test]
    fn dual_stack_node_has_all_its_addresses_and_prefixes() {
        let converted = converted(
            "
            metadata:
              name: node-a
              resourceVersion: '7'
              labels: {topology.kubernetes.io/zone: zone-1}
            spec:
              podCIDR: 198.51.100.0/26
              podCIDRs: [198.51.100.0/26, '2001:db8:1::/64']
            status:
              addresses:
              - {type: InternalIP, address: 192.0.2.10}
              - {type: InternalIP, address: '2001:db8::10'}
              - {type: ExternalIP, address: 203.0.113.10}
              - {type: Hostname, address: node-a}
            ",
        );
        let expected = Node {
            name: "node-a".into(),
            resource_version: "7".into(),
            addresses: vec![
                IpAddr::from([192, 0, 2, 10]),
                "2001:db8::10".parse().expect("address"),
                IpAddr::from([203, 0, 113, 10]),
            ],
            internal_addresses: vec![IpAddr::from([192, 0, 2, 10]), "2001:db8::10".parse().expect("address")],
            takes_balanced_traffic: true,
            pod_cidrs: vec![
                (IpAddr::from([198, 51, 100, 0]), 26),
                ("2001:db8:1::".parse().expect("address"), 64),
            ],
            zone: Some("zone-1".into()),
        };
        assert_eq!(converted, Converted { change: Change::Node(expected), problems: vec![] });
    }

    #[test]
    fn balancers_leave_out_nodes_that_are_not_ready_or_say_so() {
        let takes_traffic = |labels: &str, conditions: &str| {
            let yaml = format!(
                "{{metadata: {{name: node-a, labels: {labels}}}, status: {{conditions: {conditions}}}}}"
            );
            let Change::Node(fact) = converted(&yaml).change else { panic!("not a node") };
            fact.takes_balanced_traffic
        };
        let ready = |status: &str| {
            format!("[{{type: MemoryPressure, status: x}}, {{type: Ready, status: {status}}}]")
        };
        assert!(takes_traffic("{}", "[]"));
        assert!(takes_traffic("{}", &ready("'True'")));
        assert!(!takes_traffic("{}", &ready("'False'")));
        assert!(!takes_traffic("{}", &ready("Unknown")));
        let excluded = "{node.kubernetes.io/exclude-from-external-load-balancers: ''}";
        assert!(!takes_traffic(excluded, &ready("'True'")));
    }

    #[test]
    fn bad_address_and_prefix_are_named_and_left_out() {
        let converted = converted(
            "
            metadata: {name: node-a}
            spec: {podCIDR: 198.51.100.0/33}
            status: {addresses: [{type: InternalIP, address: 192.0.2}]}
            ",
        );
        let messages: Vec<_> = converted.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "Node /node-a: status.addresses: \"192.0.2\" of type InternalIP is not an IP address; it is left out",
                "Node /node-a: spec.podCIDRs: \"198.51.100.0/33\" is not an address prefix; it is left out",
            ]
        );
        let Change::Node(fact) = converted.change else { panic!("not a node") };
        assert!(fact.addresses.is_empty() && fact.pod_cidrs.is_empty());
    }
}
