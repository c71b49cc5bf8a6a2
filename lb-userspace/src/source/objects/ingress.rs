//! An Ingress as a fact. Whose it is and what its texts mean is for the plan.
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress as Object, IngressBackend as ObjectBackend, IngressLoadBalancerIngress,
    IngressSpec, IngressStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::load_balancer::{ALLOW_SHARED_IP, LOAD_BALANCER_IPS};
use super::proxy_protocol::{self, PROXY_PROTOCOL};
use super::tls_policy::{self, CLIENT_CA, CLIENT_VERIFY, MIN_TLS_VERSION};
use super::{Converted, Faults, load_balancer, name_of, port_number, uid_of};
use crate::model::{
    BackendPort, Change, ClassChoice, Ingress, IngressBackend, IngressPath, IngressRule, IngressTls, PathType,
};
use crate::source::Interner;

/// The class, before `spec.ingressClassName` was (KEP-1453).
const CLASS: &str = "kubernetes.io/ingress.class";
/// `false`: nothing is served on port 80.
const ALLOW_HTTP: &str = "kubernetes.io/ingress.allow-http";
/// Name of a FrontendConfig in the same namespace.
const FRONTEND_CONFIG: &str = "networking.gke.io/v1beta1.FrontendConfig";
/// Addresses, `192.0.2.80,2001:db8::80`.
const VIPS: &str = "podway.io/vips";

/// The annotations that are read.
const READ: [&str; 10] = [
    CLASS,
    ALLOW_HTTP,
    FRONTEND_CONFIG,
    VIPS,
    MIN_TLS_VERSION,
    CLIENT_CA,
    CLIENT_VERIFY,
    PROXY_PROTOCOL,
    LOAD_BALANCER_IPS,
    ALLOW_SHARED_IP,
];

/// Annotations that would say something of an Ingress: those that are not read are named.
const FAMILIES: [&str; 4] =
    ["podway.io/", "ingress.gcp.kubernetes.io/", "networking.gke.io/", "kubernetes.io/ingress."];

/// The fact that an Ingress stands for.
#[must_use]
pub fn ingress(object: &Object, interner: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("Ingress", &name);
    let spec = object.spec.clone().unwrap_or_default();
    name_unread(&object.metadata, &mut faults);
    let fact = Ingress {
        resource_version: object.metadata.resource_version.as_deref().unwrap_or_default().into(),
        uid: uid_of(&object.metadata),
        created_s: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        class: class(&object.metadata, &spec, interner),
        default_backend: spec
            .default_backend
            .as_ref()
            .map(|object| backend("spec.defaultBackend", object, interner, &mut faults)),
        rules: rules(&spec, interner, &mut faults),
        tls: tls(&spec, interner, &mut faults),
        allows_http: allows_http(&object.metadata, &mut faults),
        frontend_config: annotation(&object.metadata, FRONTEND_CONFIG)
            .filter(|name| !name.is_empty())
            .map(|name| interner.shared(name)),
        min_tls_version: tls_policy::min_tls_version(&object.metadata, &mut faults),
        client_verification: tls_policy::client_verification(&name, &object.metadata, interner, &mut faults),
        proxy_protocol: proxy_protocol::of_clients(&object.metadata, &mut faults),
        vips: vips(&object.metadata, &mut faults),
        balancer: load_balancer::request(&object.metadata, &mut faults),
        load_balancer_ips: load_balancer_ips(object.status.as_ref(), &mut faults),
        has_load_balancer_hosts: entries(object.status.as_ref()).any(|entry| address(entry).is_none()),
        name,
    };
    faults.with(Change::Ingress(Arc::new(fact)))
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(|value| value.trim())
}

fn name_unread(meta: &ObjectMeta, faults: &mut Faults) {
    let is_read = |name: &String| READ.contains(&name.as_str());
    let is_ours = |name: &&String| FAMILIES.iter().any(|family| name.starts_with(family));
    for name in
        meta.annotations.iter().flat_map(|all| all.keys()).filter(is_ours).filter(|name| !is_read(name))
    {
        faults.add(format!("annotation {name} is not served; the rest holds"));
    }
}

/// The annotation goes before the field: a controller that knows both must honour it (KEP-1453, "Interoperability
/// with previous annotation").
fn class(meta: &ObjectMeta, spec: &IngressSpec, interner: &mut Interner) -> ClassChoice {
    match (annotation(meta, CLASS), spec.ingress_class_name.as_deref()) {
        (Some(name), _) => ClassChoice::Annotation(interner.shared(name)),
        (None, Some(name)) => ClassChoice::Field(interner.shared(name)),
        (None, None) => ClassChoice::Default,
    }
}

