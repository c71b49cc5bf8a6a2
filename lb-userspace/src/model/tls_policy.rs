//! What hosts ask of TLS and of their clients.
use serde::{Deserialize, Serialize};

use super::ObjectName;

/// A version of TLS; earlier ones than these are never served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsVersion {
    /// As annotations name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }

    /// The version of that name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        [Self::V1_2, Self::V1_3].into_iter().find(|version| version.name() == text)
    }
}

/// Which clients are let in where their certificates are verified, the stricter one first. A certificate that is shown
/// and does not hold is refused in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientVerify {
    /// Those that show a certificate.
    Require,
    /// Those that show none, too.
    Optional,
}

impl ClientVerify {
    /// As the annotation names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Optional => "optional",
        }
    }
}

/// How the clients of an Ingress's hosts are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientVerification {
    /// The Secret whose `ca.crt` signs clients' certificates.
    pub secret: ObjectName,
    /// Which clients are let in.
    pub verify: ClientVerify,
}
