//! The name that goes with a backend service's id, so that a starting agent finds its ids again.
use std::sync::Arc;

use lb_common::backend_service::BackendServiceName as Bytes;

use crate::model::{ObjectName, Protocol};
use crate::plan::BackendServiceName;

/// Bytes of a resourceVersion that are kept.
const RESOURCE_VERSION_BYTES_MAX: usize = 40;

/// A backend service's name, with the version of the Service that it was last made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredName {
    /// The name.
    pub name: Arc<BackendServiceName>,
    /// The Service's `metadata.resourceVersion`, cut at 40 bytes.
    pub resource_version: Arc<str>,
    /// Seconds for which TCP connections to an endpoint that is withdrawn go on; none are kept for zero.
    pub drain_deadline_s: u32,
}

impl StoredName {
    /// Of a planned backend service.
    #[must_use]
    pub fn new(name: &Arc<BackendServiceName>, resource_version: &Arc<str>) -> Self {
        let resource_version = match cut(resource_version, RESOURCE_VERSION_BYTES_MAX) {
            whole if whole.len() == resource_version.len() => Arc::clone(resource_version),
            part => part.into(),
        };
        Self { name: Arc::clone(name), resource_version, drain_deadline_s: 0 }
    }

    /// With a drain contract.
    #[must_use]
    pub fn with_drain(self, drain_deadline_s: u32) -> Self {
        Self { drain_deadline_s, ..self }
    }

    /// As BACKEND_SERVICE_NAMES has it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes {
            namespace: padded(&self.name.service.namespace),
            service: padded(&self.name.service.name),
            port_name: padded(&self.name.port_name),
            resource_version: padded(&self.resource_version),
            port: self.name.port,
            protocol: self.name.protocol.number(),
            padding: 0,
            drain_deadline_s: self.drain_deadline_s,
        }
    }

    /// From a value of BACKEND_SERVICE_NAMES; `None` where it names nothing.
    #[must_use]
    pub fn of_bytes(bytes: &Bytes) -> Option<Self> {
        let service =
            ObjectName { namespace: text(&bytes.namespace)?.into(), name: text(&bytes.service)?.into() };
        if service.name.is_empty() {
            return None;
        }
        let name = BackendServiceName {
            service,
            port_name: text(&bytes.port_name)?.into(),
            port: bytes.port,
            protocol: Protocol::of_number(bytes.protocol)?,
        };
        Some(Self {
            name: Arc::new(name),
            resource_version: text(&bytes.resource_version)?.into(),
            drain_deadline_s: bytes.drain_deadline_s,
        })
    }
}

/// The longest prefix of whole characters with at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// `plan` lets no longer names through than fit.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let kept = cut(text, N);
    bytes[..kept.len()].copy_from_slice(kept.as_bytes());
    bytes
}

fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(port_name: &str, resource_version: &str) -> StoredName {
        let name = BackendServiceName {
            service: ObjectName::new("shop", "cart"),
            port_name: port_name.into(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        StoredName::new(&Arc::new(name), &resource_version.into())
    }

    #[test]
    fn names_come_back_from_their_bytes() {
        for stored in [name("http", "81").with_drain(90), name("", "")] {
            assert_eq!(StoredName::of_bytes(&stored.to_bytes()), Some(stored));
        }
    }

    #[test]
    fn a_long_resource_version_is_cut_the_same_way_each_time() {
        let stored = name("http", &"7".repeat(60));
        assert_eq!(&*stored.resource_version, "7".repeat(40));
        assert_eq!(StoredName::of_bytes(&stored.to_bytes()), Some(stored));
    }

    #[test]
    fn zero_bytes_name_nothing() {
        let zero: Bytes = bytemuck::Zeroable::zeroed();
        assert_eq!(StoredName::of_bytes(&zero), None);
    }
}