fn allows_http(meta: &ObjectMeta, faults: &mut Faults) -> bool {
    match annotation(meta, ALLOW_HTTP) {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            faults.add(format!("annotation {ALLOW_HTTP} {other:?} is neither true nor false; true is used"));
            true
        }
    }
}

/// Addresses in order, each once.
fn vips(meta: &ObjectMeta, faults: &mut Faults) -> Vec<IpAddr> {
    let mut vips = Vec::new();
    let texts = annotation(meta, VIPS).into_iter().flat_map(|text| text.split(','));
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) if !vips.contains(&ip) => vips.push(ip),
            Ok(_) => {}
            Err(_) => faults.add(format!("annotation {VIPS}: {text:?} is not an IP address; it is left out")),
        }
    }
    vips
}

fn entries(status: Option<&IngressStatus>) -> impl Iterator<Item = &IngressLoadBalancerIngress> {
    status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()).into_iter().flatten()
}

fn address(entry: &IngressLoadBalancerIngress) -> Option<&str> {
    entry.ip.as_deref().filter(|text| !text.is_empty())
}

fn load_balancer_ips(status: Option<&IngressStatus>, faults: &mut Faults) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in entries(status).filter_map(address) {
        match text.parse::<IpAddr>() {
            Ok(ip) if !addresses.contains(&ip) => addresses.push(ip),
            Ok(_) => {}
            Err(_) => faults
                .add(format!("status.loadBalancer.ingress: {text:?} is not an IP address; it is left out")),
        }
    }
    addresses
}

fn rules(spec: &IngressSpec, interner: &mut Interner, faults: &mut Faults) -> Vec<IngressRule> {
    let mut rules = Vec::new();
    for (index, object) in spec.rules.iter().flatten().enumerate() {
        let mut paths = Vec::new();
        for (number, path) in object.http.iter().flat_map(|http| &http.paths).enumerate() {
            let label = format!("spec.rules[{index}].http.paths[{number}]");
            paths.extend(self::path(&label, path, interner, faults));
        }
        rules.push(IngressRule { host: interner.shared(object.host.as_deref().unwrap_or_default()), paths });
    }
    rules
}

fn path(
    label: &str,
    object: &HTTPIngressPath,
    interner: &mut Interner,
    faults: &mut Faults,
) -> Option<IngressPath> {
    let path_type = match object.path_type.as_str() {
        "Exact" => PathType::Exact,
        "Prefix" => PathType::Prefix,
        "ImplementationSpecific" => PathType::ImplementationSpecific,
        other => {
            faults.add(format!(
                "{label}: pathType {other:?} is not Exact, Prefix or ImplementationSpecific; the path is left out"
            ));
            return None;
        }
    };
    Some(IngressPath {
        path_type,
        path: interner.shared(object.path.as_deref().unwrap_or_default()),
        backend: backend(&format!("{label}.backend"), &object.backend, interner, faults),
    })
}

fn backend(
    label: &str,
    object: &ObjectBackend,
    interner: &mut Interner,
    faults: &mut Faults,
) -> IngressBackend {
    let instead = "its requests are answered with 404";
    if object.resource.is_some() {
        faults.add(format!("{label}.resource is not served: only Services are; {instead}"));
        return IngressBackend::Unusable;
    }
    let service = object.service.as_ref().filter(|service| !service.name.is_empty());
    let Some(service) = service else {
        faults.add(format!("{label} names no Service; {instead}"));
        return IngressBackend::Unusable;
    };
    let port = service.port.as_ref();
    let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
    let number = port.and_then(|port| port.number).filter(|number| *number != 0).map(port_number);
    let port = match (name, number) {
        (Some(name), None) => BackendPort::Name(interner.shared(name)),
        (None, Some(Ok(number))) => BackendPort::Number(number),
        (None, Some(Err(reason))) => {
            faults.add(format!("{label}.service.port: {reason}; {instead}"));
            return IngressBackend::Unusable;
        }
        (Some(_), Some(_)) | (None, None) => {
            faults.add(format!("{label}.service.port has not one of name and number; {instead}"));
            return IngressBackend::Unusable;
        }
    };
    IngressBackend::Service(interner.shared(&service.name), port)
}

fn tls(spec: &IngressSpec, interner: &mut Interner, faults: &mut Faults) -> Vec<IngressTls> {
    let mut all = Vec::new();
    for (index, object) in spec.tls.iter().flatten().enumerate() {
        match object.secret_name.as_deref().filter(|name| !name.is_empty()) {
            Some(secret) => all.push(IngressTls {
                hosts: object.hosts.iter().flatten().map(|host| interner.shared(host)).collect(),
                secret: interner.shared(secret),
            }),
            None => faults.add(format!(
                "spec.tls[{index}] has no secretName, so no certificate; give a Secret of type kubernetes.io/tls"
            )),
        }
    }
    all
}

#[cfg(test)]
#[path = "ingress_tests.rs"]
mod tests;
