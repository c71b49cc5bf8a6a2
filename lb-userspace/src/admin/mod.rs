//! What a running agent knows and the maps do not hold, for the commands of the same node: a socket in the
//! agent's run directory.
//!
//! A client writes one [`Request`] as a line of JSON and reads lines of [`Line`] until [`Line::End`]; an answer
//! without it is not whole. Only root and the agent's own user are answered.
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attach::ServedInterface;
use crate::health::{ProbingStats, TargetHealth};

mod client;
mod server;

pub use client::{facts, health, interfaces, probing, requests, url_maps};
pub use server::{Answer, FactsQuestion, Interfaces, Known, RequestCounts, Server};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// What probes have found of all targets, or of one backend service's, by its name.
    Health {
        /// The name.
        backend_service: Option<String>,
    },
    /// What probing amounts to.
    Probing,
    /// The interfaces that are served, and how.
    Interfaces,
    /// How many requests the front-end has answered, by backend service.
    Requests,
    /// All facts that the plan is made from, without Secrets.
    Facts,
    /// The node, for the agent that asks: its answer is no [`Line`], and the agent that is asked has it no more.
    TakeOver,
    /// What a command wants to know of URL maps.
    UrlMaps {
        /// The question, in the words of the command.
        question: serde_json::Value,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// A target.
    Health(TargetHealth),
    /// The sum of all probing.
    Probing(ProbingStats),
    /// An interface.
    Interface(ServedInterface),
    /// The requests of a backend service.
    Requests(ServiceRequests),
    /// What the command shall print, or a part of it that it knows how to read.
    Text(String),
    /// Nothing more comes, since the request cannot be answered.
    Error(String),
    /// All was said.
    End,
}

/// What a front-end has answered for a backend service since its agent began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRequests {
    /// The backend service's name.
    pub backend_service: String,
    /// Requests, whatever their answer.
    pub requests: u64,
}

/// Where an agent listens.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Removes what an agent that was killed has left.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove(run_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket_path(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
