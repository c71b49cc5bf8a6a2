//! Requests go where packets do: the NEG of the plan decides for both.
use super::*;
use crate::model::{
    ClassChoice, Ingress, IngressBackend, ProxyVersion, Service, SliceEndpoint, Snapshot, TrafficPolicy,
};
use crate::plan::fixture::{ip, node, ready, service, slice, unready};
use crate::plan::{ReadinessAlone, plan};

/// A ready endpoint that is hinted for a zone; the fixture's node is node-a in zone-1.
fn hinted(address: &str, zone: &str) -> SliceEndpoint {
    SliceEndpoint { zone_hints: vec![zone.into()], ..ready(address, "node-b") }
}

/// The backend service of `shop/cart` as the front-end has it, and the members of the packet path's NEG.
fn served(facts: Service, endpoints: Vec<SliceEndpoint>) -> (Arc<BackendService>, Vec<String>) {
    let mut snapshot = Snapshot::default();
    let ingress = Ingress {
        class: ClassChoice::Annotation("podway".into()),
        vips: vec![ip("203.0.113.80")],
        default_backend: Some(IngressBackend::Service("cart".into(), crate::model::BackendPort::Number(80))),
        ..Ingress::new(ObjectName::new("shop", "cart"))
    };
    let slice = slice("cart-1", "cart", endpoints);
    snapshot.endpoint_slices.insert(slice.name.clone(), slice);
    snapshot.services.insert(facts.name.clone(), facts.into());
    snapshot.ingresses.insert(ingress.name.clone(), ingress.into());
    let desired = plan(&snapshot, &node(), &ReadinessAlone);
    let mut known = KnownServices::default();
    known.keep(&desired, desired.url_maps());
    let planned = desired.backend_services().next().expect("a backend service");
    let neg = NEGS.iter().find_map(|kind| planned.neg(*kind)).expect("a NEG");
    let member = |index: &u32| planned.endpoints[*index as usize].address.to_string();
    (known.slot(&planned.name).expect("a slot").load(), neg.members.iter().map(member).collect())
}

/// Where requests may go; the packet path's NEG is the same.
fn addresses(facts: Service, endpoints: Vec<SliceEndpoint>) -> Vec<String> {
    let (service, members) = served(facts, endpoints);
    let addresses: Vec<_> =
        service.endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect();
    assert_eq!(addresses, members);
    addresses
}

fn cart() -> Service {
    service("cart", "10.96.0.1")
}

#[test]
fn requests_stay_in_the_zone_that_endpoints_are_hinted_for() {
    let endpoints =
        vec![hinted("10.1.0.1", "zone-1"), hinted("10.1.0.2", "zone-2"), hinted("10.1.0.3", "zone-1")];
    assert_eq!(addresses(cart(), endpoints), ["10.1.0.1", "10.1.0.3"]);
}

#[test]
fn requests_leave_a_zone_without_a_ready_endpoint() {
    let away = SliceEndpoint { zone_hints: vec!["zone-1".into()], ..unready("10.1.0.1", "node-b") };
    assert_eq!(addresses(cart(), vec![away, hinted("10.1.0.2", "zone-2")]), ["10.1.0.2"]);
}

#[test]
fn requests_go_to_pods_of_the_node_alone_where_the_service_says_so() {
    let facts = Service { internal_traffic_policy: TrafficPolicy::Local, ..cart() };
    let endpoints = vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-b")];
    assert_eq!(addresses(facts, endpoints), ["10.1.0.1"]);
}

#[test]
fn endpoints_hear_of_clients_where_their_service_says_so() {
    let facts = Service { proxy_protocol: Some(ProxyVersion::V2), ..cart() };
    let of = |facts| served(facts, vec![ready("10.1.0.1", "node-a")]).0.proxy_protocol;
    assert_eq!((of(facts), of(cart())), (Some(ProxyVersion::V2), None));
}
