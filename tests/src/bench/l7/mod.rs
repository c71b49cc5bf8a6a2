//! What the bench of the front-end is made of: the rules that all proxies have, the peers' configurations, and the
//! load generators with what they print. Pure, so that it is tested without any of those programs.
pub mod envoy;
pub mod h2load;
pub mod haproxy;
pub mod nginx;
pub mod rules;
pub mod wrk;

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a proxy listens, where its requests go, and its files.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where it speaks HTTP/1.1 in the clear.
    pub http: SocketAddr,
    /// Where it speaks HTTP/1.1 or HTTP/2 over TLS.
    pub https: SocketAddr,
    /// Where all requests go.
    pub upstream: SocketAddr,
    /// A folder of its own.
    pub folder: PathBuf,
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// The certificate's key, PEM.
    pub key: PathBuf,
    /// Both in one file, PEM.
    pub certificate_and_key: PathBuf,
}

/// Clients' connections that a peer must have room for, above those that the bench opens.
pub const CONNECTIONS_MAX: u32 = 12_000;
/// Unused connections to the upstream that a peer keeps: as many as Podway's front-end.
pub const KEPT_MAX: u32 = 128;
/// Time that a client's connection may be without a request, in seconds: as in Podway's front-end.
pub const IDLE_TIMEOUT_S: u32 = 610;
/// Time that an unused connection to the upstream is kept, in seconds: as in Podway's front-end.
pub const KEPT_TIMEOUT_S: u32 = 60;

#[cfg(test)]
fn places() -> Places {
    Places {
        http: "127.0.0.1:8080".parse().unwrap(),
        https: "127.0.0.1:8443".parse().unwrap(),
        upstream: "127.0.0.1:9090".parse().unwrap(),
        folder: "/run/peer".into(),
        certificate: "/run/site.crt".into(),
        key: "/run/site.key".into(),
        certificate_and_key: "/run/site.pem".into(),
    }
}
