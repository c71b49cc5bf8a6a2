//! Why a probe came out as it did, in words that stay the same.
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::Outcome;

/// The kind of what a probe saw. The names are the ones that commands print and metrics carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// The endpoint is well.
    Passed,
    /// The endpoint's host refused the connection.
    ConnectRefused,
    /// No connection came about within the check's timeout.
    ConnectTimeout,
    /// A router, or this node, knows no way to the endpoint.
    Unreachable,
    /// The connection failed otherwise.
    ConnectFailed,
    /// Connected, but there was no whole answer within the check's timeout.
    Timeout,
    /// TLS did not come about.
    Tls,
    /// The endpoint hung up, or said what is not the check's protocol.
    Protocol,
    /// An HTTP code that the check does not expect.
    WrongCode,
    /// A gRPC call that failed.
    GrpcStatus,
    /// The endpoint says over gRPC that it is not serving.
    GrpcNotServing,
    /// This node could not ask, for want of a descriptor, a port or memory; says nothing about the endpoint.
    NodeFault,
}

impl ReasonCode {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::Passed,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::Unreachable,
        Self::ConnectFailed,
        Self::Timeout,
        Self::Tls,
        Self::Protocol,
        Self::WrongCode,
        Self::GrpcStatus,
        Self::GrpcNotServing,
        Self::NodeFault,
    ];

    /// The name that never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::ConnectRefused => "connect-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Unreachable => "unreachable",
            Self::ConnectFailed => "connect-failed",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::WrongCode => "wrong-code",
            Self::GrpcStatus => "grpc-status",
            Self::GrpcNotServing => "grpc-not-serving",
            Self::NodeFault => "node-fault",
        }
    }

    /// What it says of the endpoint; a fault of this node says nothing.
    #[must_use]
    pub const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Passed => Some(Outcome::Passed),
            Self::NodeFault => None,
            _ => Some(Outcome::Failed),
        }
    }
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) code: ReasonCode,
    /// The endpoint's own words, or the kernel's.
    pub(super) detail: String,
}

impl Display for Seen {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.code {
            ReasonCode::Passed => out.write_str(&self.detail),
            code => write!(out, "{}: {}", code.name(), self.detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_stable_names() {
        let names: Vec<&str> = ReasonCode::ALL.map(ReasonCode::name).into();
        assert_eq!(
            serde_json::to_string(&ReasonCode::ALL).expect("text"),
            serde_json::to_string(&names).expect("text")
        );
        assert_eq!(names[1], "connect-refused");
    }

    #[test]
    fn a_fault_of_this_node_is_no_outcome() {
        assert_eq!(ReasonCode::Passed.outcome(), Some(Outcome::Passed));
        assert_eq!(ReasonCode::Timeout.outcome(), Some(Outcome::Failed));
        assert_eq!(ReasonCode::NodeFault.outcome(), None);
    }
}
