//! What is known of the client's side of a connection.
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;

use super::client_certificate::ClientCertificate;
use crate::model::{ClientVerify, TlsVersion};

/// TLS between a client and the front-end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFacts {
    /// The host name that the client asked for (RFC 6066 §3).
    pub(super) server_name: Option<String>,
    /// The version.
    pub(super) version_number: TlsVersion,
    /// As `TLS13_AES_256_GCM_SHA384`.
    pub(super) cipher: &'static str,
    /// By which authority the client was verified, and whether it had to be.
    pub(super) verified_by: Option<(Arc<str>, ClientVerify)>,
    /// What it showed.
    pub(super) certificate: Option<ClientCertificate>,
}

impl TlsFacts {
    /// As `TLSv1.3`.
    pub(super) const fn version(&self) -> &'static str {
        match self.version_number {
            TlsVersion::V1_2 => "TLSv1.2",
            TlsVersion::V1_3 => "TLSv1.3",
        }
    }
}

/// A connection of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    /// The address that the client dialled.
    pub(super) local: SocketAddr,
    /// None in the clear.
    pub(super) tls: Option<TlsFacts>,
    /// Whether what it says about those before it is believed.
    pub(super) is_trusted: bool,
    /// The peer's address as fields carry it: made once for all requests.
    pub(super) address_text: HeaderValue,
    pub(super) port_text: HeaderValue,
    /// What was last made of a host.
    pub(super) hosted: RefCell<Option<Hosted>>,
    pub(super) told: RefCell<Option<Told>>,
}

/// What is made of a host once for all the requests in a row that are for it.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) host: HeaderValue,
    /// The element of `Forwarded`.
    pub(super) forwarded: HeaderValue,
}

/// All fields that say who asks, as bytes, and the host that they were made for.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) host: Box<str>,
    pub(super) fields: Box<[u8]>,
}

impl Client {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, tls: Option<TlsFacts>, is_trusted: bool) -> Self {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let (address_text, port_text) = (text(peer.ip()), local.port().into());
        Self {
            peer,
            local,
            tls,
            is_trusted,
            address_text,
            port_text,
            hosted: RefCell::default(),
            told: RefCell::default(),
        }
    }

    pub(super) const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Digits, points and colons are a field's value.
pub(super) fn text(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}
