//! Services with cluster IPs as facts.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lb_userspace::diff::{Diff, Tables};
use lb_userspace::model::{
    EndpointSlice, HttpTransport, ObjectName, Protocol, Service, ServicePort, SliceEndpoint, SlicePort,
    Snapshot,
};

/// Most endpoints of a Service whose pods are no other's.
pub(crate) const ENDPOINTS: u32 = 50;

/// What the maps hold after a diff.
pub(crate) fn apply(tables: &mut Tables, diff: &Diff) {
    for op in &diff.ops {
        tables.apply(op, 0);
    }
}

/// The facts of many Services.
pub(crate) fn snapshot(services: u32, endpoints: u32) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..services {
        let (service, slice) = facts(number, endpoints);
        snapshot.services.insert(service.name.clone(), Arc::new(service));
        snapshot.endpoint_slices.insert(slice.name.clone(), Arc::new(slice));
    }
    snapshot
}

/// A Service with a cluster IP, and its one slice.
pub(crate) fn facts(number: u32, endpoints: u32) -> (Service, EndpointSlice) {
    let name = format!("service-{number}");
    let service = Service {
        resource_version: "1".into(),
        cluster_ips: vec![IpAddr::from(Ipv4Addr::from(0x0a60_0000 + number))],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            transport: HttpTransport::Http1,
        }],
        ..Service::new(ObjectName::new("bench", &name))
    };
    let node: Arc<str> = "node-b".into();
    let endpoint = |index| SliceEndpoint {
        node: Some(Arc::clone(&node)),
        ..SliceEndpoint::new(pod(number * ENDPOINTS + index))
    };
    let slice = EndpointSlice {
        name: service.name.clone(),
        service: name.as_str().into(),
        resource_version: "1".into(),
        change_trigger_unix_ms: None,
        is_headless: false,
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
    };
    (service, slice)
}

/// The address of an endpoint.
pub(crate) fn pod(index: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 + index).into()
}
