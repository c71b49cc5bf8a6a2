//! What a front-end is told when it starts, and its bounds.
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::trace::TraceSettings;

/// The parser's buffer for a connection, bytes: heads, and the parts of bodies that are passed on.
pub(super) const HEAD_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of a request's or an answer's head; beyond them 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of a request or an answer; beyond them 431.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a request's target; beyond them 414.
pub const URI_BYTES_MAX: usize = 8 * 1024;
/// Connections of all clients; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 50_000;
/// Connections of one client (an IPv4 address, or 64 bits of an IPv6 one); further ones are closed at once. Trusted
/// proxies have no such bound.
pub const CONNECTIONS_PER_CLIENT_MAX: u32 = 2_000;
/// Open streams of an HTTP/2 connection; further ones are refused (RFC 9113 §5.1.2).
pub const STREAMS_MAX: u32 = 128;
/// Requests that a client may give up in a second on one HTTP/2 connection; beyond them the connection is closed
/// (CVE-2023-44487).
pub const RESETS_PER_SECOND_MAX: u32 = 100;
/// Time for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from a connection's begin, or from a head's first byte, to the head's end.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a client's connection may be without a request (a Google load balancer keeps it for 610 s).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(610);
/// Time without a request after which a connection gives back what it keeps to read one.
pub const PARKED_AFTER: Duration = Duration::from_millis(250);
/// Time that a client's connection of HTTP/1 that is to end may be without a request: the next one, whose answer says
/// that it is the last (RFC 9112 §9.6), may be on its way.
pub const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two pieces of a request's body.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time in which a client that is sent something must take some of it.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time in which an endpoint must accept a connection, with TLS where it is spoken.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which an unused connection to an endpoint is closed.
pub const KEPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Unused connections to one endpoint that a thread keeps; further ones are closed.
pub const KEPT_MAX: usize = 128;
/// Requests on one HTTP/2 connection to an endpoint, where its peer allows as many.
pub const STREAMS_TO_ENDPOINT_MAX: usize = 100;
/// Time that a tunnel may be without a byte in either direction.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Further tries of one request.
pub const RETRIES_MAX: u32 = 2;
/// Retries, as a percentage of requests, that a thread makes over time.
pub const RETRY_PERCENT_MAX: u32 = 20;
/// Retries that a thread may make whatever the percentage: a quiet front-end retries too.
pub const RETRY_RESERVE: u32 = 100;
/// Signals that wait to be taken; further ones are dropped and counted.
pub const SIGNALS_MAX: usize = 16_384;

/// The bounds, each with its constant as the default.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is described at the constant of its name")]
pub struct Limits {
    pub head_bytes_max: usize,
    pub headers_max: usize,
    pub uri_bytes_max: usize,
    /// Bytes of a request's body, beyond which 413; none by default.
    pub body_bytes_max: Option<u64>,
    pub connections_max: usize,
    pub connections_per_client_max: u32,
    pub streams_max: u32,
    pub resets_per_second_max: u32,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub parked_after: Duration,
    pub last_request_timeout: Duration,
    pub body_idle_timeout: Duration,
    pub write_stall_timeout: Duration,
    pub connect_timeout: Duration,
    pub kept_timeout: Duration,
    pub kept_max: usize,
    pub tunnel_idle_timeout: Duration,
    pub retries_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: HEAD_BYTES_MAX,
            headers_max: HEADERS_MAX,
            uri_bytes_max: URI_BYTES_MAX,
            body_bytes_max: None,
            connections_max: CONNECTIONS_MAX,
            connections_per_client_max: CONNECTIONS_PER_CLIENT_MAX,
            streams_max: STREAMS_MAX,
            resets_per_second_max: RESETS_PER_SECOND_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            parked_after: PARKED_AFTER,
            last_request_timeout: LAST_REQUEST_TIMEOUT,
            body_idle_timeout: BODY_IDLE_TIMEOUT,
            write_stall_timeout: WRITE_STALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            kept_timeout: KEPT_TIMEOUT,
            kept_max: KEPT_MAX,
            tunnel_idle_timeout: TUNNEL_IDLE_TIMEOUT,
            retries_max: RETRIES_MAX,
        }
    }
}

/// Whether an answer that the front-end makes itself says why in `x-podway-reason`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasonHeader {
    /// It does.
    #[default]
    Sent,
    /// It does not.
    Withheld,
}

/// Addresses that are believed: what `X-Forwarded-*`, `Forwarded` and `X-Request-Id` say, or a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Any address of the prefix.
    pub address: IpAddr,
    /// Leading bits that are compared.
    pub length_bits: u8,
}

impl Prefix {
    /// Whether `address` lies in it; an IPv4-mapped address is its IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.length_bits.min(32));
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.length_bits.min(128));
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What a front-end is told when it starts.
#[derive(Default)]
pub struct Settings {
    /// Threads that serve; 0 for one per core.
    pub threads: usize,
    /// The bounds.
    pub limits: Limits,
    /// Clients that are believed.
    pub trusted_proxies: Vec<Prefix>,
    /// Peers that may pass connections on with a PROXY header.
    pub proxy_protocol_from: Vec<Prefix>,
    /// Whether own answers say why.
    pub reason_header: ReasonHeader,
    /// The key that signs affinity cookies: the same for all front-ends that serve the same clients.
    pub affinity_key: [u8; 32],
    /// Where the lines of the access log go; without it none are made.
    pub access_log: Option<Box<dyn Write + Send>>,
    /// How requests are traced; without it none is.
    pub traces: Option<TraceSettings>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_the_addresses_that_begin_as_it_does() {
        let has = |prefix: &str, length_bits, address: &str| {
            let prefix = Prefix { address: prefix.parse().expect("an address"), length_bits };
            prefix.contains(address.parse().expect("an address"))
        };
        assert!(has("192.0.2.0", 24, "192.0.2.255"));
        assert!(!has("192.0.2.0", 24, "192.0.3.0"));
        assert!(has("192.0.2.7", 32, "::ffff:192.0.2.7"));
        assert!(!has("192.0.2.7", 32, "192.0.2.6"));
        assert!(has("0.0.0.0", 0, "203.0.113.1"));
        assert!(!has("0.0.0.0", 0, "2001:db8::1"));
        assert!(has("2001:db8::", 32, "2001:db8:1::1"));
        assert!(has("::", 0, "2001:db8::1"));
        assert!(!has("2001:db8::", 33, "2001:db8:8000::"));
    }
}
