//! Connections that others pass on, with a PROXY header that says whose they are.
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::counters::count;
use super::worker::Worker;
use crate::l7::proxy_protocol::{
    Header, HeaderFault, PREFIX_BYTES, V1_BYTES_MAX, V2_FIXED_BYTES, header, parse_v1, parse_v2,
    v2_rest_bytes, version,
};
use crate::model::{ProxyVersion, ProxyVersions};

/// Who opened a connection, and what was dialled: as the header says where the listener `place` wants one, else as the
/// socket does. `None`: the connection is refused.
pub(super) async fn ends(
    worker: &Worker,
    place: SocketAddr,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Option<(SocketAddr, SocketAddr)> {
    let local = stream.local_addr().ok()?;
    let versions = worker.snapshot().listeners.get(&place)?.proxied;
    let Some(versions) = versions else { return Some((peer, local)) };
    let shared = &worker.shared;
    let told = if shared.may_pass_on(peer.ip()) {
        timeout(shared.settings.limits.header_timeout, read(stream, versions)).await
    } else {
        Ok(Err(io::Error::other("the peer is not among those that may pass connections on")))
    };
    let refused: io::Error = match told {
        Ok(Ok(Header::Own)) => return Some((peer, local)),
        Ok(Ok(Header::Passed { source, destination })) => return Some((source, destination)),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    tracing::debug!(%peer, error = %refused, "a connection without a good PROXY header is refused");
    count(&shared.totals.proxy_headers_refused);
    None
}

/// Reads a header and not a byte more.
async fn read(stream: &mut TcpStream, versions: ProxyVersions) -> io::Result<Header> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let version = version(&prefix).map_err(io::Error::other)?;
    if !versions.has(version) {
        return Err(io::Error::other(HeaderFault::OtherVersion));
    }
    let mut bytes = prefix.to_vec();
    match version {
        ProxyVersion::V1 => {
            while !bytes.ends_with(b"\n") {
                if bytes.len() == V1_BYTES_MAX {
                    return Err(io::Error::other(HeaderFault::TooLong));
                }
                bytes.push(stream.read_u8().await?);
            }
            parse_v1(&bytes).map_err(io::Error::other)
        }
        ProxyVersion::V2 => {
            let mut fixed = [0; V2_FIXED_BYTES];
            fixed[..PREFIX_BYTES].copy_from_slice(&prefix);
            stream.read_exact(&mut fixed[PREFIX_BYTES..]).await?;
            bytes = fixed.to_vec();
            bytes.resize(V2_FIXED_BYTES + v2_rest_bytes(&fixed).map_err(io::Error::other)?, 0);
            stream.read_exact(&mut bytes[V2_FIXED_BYTES..]).await?;
            parse_v2(&bytes).map_err(io::Error::other)
        }
    }
}

/// For whom a connection to an endpoint is, where its header says so: it carries no other client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Announced {
    pub(super) version: ProxyVersion,
    pub(super) client: SocketAddr,
    /// What the client dialled.
    pub(super) local: SocketAddr,
}

impl Announced {
    /// Writes the header, before TLS and all else.
    pub(super) async fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&header(self.version, self.client, self.local)).await
    }
}
