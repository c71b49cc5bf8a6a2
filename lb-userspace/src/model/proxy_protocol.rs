//! Which PROXY protocol is spoken (HAProxy, "The PROXY protocol", proxy-protocol.txt).
use serde::{Deserialize, Serialize};

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The versions with which connections to an address may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersions {
    /// That one alone.
    One(ProxyVersion),
    /// Either.
    Any,
}

impl ProxyVersion {
    /// As annotations name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The version of that name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|version| version.name() == text)
    }
}

impl ProxyVersions {
    /// As the annotation names them.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::One(version) => version.name(),
            Self::Any => "any",
        }
    }

    /// The versions of that name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        if text == "any" { Some(Self::Any) } else { ProxyVersion::named(text).map(Self::One) }
    }

    /// Whether a connection may begin with that version.
    #[must_use]
    pub fn has(self, version: ProxyVersion) -> bool {
        self == Self::Any || self == Self::One(version)
    }
}
