//! What requests tell of endpoints, for whoever judges their health.
use std::net::SocketAddr;
use std::sync::Arc;

use crate::health::Signal;

/// How a request to an endpoint came out. An answer is told only where the signal before was a failure: all others are
/// in `answered` of the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSignal {
    /// The backend service's name.
    pub backend_service: Arc<str>,
    /// The endpoint's address.
    pub endpoint: SocketAddr,
    /// How it fared.
    pub signal: Signal,
    /// Answers without a fault since the signal before, this one's own included.
    pub answered: u32,
    /// When the request began, milliseconds of the monotonic clock.
    pub began_ms: u64,
}
