//! How the desired state is written: JSON with stable names, which scripts and tests read.
use lb_common::frontend::FrontendKey;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::model::{CheckKind, HealthCheck, HttpTransport, NegType, Protocol};

use super::{
    BackendService, BackendServiceName, Desired, Endpoint, Frontend, Neg, NodePortEndpoint, NodePortNeg,
    NodePorts, kind_name, neg_kind_name,
};

/// A frontend as text: `10.96.0.1:80/TCP`, `[fd00::1]:80/TCP`.
pub(crate) fn frontend_text(frontend: &Frontend) -> String {
    format!("{}/{}", socket_text(frontend.address, frontend.port), frontend.protocol)
}

/// A frontend's key as text.
pub(crate) fn frontend_key_text(key: &FrontendKey) -> String {
    let place = socket_text(key.address.into(), key.port.get());
    match u8::try_from(key.protocol).ok().and_then(Protocol::of_number) {
        Some(protocol) => format!("{place}/{protocol}"),
        None => format!("{place}/{}", key.protocol),
    }
}

/// An address and port as text; IPv6 in brackets.
pub(crate) fn socket_text(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

impl Serialize for BackendServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Frontend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Frontend", 11)?;
        out.serialize_field("address", &self.address)?;
        out.serialize_field("port", &self.port)?;
        out.serialize_field("protocol", &self.protocol)?;
        out.serialize_field("kind", kind_name(self.kind))?;
        out.serialize_field("backendService", &*self.backend_service)?;
        out.serialize_field("negInternal", &self.neg_internal)?;
        out.serialize_field("negExternal", &self.neg_external)?;
        out.serialize_field("emptyInternal", &self.empty_internal)?;
        out.serialize_field("emptyExternal", &self.empty_external)?;
        out.serialize_field("checksSource", &self.checks_source)?;
        out.serialize_field("externalMode", &self.external_mode)?;
        out.end()
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Endpoint", 8)?;
        out.serialize_field("address", &self.address)?;
        out.serialize_field("port", &self.port)?;
        out.serialize_field("node", &self.node())?;
        out.serialize_field("zone", &self.zone())?;
        out.serialize_field("state", &self.state())?;
        out.serialize_field("local", &self.is_local)?;
        out.serialize_field("weight", &self.weight)?;
        out.serialize_field("slice", &SliceText(self))?;
        out.end()
    }
}

struct SliceText<'a>(&'a Endpoint);

impl Serialize for SliceText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Slice", 2)?;
        out.serialize_field("name", &self.0.slice.name.name)?;
        out.serialize_field("resourceVersion", &self.0.slice.resource_version)?;
        out.end()
    }
}

struct NegText<'a>(&'a BackendService, &'a Neg);

impl Serialize for NegText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(service, neg) = self;
        let members: Vec<String> = neg
            .members
            .iter()
            .map(|index| &service.endpoints[*index as usize])
            .map(|endpoint| socket_text(endpoint.address, endpoint.port))
            .collect();
        let mut out = serializer.serialize_struct("Neg", 5)?;
        out.serialize_field("type", NegType::Pod.name())?;
        out.serialize_field("kind", neg_kind_name(neg.kind))?;
        out.serialize_field("panic", &neg.is_panic)?;
        out.serialize_field("members", &members)?;
        out.serialize_field("ringLength", &neg.ring_length)?;
        out.end()
    }
}

struct NodePortNegText<'a>(&'a NodePortNeg);

impl Serialize for NodePortNegText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members: Vec<String> =
            self.0.members().map(|endpoint| socket_text(endpoint.address, endpoint.port)).collect();
        let mut out = serializer.serialize_struct("Neg", 4)?;
        out.serialize_field("type", NegType::NodePort.name())?;
        out.serialize_field("kind", self.0.kind_name())?;
        out.serialize_field("panic", &self.0.is_panic)?;
        out.serialize_field("members", &members)?;
        out.end()
    }
}

impl Serialize for NodePortEndpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Endpoint", 6)?;
        out.serialize_field("address", &self.address)?;
        out.serialize_field("port", &self.port)?;
        out.serialize_field("node", &self.node)?;
        out.serialize_field("zone", &self.zone)?;
        out.serialize_field("state", &self.state())?;
        out.serialize_field("local", &self.is_local)?;
        out.end()
    }
}

