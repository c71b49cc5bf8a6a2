//! Kubernetes objects to facts: one pure function for each kind. A part of an object that cannot be
//! used is left out and named in a [`Problem`]; the rest of the object goes on.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Change, ObjectName, Problem, Protocol};

mod annotations;
mod app_protocol;
mod backend_config;
mod endpoint_slice;
mod fields;
mod frontend_config;
mod health_check;
mod health_policy;
mod http_policy;
mod ingress;
mod ingress_class;
mod load_balancer;
mod load_balancer_pool;
mod neg;
mod node;
mod pod;
mod proxy_protocol;
mod secret;
mod service;
mod service_cidr;
mod tls_policy;

pub use backend_config::{BackendConfigObject, backend_config};
pub use endpoint_slice::endpoint_slice;
pub use frontend_config::{FrontendConfigObject, frontend_config};
pub use ingress::ingress;
pub use ingress_class::ingress_class;
pub use load_balancer_pool::{LoadBalancerPoolObject, load_balancer_pool};
pub use neg::{NEG_STATUS, NEG_STATUS_WRITER};
pub use node::node;
pub use pod::pod;
pub use secret::secret;
pub use service::service;
pub use service_cidr::service_cidr;

/// Marks an object that another proxy than the node's serves: kube-proxy leaves such objects alone,
/// and so does Podway (kubernetes `cmd/kube-proxy/app/server.go`, `LabelServiceProxyName`).
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Marks the slices of a headless Service. kube-proxy reads no object with it (kubernetes
/// `cmd/kube-proxy/app/server.go`, `IsHeadlessService`); here such slices are for headless Services alone.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Names the Service of an EndpointSlice (KEP-752).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Most faults of one object that are named one by one; the others are counted in one more.
const PROBLEMS_PER_OBJECT_MAX: usize = 16;

/// An object as the fact it stands for, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The fact, or that the object is none of ours.
    pub change: Change,
    /// What was left out, and why.
    pub problems: Vec<Problem>,
}

/// Collects the faults of one object, up to [`PROBLEMS_PER_OBJECT_MAX`].
struct Faults {
    kind: &'static str,
    object: ObjectName,
    problems: Vec<Problem>,
    more: usize,
}

impl Faults {
    fn of(kind: &'static str, object: &ObjectName) -> Self {
        Self { kind, object: object.clone(), problems: Vec::new(), more: 0 }
    }

    fn add(&mut self, message: String) {
        if self.problems.len() < PROBLEMS_PER_OBJECT_MAX {
            self.problems.push(self.problem(message));
        } else {
            self.more += 1;
        }
    }

    fn problem(&self, message: String) -> Problem {
        Problem { kind: self.kind, object: self.object.clone(), message }
    }

    fn with(mut self, change: Change) -> Converted {
        if self.more > 0 {
            let rest = self.problem(format!("and {} more faults of this object", self.more));
            self.problems.push(rest);
        }
        Converted { change, problems: self.problems }
    }
}

fn name_of(meta: &ObjectMeta) -> ObjectName {
    ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// `metadata.uid`; empty from a manifest without one.
fn uid_of(meta: &ObjectMeta) -> std::sync::Arc<str> {
    meta.uid.as_deref().unwrap_or_default().into()
}

fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(name).map(String::as_str)
}

/// `protocol`, absent for TCP. `Err` says why the port is left out.
fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(format!("protocol {other:?} is unknown; use TCP, UDP or SCTP")),
    }
}

/// A port that a client can dial (RFC 6335 §6 reserves port 0).
fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("port number {number} is not between 1 and 65535")),
    }
}

/// How a port is named to the user: its name where it has one, and its number.
fn port_label(name: Option<&str>, number: Option<i32>) -> String {
    match (name.unwrap_or_default(), number) {
        ("", None) => "unnamed port".to_owned(),
        ("", Some(number)) => format!("port {number}"),
        (name, None) => format!("port {name:?}"),
        (name, Some(number)) => format!("port {name:?} ({number})"),
    }
}

/// An address prefix, as written.
fn prefix(text: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}
