//! An EndpointSlice as a fact.
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice as Object};

use super::{
    Converted, Faults, HEADLESS_LABEL, PROXY_NAME_LABEL, SERVICE_NAME_LABEL, annotations, label, name_of,
};
use super::{port_label, port_number, protocol};
use crate::model::{Change, EndpointSlice, SliceEndpoint, SlicePort};
use crate::source::Interner;

/// `addressType` of the slices that Podway uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The fact that an EndpointSlice stands for. `FQDN` slices, slices without a Service and those of another proxy give
/// [`Change::EndpointSliceGone`].
#[must_use]
pub fn endpoint_slice(object: &Object, interner: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("EndpointSlice", &name);
    if label(&object.metadata, PROXY_NAME_LABEL).is_some() || object.address_type == "FQDN" {
        return faults.with(Change::EndpointSliceGone(name));
    }
    let Some(service) = label(&object.metadata, SERVICE_NAME_LABEL).filter(|service| !service.is_empty())
    else {
        faults.add(format!("has no label {SERVICE_NAME_LABEL}, so it belongs to no Service"));
        return faults.with(Change::EndpointSliceGone(name));
    };
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => {
            faults.add(format!("addressType {other:?} is unknown; use IPv4 or IPv6"));
            return faults.with(Change::EndpointSliceGone(name));
        }
    };
    let service = interner.shared(service);
    let endpoints = object.endpoints.iter().flatten();
    let mut endpoints: Vec<SliceEndpoint> =
        endpoints.filter_map(|e| endpoint(e, family, interner, &mut faults)).collect();
    let of_slice = annotations::weight(&object.metadata, &mut faults);
    let of_addresses = annotations::endpoint_weights(&object.metadata, &mut faults);
    for endpoint in &mut endpoints {
        endpoint.weight = of_addresses.get(&endpoint.address).copied().or(of_slice);
    }
    let ports = object.ports.iter().flatten();
    let ports = ports.filter_map(|p| port(p, interner, &mut faults)).collect();
    let resource_version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
    faults.with(Change::EndpointSlice(EndpointSlice {
        name,
        service,
        resource_version,
        is_headless: label(&object.metadata, HEADLESS_LABEL).is_some(),
        change_trigger_unix_ms: annotations::change_trigger_unix_ms(&object.metadata),
        endpoints,
        ports,
    }))
}

/// The first address alone counts: "no consumer may use the others" (discovery/v1 `Endpoint.addresses`).
fn endpoint(
    object: &Endpoint,
    family: Family,
    interner: &mut Interner,
    faults: &mut Faults,
) -> Option<SliceEndpoint> {
    let Some(text) = object.addresses.first() else {
        faults.add("an endpoint without an address is left out".to_owned());
        return None;
    };
    let address = match address(text, family) {
        Ok(address) => address,
        Err(reason) => {
            faults.add(format!("endpoint {text:?} is left out: {reason}"));
            return None;
        }
    };
    let conditions = object.conditions.as_ref();
    let zones = object.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let nodes = object.hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    // discovery/v1 EndpointConditions: nil ready is true, nil serving is ready, nil terminating is false.
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Some(SliceEndpoint {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: object.node_name.as_deref().filter(|n| !n.is_empty()).map(|n| interner.shared(n)),
        zone: object.zone.as_deref().filter(|z| !z.is_empty()).map(|z| interner.shared(z)),
        zone_hints: zones.map(|zone| interner.shared(&zone.name)).collect(),
        node_hints: nodes.map(|node| interner.shared(&node.name)).collect(),
        weight: None,
    })
}

fn address(text: &str, family: Family) -> Result<IpAddr, &'static str> {
    let address: IpAddr = text.parse().map_err(|_| "it is not an IP address")?;
    match (address, family) {
        (IpAddr::V6(_), Family::V4) => Err("the slice's addressType is IPv4"),
        (IpAddr::V4(_), Family::V6) => Err("the slice's addressType is IPv6"),
        _ => match address.to_canonical() {
            ip if ip.is_unspecified() || ip.is_multicast() => Err("no pod can have this address"),
            IpAddr::V4(_) if family == Family::V6 => Err("it is an IPv4 address in IPv6 form"),
            ip => Ok(ip),
        },
    }
}

/// A port without a number means "all ports", which no frontend can stand for; it is left out in
/// silence, as kube-proxy does.
fn port(object: &EndpointPort, interner: &mut Interner, faults: &mut Faults) -> Option<SlicePort> {
    let number = object.port?;
    let parts = protocol(object.protocol.as_deref()).and_then(|p| Ok((p, port_number(number)?)));
    match parts {
        Ok((protocol, port)) => {
            let name = interner.shared(object.name.as_deref().unwrap_or_default());
            Some(SlicePort { name, protocol, port })
        }
        Err(reason) => {
            let label = port_label(object.name.as_deref(), Some(number));
            faults.add(format!("{label} is left out: {reason}"));
            None
        }
    }
}

#[cfg(test)]
#[path = "endpoint_slice_tests.rs"]
mod tests;
