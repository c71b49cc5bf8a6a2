//! BACKEND_SERVICES: the policies of one Service port; and the names that go with its id.
use bytemuck::{Pod, Zeroable};

/// Value of BACKEND_SERVICES, an array by backend-service id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct BackendService {
    /// Bits of [`flags`].
    pub flags: u32,
    /// Seconds for which a client keeps its endpoint after its last new flow
    /// (`sessionAffinityConfig.clientIP.timeoutSeconds`); read only with [`flags::AFFINITY_CLIENT_IP`].
    pub affinity_timeout_s: u32,
}

const _: () = assert!(size_of::<BackendService>() == 8);

/// Bits of [`BackendService::flags`].
pub mod flags {
    /// The id is in use.
    pub const PRESENT: u32 = 1 << 0;
    /// `sessionAffinity: ClientIP`.
    pub const AFFINITY_CLIENT_IP: u32 = 1 << 1;
}

impl BackendService {
    /// The affinity timeout in seconds where the service has client affinity.
    #[must_use]
    #[inline(always)]
    pub const fn affinity_timeout_s(&self) -> Option<u32> {
        if self.flags & flags::AFFINITY_CLIENT_IP != 0 { Some(self.affinity_timeout_s) } else { None }
    }
}

/// Longest DNS label (RFC 1123 §2.1): the bound on namespace, Service and port names.
pub const LABEL_BYTES_MAX: usize = 63;

/// Value of BACKEND_SERVICE_NAMES, an array by backend-service id: what the id stands for. It lets
/// an agent that starts find its ids again, and every command name objects with no agent running.
///
/// Text is UTF-8, padded with zero bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendServiceName {
    /// The Service's namespace.
    pub namespace: [u8; 64],
    /// The Service's name.
    pub service: [u8; 64],
    /// `spec.ports[].name`, empty for an unnamed port.
    pub port_name: [u8; 64],
    /// The Service's `metadata.resourceVersion` at the last change; cut at 40 bytes.
    pub resource_version: [u8; 40],
    /// `spec.ports[].port`, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: u8,
    /// Seconds for which TCP connections to an endpoint that is withdrawn go on. Kept here since the drain
    /// of a Service's endpoints outlives the Service.
    pub drain_deadline_s: u32,
}

const _: () = assert!(size_of::<BackendServiceName>() == 240);
