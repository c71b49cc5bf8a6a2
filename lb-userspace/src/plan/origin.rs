//! Where a value came from.
use std::sync::Arc;

use serde::Serialize;

use crate::model::ObjectName;

/// The Kubernetes object that a value was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Kind, as in its manifest.
    pub kind: &'static str,
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.object)?;
        if self.resource_version.is_empty() {
            return Ok(());
        }
        write!(f, " at resourceVersion {}", self.resource_version)
    }
}
