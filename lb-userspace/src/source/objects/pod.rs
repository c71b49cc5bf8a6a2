//! A Pod as a fact: of all pods only those that wait for a gate of ours matter.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod as Object, PodStatus};

use super::{Converted, Faults, name_of};
use crate::model::{Change, GatedPod, ReadinessGate};
use crate::source::Interner;

/// The fact that a Pod stands for: [`Change::GatedPodGone`] for one that has no gate of ours, whose gates are met,
/// or that is being deleted.
#[must_use]
pub fn pod(object: &Object, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let faults = Faults::of("Pod", &name);
    let unmet = unmet(object);
    if unmet.is_empty() || object.metadata.deletion_timestamp.is_some() {
        return faults.with(Change::GatedPodGone(name));
    }
    let uid = object.metadata.uid.as_deref().unwrap_or_default().into();
    let addresses = object.status.as_ref().map(addresses).unwrap_or_default();
    faults.with(Change::GatedPod(GatedPod { name, uid, addresses, unmet }))
}

fn unmet(object: &Object) -> Vec<ReadinessGate> {
    let gates = object.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let named: Vec<&str> = gates.map(|gate| &*gate.condition_type).collect();
    let conditions = || object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_met = |gate: ReadinessGate| {
        let of_gate = |condition: &&_| -> bool {
            let condition: &k8s_openapi::api::core::v1::PodCondition = condition;
            condition.type_ == gate.condition_type()
        };
        conditions().find(of_gate).is_some_and(|condition| condition.status == "True")
    };
    let of_ours = ReadinessGate::ALL.into_iter().filter(|gate| named.contains(&gate.condition_type()));
    of_ours.filter(|gate| !is_met(*gate)).collect()
}

/// The kubelet writes them: what is no address is nobody's fault.
fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn change(yaml: &str) -> Change {
        pod(&serde_yaml_ng::from_str(yaml).expect("test YAML"), &mut Interner::default()).change
    }

    const GATES: &str = "
        metadata: {namespace: shop, name: web-1, uid: 0d4f}
        spec:
          containers: []
          readinessGates:
          - {conditionType: podway.io/programmed}
          - {conditionType: example.net/other}
          - {conditionType: cloud.google.com/load-balancer-neg-ready}
        status:
          podIPs: [{ip: 192.0.2.9}, {ip: '2001:db8::9'}]
          conditions:
          - {type: Ready, status: 'False'}
          - {type: podway.io/programmed, status: 'PROGRAMMED'}
        ";

    fn gone() -> Change {
        Change::GatedPodGone(ObjectName::new("shop", "web-1"))
    }

    #[test]
    fn pod_waits_for_the_gates_of_ours_that_are_not_true() {
        let expected = |unmet| {
            Change::GatedPod(GatedPod {
                name: ObjectName::new("shop", "web-1"),
                uid: "0d4f".into(),
                addresses: vec![IpAddr::from([192, 0, 2, 9]), "2001:db8::9".parse().expect("address")],
                unmet,
            })
        };
        let both = vec![ReadinessGate::Programmed, ReadinessGate::NegReady];
        assert_eq!(change(&GATES.replace("PROGRAMMED", "False")), expected(both));
        assert_eq!(change(&GATES.replace("PROGRAMMED", "True")), expected(vec![ReadinessGate::NegReady]));
    }

    #[test]
    fn pod_without_a_gate_of_ours_or_on_its_way_out_is_none_of_ours() {
        let other = GATES.replace("podway.io/programmed", "x").replace("load-balancer-neg-ready", "y");
        assert_eq!(change(&other), gone());
        let deleted = GATES.replace("uid: 0d4f", "uid: 0d4f, deletionTimestamp: '2026-01-01T00:00:00Z'");
        assert_eq!(change(&deleted), gone());
    }
}
