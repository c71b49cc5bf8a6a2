//! The annotation by which GKE tells which NEGs a Service's ports have. What it is to be is pure; [`run`] writes.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::model::{ObjectName, Protocol, Service};
use crate::stable_hash;

mod writer;

pub use writer::run;

/// Before the names that are made here.
const NAME_PREFIX: &str = "podway1";

/// Bytes of the readable part of such a name: 63 are allowed in all.
const NAME_BODY_BYTES_MAX: usize = 46;

/// A Service's status that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The Service.
    pub service: ObjectName,
    /// What the status is to be; `None` where it is to go.
    pub text: Option<String>,
}

/// As GKE writes it.
#[derive(Serialize)]
struct Status {
    network_endpoint_groups: BTreeMap<String, String>,
    zones: BTreeSet<Arc<str>>,
}

/// What is to be written for a Service, with the zones of the cluster's nodes; `None` where all is well, and where
/// the status is another controller's.
#[must_use]
pub fn correction(service: &Service, zones: &BTreeSet<Arc<str>>) -> Option<Correction> {
    let present = &service.neg_status;
    if present.text.is_some() && !present.is_ours {
        return None;
    }
    let text = wanted(service, zones);
    if present.text.as_deref() == text.as_deref() {
        return None;
    }
    Some(Correction { service: service.name.clone(), text })
}

/// Whether a Service has, or is to have, a status. A headless one has NEGs for Ingresses alone, and none to tell of.
#[must_use]
pub fn concerns(service: &Service) -> bool {
    !service.is_headless && (service.neg_request.is_some() || service.neg_status.is_ours)
}

fn wanted(service: &Service, zones: &BTreeSet<Arc<str>>) -> Option<String> {
    let request = service.neg_request.as_ref()?;
    let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
    let mut groups = BTreeMap::new();
    for port in tcp {
        let exposed = request.exposed_ports.get(&port);
        if request.is_for_ingress || exposed.is_some() {
            let name = exposed.cloned().flatten();
            let name = name.map_or_else(|| name_of(&service.name, port), |name| name.to_string());
            groups.insert(port.to_string(), name);
        }
    }
    let status = Status { network_endpoint_groups: groups, zones: zones.clone() };
    (!status.network_endpoint_groups.is_empty()).then(|| serde_json::to_string(&status).unwrap_or_default())
}

/// A name that no other port of the cluster has.
fn name_of(service: &ObjectName, port: u16) -> String {
    let body = format!("{}-{}-{port}", service.namespace, service.name);
    let hash = stable_hash::of(&body) as u32;
    let body = &body[..body.floor_char_boundary(NAME_BODY_BYTES_MAX)];
    format!("{NAME_PREFIX}-{body}-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NegRequest, NegStatus, ServicePort};
    use crate::plan::fixture::{port, service};

    fn zones() -> BTreeSet<Arc<str>> {
        ["zone-1".into(), "zone-2".into()].into()
    }

    fn cart(request: Option<NegRequest>) -> Service {
        let dns = ServicePort { protocol: Protocol::Udp, ..port("dns", 53) };
        let ports = vec![port("http", 80), port("https", 443), dns];
        Service { ports, neg_request: request, ..service("cart", "192.0.2.1") }
    }

    fn exposed(ports: &[(u16, Option<&str>)]) -> Option<NegRequest> {
        let exposed_ports = ports.iter().map(|(port, name)| (*port, name.map(Into::into))).collect();
        Some(NegRequest { is_for_ingress: false, exposed_ports })
    }

    fn text(service: &Service) -> Option<String> {
        correction(service, &zones()).expect("something to write").text
    }

    #[test]
    fn exposed_ports_are_named_with_the_zones_of_the_cluster() {
        let cart = cart(exposed(&[(80, None), (443, Some("web")), (8080, None)]));
        let expected = "{\"network_endpoint_groups\":{\"443\":\"web\",\"80\":\"podway1-shop-cart-80-7fb0a84c\"},\
                        \"zones\":[\"zone-1\",\"zone-2\"]}";
        assert_eq!(text(&cart).as_deref(), Some(expected));
    }

    #[test]
    fn all_tcp_ports_have_negs_for_ingresses() {
        let request = NegRequest { is_for_ingress: true, ..NegRequest::default() };
        let text = text(&cart(Some(request))).expect("a status");
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let groups = status["network_endpoint_groups"].as_object().expect("an object");
        assert_eq!(groups.keys().collect::<Vec<_>>(), ["443", "80"]);
    }

    #[test]
    fn status_that_is_as_it_is_to_be_is_not_written() {
        let mut cart = cart(exposed(&[(80, None)]));
        cart.neg_status = NegStatus { text: text(&cart).map(Into::into), is_ours: true };
        assert_eq!(correction(&cart, &zones()), None);
        assert!(correction(&cart, &["zone-1".into()].into()).is_some(), "other zones");
    }

    #[test]
    fn status_goes_with_what_asked_for_it() {
        let ours = NegStatus { text: Some("{}".into()), is_ours: true };
        assert_eq!(text(&Service { neg_status: ours, ..cart(None) }), None);
        assert_eq!(correction(&cart(None), &zones()), None);
    }

    #[test]
    fn status_of_another_controller_stays() {
        let foreign = NegStatus { text: Some("{}".into()), is_ours: false };
        for request in [None, exposed(&[(80, None)])] {
            assert_eq!(correction(&Service { neg_status: foreign.clone(), ..cart(request) }, &zones()), None);
        }
    }

    #[test]
    fn long_names_fit_and_differ() {
        let name = |service: &str| name_of(&ObjectName::new(&"n".repeat(40), service), 80);
        let (first, second) = (name(&"s".repeat(60)), name(&"s".repeat(61)));
        assert_eq!([first.len(), second.len()], [63, 63]);
        assert_ne!(first, second);
    }
}
