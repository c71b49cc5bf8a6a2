//! `podway doctor`: what of this node stands in the way of forwarding, with the remedy.
//!
//! [`Facts`] are read once, with all I/O; the checks are pure over them.
use std::fmt;

use serde::Serialize;

mod checks;
mod facts;
mod host_checks;
mod interface_checks;
#[cfg(test)]
mod tests;

pub use facts::{
    AgentFacts, ConfigFacts, Facts, Interface, KubeProxyFacts, MapFacts, PinFacts, Place, Role, Sysctls,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and less well than it could, or not for all.
    Warn,
    /// Packets are lost, or the agent does not start.
    Fail,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// What a check found. JSON field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// The interface, map or program that it is about; `None` for the node as a whole.
    pub subject: Option<String>,
    /// How it came out.
    pub result: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do; `None` where there is nothing to do.
    pub remedy: Option<String>,
}

/// What a check says, before its name is put to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    subject: Option<String>,
    result: Grade,
    seen: String,
    remedy: Option<String>,
}

impl Said {
    fn ok(seen: impl Into<String>) -> Self {
        Self { subject: None, result: Grade::Ok, seen: seen.into(), remedy: None }
    }

    fn warn(seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Grade::Warn, remedy: Some(remedy.into()), ..Self::ok(seen) }
    }

    fn fail(seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Grade::Fail, remedy: Some(remedy.into()), ..Self::ok(seen) }
    }

    fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }
}

/// What all checks find, in the order in which they are listed.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let said =
        checks::ALL.iter().flat_map(|(check, look)| look(facts).into_iter().map(move |said| (*check, said)));
    said.map(|(check, Said { subject, result, seen, remedy })| Finding {
        check,
        subject,
        result,
        seen,
        remedy,
    })
    .collect()
}