/// The nodes that requests go to: only a backend service that has some has the field.
struct NodePortsText<'a>(&'a NodePorts);

impl Serialize for NodePortsText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let endpoints: Vec<&NodePortEndpoint> = self.0.endpoints().collect();
        let negs: Vec<NodePortNegText<'_>> = self.0.negs.iter().map(NodePortNegText).collect();
        let mut out = serializer.serialize_struct("NodePorts", 4)?;
        out.serialize_field("port", &self.0.port)?;
        out.serialize_field("healthCheck", &self.0.check.as_deref().map(HealthCheckText))?;
        out.serialize_field("endpoints", &endpoints)?;
        out.serialize_field("negs", &negs)?;
        out.end()
    }
}

struct HealthCheckText<'a>(&'a HealthCheck);

impl Serialize for HealthCheckText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("HealthCheck", 10)?;
        out.serialize_field("type", self.0.kind.name())?;
        out.serialize_field("port", &self.0.port)?;
        match &self.0.kind {
            CheckKind::Tcp => {}
            CheckKind::Http { path, host, expected_codes, .. } => {
                out.serialize_field("path", path)?;
                out.serialize_field("host", host)?;
                out.serialize_field("expectedCodes", &codes_text(expected_codes))?;
            }
            CheckKind::Grpc { service, .. } => out.serialize_field("grpcService", service)?,
        }
        out.serialize_field("intervalMilliseconds", &self.0.interval_ms)?;
        out.serialize_field("timeoutMilliseconds", &self.0.timeout_ms)?;
        out.serialize_field("healthyThreshold", &self.0.healthy_threshold)?;
        out.serialize_field("unhealthyThreshold", &self.0.unhealthy_threshold)?;
        out.end()
    }
}

fn codes_text(ranges: &[(u16, u16)]) -> String {
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// How requests reach an endpoint, as `appProtocol` of GKE would say it.
pub(crate) const fn transport_name(transport: HttpTransport) -> &'static str {
    match transport {
        HttpTransport::Http1 => "HTTP",
        HttpTransport::Https => "HTTPS",
        HttpTransport::Http2 => "HTTP2",
        HttpTransport::H2c => "H2C",
    }
}

impl Serialize for BackendService {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let negs: Vec<NegText<'_>> = self.negs.iter().map(|neg| NegText(self, neg)).collect();
        let ranges: Vec<String> =
            self.source_ranges.iter().map(|(network, bits)| format!("{network}/{bits}")).collect();
        let mut out = serializer.serialize_struct("BackendService", 12)?;
        out.serialize_field("name", &*self.name)?;
        out.serialize_field("resourceVersion", &self.resource_version)?;
        out.serialize_field("affinityTimeoutSeconds", &self.affinity_timeout_s)?;
        out.serialize_field("healthCheck", &self.health_check.as_deref().map(HealthCheckText))?;
        out.serialize_field("healthPolicy", &self.health_policy)?;
        out.serialize_field("transport", transport_name(self.transport))?;
        if let Some(version) = self.proxy_protocol {
            out.serialize_field("proxyProtocol", version.name())?;
        }
        out.serialize_field("http", &*self.http)?;
        out.serialize_field("drain", &self.drain)?;
        out.serialize_field("sourceRanges", &ranges)?;
        out.serialize_field("endpoints", &self.endpoints)?;
        out.serialize_field("negs", &negs)?;
        if let Some(nodes) = &self.node_ports {
            out.serialize_field("nodePorts", &NodePortsText(nodes))?;
        }
        out.end()
    }
}

impl Serialize for Desired {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frontends: Vec<&Frontend> = self.frontends().map(|chain| chain.frontend).collect();
        let backend_services: Vec<&BackendService> = self.backend_services().collect();
        let mut out = serializer.serialize_struct("Desired", 4)?;
        out.serialize_field("frontends", &frontends)?;
        out.serialize_field("backendServices", &backend_services)?;
        out.serialize_field("urlMaps", self.url_maps().maps())?;
        out.serialize_field("problems", &self.problems())?;
        out.end()
    }
}
