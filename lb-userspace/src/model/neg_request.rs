//! What a Service asks of the NEGs that its ports are exposed by, in GKE's words.
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What the endpoints of a NEG are that requests go to, in GKE's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum NegType {
    /// Pod IPs and the container's port.
    #[default]
    #[serde(rename = "GCE_POD")]
    #[value(name = "GCE_POD")]
    Pod,
    /// Node IPs and the node port of the Service's port.
    #[serde(rename = "GCE_VM_IP_PORT")]
    #[value(name = "GCE_VM_IP_PORT")]
    NodePort,
}

impl NegType {
    /// Its word in annotations and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "GCE_POD",
            Self::NodePort => "GCE_VM_IP_PORT",
        }
    }
}

/// From the annotation `cloud.google.com/neg`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegRequest {
    /// Whether all ports have NEGs, for Ingresses.
    pub is_for_ingress: bool,
    /// Service ports that have NEGs of their own, with the name where one is asked for.
    pub exposed_ports: BTreeMap<u16, Option<Arc<str>>>,
}

/// The annotation `cloud.google.com/neg-status` as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegStatus {
    /// Its text; `None` where there is none.
    pub text: Option<Arc<str>>,
    /// Whether an agent wrote it. One that another controller wrote stays.
    pub is_ours: bool,
}
