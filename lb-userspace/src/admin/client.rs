//! A command's side.
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Line, Request, ServiceRequests, socket_path};
use crate::attach::ServedInterface;
use crate::health::{ProbingStats, TargetHealth};

/// How long an agent may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer: some times what probes of a million endpoints come to.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// What the agent's probes have found, of all targets or of a backend service's.
///
/// # Errors
/// No agent answers there, or it ends before all is said.
pub fn health(run_dir: &Path, backend_service: Option<&str>) -> Result<Vec<TargetHealth>> {
    let request = Request::Health { backend_service: backend_service.map(str::to_owned) };
    let mut targets = Vec::new();
    ask(run_dir, &request, |line| {
        if let Line::Health(target) = line {
            targets.push(target);
        }
    })?;
    Ok(targets)
}

/// What the agent's probing amounts to.
///
/// # Errors
/// As [`health`].
pub fn probing(run_dir: &Path) -> Result<ProbingStats> {
    let mut stats = None;
    ask(run_dir, &Request::Probing, |line| {
        stats = if let Line::Probing(found) = line { Some(found) } else { None }
    })?;
    stats.context("the agent said nothing of its probing")
}

/// The interfaces that the agent serves, by index.
///
/// # Errors
/// As [`health`].
pub fn interfaces(run_dir: &Path) -> Result<Vec<ServedInterface>> {
    let mut interfaces = Vec::new();
    ask(run_dir, &Request::Interfaces, |line| {
        if let Line::Interface(found) = line {
            interfaces.push(found);
        }
    })?;
    Ok(interfaces)
}

/// How many requests the agent's front-end has answered, by backend service; none where it has no front-end.
///
/// # Errors
/// As [`health`], or the agent is of a version that does not tell.
pub fn requests(run_dir: &Path) -> Result<Vec<ServiceRequests>> {
    let mut services = Vec::new();
    ask(run_dir, &Request::Requests, |line| {
        if let Line::Requests(found) = line {
            services.push(found);
        }
    })?;
    Ok(services)
}

/// The facts that the agent plans from, as the JSON of [`crate::snapshot::RecordedFacts`].
///
/// # Errors
/// As [`health`], or the agent does not tell them.
pub fn facts(run_dir: &Path) -> Result<String> {
    text_of(run_dir, &Request::Facts)
}

/// What the agent says to a question about URL maps.
///
/// # Errors
/// As [`health`], or the agent has no answer.
pub fn url_maps(run_dir: &Path, question: serde_json::Value) -> Result<String> {
    text_of(run_dir, &Request::UrlMaps { question })
}

fn text_of(run_dir: &Path, request: &Request) -> Result<String> {
    let mut text = None;
    ask(run_dir, request, |line| text = if let Line::Text(found) = line { Some(found) } else { None })?;
    text.context("the agent said nothing")
}

fn ask(run_dir: &Path, request: &Request, mut each: impl FnMut(Line)) -> Result<()> {
    let path = socket_path(run_dir);
    let stream =
        UnixStream::connect(&path).with_context(|| format!("no agent answers at {}", path.display()))?;
    let cannot = || format!("cannot ask the agent at {}", path.display());
    stream.set_read_timeout(Some(PATIENCE)).with_context(cannot)?;
    let mut request = serde_json::to_vec(request)?;
    request.push(b'\n');
    (&stream).write_all(&request).with_context(cannot)?;
    for line in BufReader::new(stream.take(ANSWER_BYTES_MAX)).lines() {
        let line = line.with_context(cannot)?;
        match serde_json::from_str(&line).with_context(|| format!("the agent says {line:?}"))? {
            Line::Error(error) => bail!("the agent at {}: {error}", path.display()),
            Line::End => return Ok(()),
            line => each(line),
        }
    }
    bail!("the agent at {} ended before it had said all", path.display())
}
