//! Headless Services: Ingresses alone lead to them.
use std::sync::Arc;

use super::fixture::{ip, node, port, ready, service, slice};
use super::*;
use crate::model::{
    BackendPort, ClassChoice, EndpointSlice, Ingress, IngressBackend, NegType, Service, Snapshot,
};

/// `shop/pods`, whose port 80 is 8080 of its pods.
fn pods() -> Service {
    Service {
        ports: vec![port("http", 80)],
        is_headless: true,
        ..Service::new(ObjectName::new("shop", "pods"))
    }
}

/// The only slice, as its controller marks it.
fn marked(slice: &EndpointSlice) -> Arc<EndpointSlice> {
    Arc::new(EndpointSlice { is_headless: true, ..slice.clone() })
}

/// With the Service's pods, and an Ingress that leads to a port of `backend`.
fn planned(facts: Service, backend: &str, backend_port: BackendPort, node: &NodeContext) -> Desired {
    let mut snapshot = Snapshot::default();
    let endpoints = vec![ready("10.4.2.8", "node-a"), ready("10.4.2.9", "node-b")];
    let of_service = marked(&slice("pods-1", &facts.name.name, endpoints));
    let ingress = Ingress {
        class: ClassChoice::Annotation("podway".into()),
        vips: vec![ip("203.0.113.80")],
        default_backend: Some(IngressBackend::Service(backend.into(), backend_port)),
        ..Ingress::new(ObjectName::new("shop", "web"))
    };
    snapshot.endpoint_slices.insert(of_service.name.clone(), of_service);
    snapshot.services.insert(facts.name.clone(), facts.into());
    snapshot.ingresses.insert(ingress.name.clone(), ingress.into());
    plan(&snapshot, node, &ReadinessAlone)
}

fn endpoints(desired: &Desired) -> Vec<String> {
    let negs = desired.backend_services().flat_map(|service| {
        service
            .negs
            .iter()
            .flat_map(|neg| neg.members.iter().map(|index| &service.endpoints[*index as usize]))
    });
    negs.map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
}

#[test]
fn an_ingress_leads_to_its_pods_by_the_name_or_the_number_of_the_port() {
    for backend_port in [BackendPort::Name("http".into()), BackendPort::Number(80)] {
        let desired = planned(pods(), "pods", backend_port, &node());
        assert_eq!(endpoints(&desired), ["10.4.2.8:8080", "10.4.2.9:8080"]);
        assert_eq!((desired.frontends().count(), desired.problems()), (0, vec![]));
    }
}

#[test]
fn what_no_ingress_leads_to_is_in_no_plan() {
    let desired = planned(pods(), "other", BackendPort::Number(80), &node());
    assert!(desired.services().is_empty(), "{:?}", desired.services());
}

#[test]
fn a_port_that_it_has_not_is_missing() {
    let desired = planned(pods(), "pods", BackendPort::Number(8080), &node());
    let problems: Vec<String> = desired.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Ingress shop/web: cannot serve its default backend: Service shop/pods has no TCP port 8080; its requests are \
          answered with 404"
        ]
    );
}

#[test]
fn a_neg_of_nodes_is_refused_once_for_all_of_its_ports() {
    let ports = vec![port("http", 80), port("admin", 81)];
    let own = Service { ports: ports.clone(), neg_type: Some(NegType::NodePort), ..pods() };
    let by_flag = NodeContext { neg_type: NegType::NodePort, ..node() };
    let all_marked = |facts, node: &NodeContext| planned(facts, "pods", BackendPort::Number(80), node);
    for desired in [all_marked(own, &node()), all_marked(Service { ports, ..pods() }, &by_flag)] {
        let of_nodes = |problem: &&crate::model::Problem| problem.message.contains("NEG");
        let problems: Vec<String> =
            desired.problems().iter().filter(of_nodes).map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "Service shop/pods: cannot serve requests: its NEG has the type GCE_VM_IP_PORT, and a headless Service has no \
              node ports; give it podway.io/neg-type: GCE_POD, or a cluster IP and the type NodePort; requests are \
              answered with 503"
            ]
        );
        let service = desired.backend_services().next().expect("a backend service");
        assert_eq!((service.neg_type(), service.condition()), (NegType::NodePort, Condition::NoNodePort));
    }
}

#[test]
fn slices_of_a_headless_service_are_none_of_one_with_a_cluster_ip() {
    let desired = planned(service("cart", "10.96.0.1"), "cart", BackendPort::Number(80), &node());
    assert_eq!(endpoints(&desired), [""; 0]);
}

#[test]
fn it_has_the_families_of_its_endpoints_and_both_while_it_has_none() {
    let families = |endpoints| {
        let slices = [slice("pods-1", "pods", endpoints)];
        let none = crate::model::BackendConfigs::new();
        let planned = crate::plan::service(&pods(), &slices, &none, &node(), &ReadinessAlone);
        planned.backend_services[0].negs.iter().map(|neg| neg_kind_name(neg.kind)).collect::<Vec<_>>()
    };
    assert_eq!(families(vec![ready("10.4.2.8", "node-a")]), ["clusterV4"]);
    assert_eq!(families(vec![ready("2001:db8:4::8", "node-a")]), ["clusterV6"]);
    assert_eq!(families(vec![]), ["clusterV4", "clusterV6"]);
}
