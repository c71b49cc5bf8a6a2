//! One agent takes over from another on the same node, and no connection to an Ingress is refused in between.
//!
//! The one that starts asks the one that runs, at its admin socket. That one ends its loop and gives up the pins, sends
//! its listening sockets (SCM_RIGHTS), and serves on by what it served last. The other starts as ever, with these
//! sockets: once it serves them it says so, and the first lets its requests end. A connection is always in a queue that
//! one of them accepts from.
//!
//! The stream between them stays open for as long as both live, so that each learns of the other's end. An agent whose
//! successor has ended takes the node back.
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tracing::{info, warn};

use crate::admin::{self, Request};
use crate::l7::serve::{FrontEnd, ListeningSockets};

use super::ends::Ends;

mod descriptors;

use descriptors::{receive, send};

/// Time that an agent that is asked may take to end its loop: a plan of a large cluster takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time after which an agent that has taken over says that it serves, even if it has no certificate for one of the
/// sockets yet, which then closes.
const COMPLETION_MAX: Duration = Duration::from_secs(60);
/// What the agent that has taken over says once it serves.
const SERVING: &[u8] = b"serving\n";

/// The agent that was taken over from, as its successor sees it.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: StdStream,
    since: Instant,
    is_told: bool,
}

impl Predecessor {
    /// Asks the agent that runs, which has given up the pins when this returns; none where nobody answers.
    ///
    /// # Errors
    /// It cannot be understood, or takes too long.
    pub(super) fn ask(run_dir: &Path) -> Result<Option<(Self, ListeningSockets)>> {
        let path = admin::socket_path(run_dir);
        let mut stream = match StdStream::connect(&path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                info!("no agent to take over from");
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot ask at {}", path.display())),
        };
        let cannot = || format!("cannot take over from the agent at {}; stop it first", path.display());
        stream.set_read_timeout(Some(PATIENCE)).with_context(cannot)?;
        let mut request = serde_json::to_vec(&Request::TakeOver)?;
        request.push(b'\n');
        stream.write_all(&request).with_context(cannot)?;
        let sockets = receive(&stream).with_context(cannot)?;
        info!(listeners = sockets.len(), "took over from another agent");
        Ok(Some((Self { stream, since: Instant::now(), is_told: false }, sockets)))
    }

    /// Whether it waits to hear that its successor serves.
    pub(super) fn waits(&self) -> bool {
        !self.is_told
    }

    /// Whether it has waited long enough.
    pub(super) fn has_waited(&self) -> bool {
        self.since.elapsed() >= COMPLETION_MAX
    }

    /// Tells it to let its requests end.
    pub(super) fn let_go(&mut self) {
        self.is_told = true;
        info!("serves in the place of the former agent");
        if let Err(error) = self.stream.write_all(SERVING) {
            // Gone already: nobody is left who could drain.
            warn!(%error, "the former agent was gone before it was told to leave");
        }
    }
}

/// What there is of an agent before this one.
pub(super) enum Former {
    /// Nothing, or what one that ended has left.
    None,
    /// Another process, if one runs: it is taken over from.
    Other,
    /// This process, which was taken over from by one that has ended.
    Own(Option<FrontEnd>),
}

/// How an agent's loop ends.
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// Another agent wants the node.
    TakenOver(Handover),
}

/// An agent whose loop has ended, for another one.
pub(super) struct Handover {
    pub(super) successor: StdStream,
    /// Serves what it served last.
    pub(super) front_end: Option<FrontEnd>,
    /// Learns of the end of this process, not before.
    pub(super) _predecessor: Option<Predecessor>,
}

/// How it ended for an agent that was taken over from.
pub(super) enum Handed {
    /// It was told to end, as its successor serves.
    Terminated,
    /// Its successor has ended: it goes on with what it still serves.
    Back(Option<FrontEnd>),
}

impl Handover {
    /// Gives the successor what this agent has, serves on until that one does, and then lets requests end. The process
    /// stays until it is told to end: a supervisor would start one that ends again.
    ///
    /// # Errors
    /// The system has no further descriptors.
    pub(super) async fn run(self, drain: Duration, ends: &mut Ends) -> Result<Handed> {
        let Self { successor, front_end, _predecessor } = self;
        if let Err(error) = give(&successor, front_end.as_ref()) {
            warn!(error = format!("{error:#}"), "cannot give the listening sockets away; going on");
            return Ok(Handed::Back(front_end));
        }
        info!("gave the node to another agent; serving Ingresses until that one does");
        successor.set_nonblocking(true)?;
        let mut successor = BufReader::new(UnixStream::from_std(successor)?);
        let is_told = tokio::select! {
            serving = said(&mut successor) => {
                if let Err(error) = serving {
                    warn!(error = format!("{error:#}"), "the agent that took over does not serve; going on");
                    return Ok(Handed::Back(front_end));
                }
                false
            }
            () = ends.told() => true,
        };
        if let Some(front_end) = front_end {
            let cut = tokio::task::spawn_blocking(move || front_end.stop(drain)).await.unwrap_or(0);
            info!(cut, "front-end stopped");
        }
        if is_told {
            return Ok(Handed::Terminated);
        }
        info!("another agent has the node; waiting to be told to end");
        tokio::select! {
            biased;
            () = ends.told() => Ok(Handed::Terminated),
            _ = said(&mut successor) => {
                warn!("the agent that took over has ended; taking the node back");
                Ok(Handed::Back(None))
            }
        }
    }
}

fn give(successor: &StdStream, front_end: Option<&FrontEnd>) -> Result<()> {
    let sockets = front_end.map_or_else(|| Ok(ListeningSockets::new()), FrontEnd::sockets)?;
    send(successor, &sockets)
}

async fn said(successor: &mut BufReader<UnixStream>) -> Result<()> {
    let mut line = Vec::new();
    successor.read_until(b'\n', &mut line).await.context("cannot hear it")?;
    if line != SERVING {
        bail!("it ended after {:?}", String::from_utf8_lossy(&line));
    }
    Ok(())
}
