//! Facts for tests, with the defaults of a small Service.
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    EndpointSlice, HttpTransport, ObjectName, Protocol, Service, ServicePort, SliceEndpoint, SlicePort,
};

use super::NodeContext;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port,
        node_port: None,
        transport: HttpTransport::Http1,
    }
}

/// `shop/NAME` with one cluster IP and the port 80, named http.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Service {
    Service {
        resource_version: "7".into(),
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![port("http", 80)],
        ..Service::new(ObjectName::new("shop", name))
    }
}

/// A ready endpoint.
pub(crate) fn ready(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint { node: Some(node.into()), ..SliceEndpoint::new(ip(address)) }
}

/// An endpoint that terminates and still serves.
pub(crate) fn terminating(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint { ready: false, terminating: true, ..ready(address, node) }
}

/// An endpoint that is not ready.
pub(crate) fn unready(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint { ready: false, serving: false, ..ready(address, node) }
}

/// The slice `shop/NAME` of the Service `shop/SERVICE`, with the port http at 8080.
pub(crate) fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> Arc<EndpointSlice> {
    Arc::new(EndpointSlice {
        name: ObjectName::new("shop", name),
        service: service.into(),
        resource_version: "11".into(),
        change_trigger_unix_ms: None,
        is_headless: false,
        endpoints,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    })
}

/// node-a, with an address of each family and a loopback one.
pub(crate) fn node() -> NodeContext {
    NodeContext {
        name: "node-a".into(),
        addresses: vec![ip("198.51.100.1"), ip("2001:db8:1::1"), ip("127.0.0.1")],
        zone: Some("zone-1".into()),
        ..NodeContext::default()
    }
}
