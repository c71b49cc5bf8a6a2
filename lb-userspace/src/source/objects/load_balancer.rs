//! What a Service or an Ingress asks of the pools of load-balancer addresses.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as Object, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::{Balancer, BalancerRequest, LOAD_BALANCER_CLASS};

/// Addresses that shall be taken of a pool, `192.0.2.80,2001:db8::80`; before `spec.loadBalancerIP`.
pub(super) const LOAD_BALANCER_IPS: &str = "podway.io/load-balancer-ips";

/// A word: objects of one kind with the same one may have an address together.
pub(super) const ALLOW_SHARED_IP: &str = "podway.io/allow-shared-ip";

/// Longest such word, bytes; a longer one is left out.
const SHARING_KEY_BYTES_MAX: usize = 253;

/// Whose load balancer a Service has. Without a class it is Podway's, as it would be the cloud's in a cluster with one
/// (KEP-1959).
pub(super) fn balancer(object: &Object, spec: &ServiceSpec, faults: &mut Faults) -> Balancer {
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return Balancer::None;
    }
    let class = spec.load_balancer_class.as_deref().unwrap_or_default();
    let ingress = object.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let is_foreign = ingress.flatten().any(|entry| {
        entry.ip.as_deref().is_none_or(str::is_empty) || entry.ip_mode.as_deref() == Some("Proxy")
    });
    if is_foreign || !(class.is_empty() || class == LOAD_BALANCER_CLASS) {
        return Balancer::Other;
    }
    let mut request = request(&object.metadata, faults);
    let field = spec.load_balancer_ip.as_deref().map(str::trim).filter(|text| !text.is_empty());
    if let Some(text) = field.filter(|_| request.wanted.is_empty()) {
        match text.parse() {
            Ok(address) => request.wanted.push(address),
            Err(_) => {
                faults.add(format!("spec.loadBalancerIP: {text:?} is not an IP address; it is left out"));
            }
        }
    }
    Balancer::Podway(request)
}

/// What the annotations ask for.
pub(super) fn request(meta: &ObjectMeta, faults: &mut Faults) -> BalancerRequest {
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(|value| value.trim());
    let mut wanted: Vec<IpAddr> = Vec::new();
    let texts = annotation(LOAD_BALANCER_IPS).into_iter().flat_map(|text| text.split(','));
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(address) if wanted.iter().all(|known| known.is_ipv4() != address.is_ipv4()) => {
                wanted.push(address);
            }
            Ok(_) => faults.add(format!(
                "annotation {LOAD_BALANCER_IPS}: {text} is a second address of its family; it is left out"
            )),
            Err(_) => faults.add(format!(
                "annotation {LOAD_BALANCER_IPS}: {text:?} is not an IP address; it is left out"
            )),
        }
    }
    let key = annotation(ALLOW_SHARED_IP).filter(|key| !key.is_empty());
    if key.is_some_and(|key| key.len() > SHARING_KEY_BYTES_MAX) {
        faults.add(format!(
            "annotation {ALLOW_SHARED_IP} is longer than {SHARING_KEY_BYTES_MAX} bytes; no address is shared"
        ));
    }
    let sharing_key = key.filter(|key| key.len() <= SHARING_KEY_BYTES_MAX).map(Into::into);
    BalancerRequest { wanted, sharing_key }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn read(spec: &str, annotations: &str, status: &str) -> (Balancer, Vec<String>) {
        let yaml = format!(
            "{{metadata: {{namespace: shop, name: web, annotations: {annotations}}}, spec: {spec},
               status: {{loadBalancer: {{ingress: {status}}}}}}}"
        );
        let object: Object = serde_yaml_ng::from_str(&yaml).expect("test YAML");
        let mut faults = Faults::of("Service", &ObjectName::new("shop", "web"));
        let spec = object.spec.clone().expect("a spec");
        let found = balancer(&object, &spec, &mut faults);
        (found, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    fn asks(addresses: &[&str], key: Option<&str>) -> Balancer {
        let wanted = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Balancer::Podway(BalancerRequest { wanted, sharing_key: key.map(Into::into) })
    }

    #[test]
    fn a_service_is_podways_by_type_and_class() {
        let of = |spec: &str| read(spec, "{}", "[]").0;
        assert_eq!(of("{type: LoadBalancer}"), asks(&[], None));
        assert_eq!(of("{type: LoadBalancer, loadBalancerClass: podway.io/lb}"), asks(&[], None));
        assert_eq!(of("{type: LoadBalancer, loadBalancerClass: example.net/lb}"), Balancer::Other);
        assert_eq!(of("{type: NodePort}"), Balancer::None);
    }

    #[test]
    fn a_status_that_podway_never_writes_is_anothers() {
        let of = |status: &str| read("{type: LoadBalancer}", "{}", status).0;
        assert_eq!(of("[{ip: 192.0.2.80}]"), asks(&[], None));
        assert_eq!(of("[{hostname: lb.example}]"), Balancer::Other);
        assert_eq!(of("[{ip: 192.0.2.80, ipMode: Proxy}]"), Balancer::Other);
    }

    #[test]
    fn the_annotation_goes_before_the_field() {
        let spec = "{type: LoadBalancer, loadBalancerIP: 192.0.2.81}";
        assert_eq!(read(spec, "{}", "[]").0, asks(&["192.0.2.81"], None));
        let annotations =
            "{podway.io/load-balancer-ips: '192.0.2.80, 2001:db8::80', podway.io/allow-shared-ip: shop}";
        assert_eq!(read(spec, annotations, "[]").0, asks(&["192.0.2.80", "2001:db8::80"], Some("shop")));
    }

    #[test]
    fn what_is_no_address_is_named_alone() {
        let annotations = "{podway.io/load-balancer-ips: 'x,192.0.2.80,192.0.2.81'}";
        let (found, faults) = read("{type: LoadBalancer}", annotations, "[]");
        assert_eq!(found, asks(&["192.0.2.80"], None));
        assert_eq!(
            faults,
            [
                "annotation podway.io/load-balancer-ips: \"x\" is not an IP address; it is left out",
                "annotation podway.io/load-balancer-ips: 192.0.2.81 is a second address of its family; it is left out",
            ]
        );
    }
}
