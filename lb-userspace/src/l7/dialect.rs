//! What the texts of a rule mean, in the words of the Ingress specification or in those of Google's load balancers.
//!
//! | | `spec` | `gce` |
//! | --- | --- | --- |
//! | host `*.foo.com` | one label for `*` (Ingress, "Hostname wildcards") | one label or more (URL maps, "Host rules") |
//! | `ImplementationSpecific` `/foo` | as `Prefix`, which the API leaves open | `/foo` alone (URL maps, "Path rules") |
//! | `ImplementationSpecific` `/foo/*` | what begins with `/foo/` | what begins with `/foo/` |
//! | `ImplementationSpecific` without a path | all | all |
use std::net::IpAddr;

use crate::model::{Dialect, PathType};

use super::host::check_name;
use super::{HostFault, HostPattern, NormalPath, PathFault, PathPattern};

/// Why a rule cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// No request has such a host.
    #[error(transparent)]
    Host(HostFault),
    /// The API allows names alone.
    #[error("the host is an address")]
    HostIsAddress,
    /// No request has such a path.
    #[error(transparent)]
    Path(PathFault),
    /// An element is empty or a dot, which no request keeps; the API refuses it too.
    #[error("the path has an element that is empty, `.` or `..`")]
    NotNormal,
    /// Rules are for paths alone.
    #[error("the path has a query")]
    Query,
    /// `*` elsewhere than in `/*` at the end.
    #[error("the path has a `*` that is not its last element")]
    Star,
}

/// The hosts of a rule; an empty text is all of them.
///
/// # Errors
/// The rule is left out.
pub fn host_pattern(text: &str, dialect: Dialect) -> Result<HostPattern, RuleFault> {
    if text.is_empty() {
        return Ok(HostPattern::Any);
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(RuleFault::HostIsAddress);
    }
    let name = text.to_ascii_lowercase();
    let (name, to_pattern): (&str, fn(Box<str>) -> HostPattern) = match (name.strip_prefix("*."), dialect) {
        (None, _) => (&name, HostPattern::Exact),
        (Some(rest), Dialect::Spec) => (rest, HostPattern::OneLabel),
        (Some(rest), Dialect::Gce) => (rest, HostPattern::Labels),
    };
    check_name(name).map_err(RuleFault::Host)?;
    Ok(to_pattern(name.into()))
}

/// The paths of a rule.
///
/// # Errors
/// The rule is left out.
pub fn path_pattern(path_type: PathType, text: &str, dialect: Dialect) -> Result<PathPattern, RuleFault> {
    match path_type {
        PathType::Exact => Ok(PathPattern::exact(&path(text)?)),
        PathType::Prefix => Ok(PathPattern::prefix(&path(text)?)),
        PathType::ImplementationSpecific if text.is_empty() => Ok(PathPattern::Prefix("/".into())),
        PathType::ImplementationSpecific => implementation_specific(text, dialect),
    }
}

fn implementation_specific(text: &str, dialect: Dialect) -> Result<PathPattern, RuleFault> {
    let below = text.strip_suffix('*').filter(|rest| rest.ends_with('/'));
    if below.unwrap_or(text).contains('*') {
        return Err(RuleFault::Star);
    }
    match (below, dialect) {
        (Some(rest), _) => Ok(PathPattern::below(&path(rest)?)),
        (None, Dialect::Spec) => Ok(PathPattern::prefix(&path(text)?)),
        (None, Dialect::Gce) => Ok(PathPattern::exact(&path(text)?)),
    }
}

fn path(text: &str) -> Result<NormalPath<'_>, RuleFault> {
    if text.contains('?') {
        return Err(RuleFault::Query);
    }
    let path = NormalPath::of(text).map_err(RuleFault::Path)?;
    let shape = |text: &str| (text.matches('/').count(), text.ends_with('/'));
    if shape(path.as_str()) == shape(text) { Ok(path) } else { Err(RuleFault::NotNormal) }
}

#[cfg(test)]
#[path = "dialect_tests.rs"]
mod tests;
