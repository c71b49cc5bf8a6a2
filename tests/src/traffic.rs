//! Real traffic between hosts of a topology: servers that say who they are and whom they see, and
//! clients that report as data. The work is done by the program `lb-traffic`, since a process, not a
//! thread, belongs to a cgroup.
//!
//! The server's protocol: over TCP it first sends one line, `NAME PEER`, and then echoes what it gets;
//! over UDP it answers each datagram with `NAME PEER DATAGRAM`.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_userspace::model::Protocol;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::topology::Host;
use crate::wait::wait_until;

pub mod client;
pub mod load;
pub mod server;

/// How long a server may take to listen, or a client to say its first word.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to report after its last packet, beyond its own timeouts.
const REPORT_DEADLINE: Duration = Duration::from_secs(15);

/// Receive buffers of UDP sockets, bytes: a process that gets no CPU for a second loses no datagram of a stream.
const RECEIVE_BYTES: usize = 4 << 20;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// `ECONNREFUSED`: a reset, or an ICMP port unreachable.
    Refused,
    /// `EPERM`: a socket hook said no.
    NotPermitted,
    /// `ECONNRESET` or an end of the stream in the middle.
    Reset,
    /// `EHOSTUNREACH` or `ENETUNREACH`.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The answer was not the server's protocol, or came from elsewhere.
    Garbled,
    /// Another error of the socket.
    Other,
}

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When the request began, microseconds since the client's start.
    pub at_us: u64,
    /// How long it took.
    pub elapsed_us: u64,
    /// Who answered and what it saw, or why nobody did.
    pub outcome: Result<Answered, Failure>,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Name of the host that answered.
    pub by: String,
    /// The source that the server saw.
    pub seen_source: SocketAddr,
    /// The peer that the client's socket names: `getpeername`, or of an unconnected socket the source
    /// of the answer.
    pub peer: SocketAddr,
}

/// Requests to make, each on a socket of its own.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where to.
    pub to: SocketAddr,
    /// Over what.
    pub protocol: Protocol,
    /// How many; `None` goes on until [`Dialing::finish`].
    pub count: Option<u32>,
    /// From the start of one request to that of the next, unless it takes longer.
    pub interval: Duration,
    /// When a request has failed.
    pub timeout: Duration,
    /// Whether UDP sockets are connected.
    pub udp_socket: UdpSocketKind,
    /// The source address of UDP sockets, where it matters.
    pub source: Option<IpAddr>,
}

/// How a UDP client names its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpSocketKind {
    /// By `connect()`: the connect hooks see it once.
    Connected,
    /// With every datagram: the sendmsg and recvmsg hooks see each.
    Unconnected,
}

impl Dial {
    /// `count` requests one after the other, with 5 s for each.
    #[must_use]
    pub fn times(count: u32, protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            to,
            protocol,
            count: Some(count),
            interval: Duration::ZERO,
            timeout: Duration::from_secs(5),
            udp_socket: UdpSocketKind::Connected,
            source: None,
        }
    }

    /// Requests without end, one each `interval`.
    #[must_use]
    pub fn every(interval: Duration, protocol: Protocol, to: SocketAddr) -> Self {
        Self { count: None, interval, ..Self::times(0, protocol, to) }
    }
}

/// A server on a host. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Listens on all addresses of `host`, and returns when it does.
    ///
    /// # Errors
    /// A port is taken, or `lb-traffic` cannot be run.
    pub fn start(host: &Host, ports: &[(Protocol, u16)]) -> Result<Self> {
        Self::start_as(host, host.name(), ports)
    }

    /// Greets on a TCP port of all addresses of `host` and hangs up, for [`Load`].
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn greet(host: &Host, port: u16) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["serve", "--name", host.name(), "--hello", &port.to_string()]);
        Self::ready(command, host)
    }

    /// As [`Server::start`], for a server that answers with a name of its own.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_as(host: &Host, name: &str, ports: &[(Protocol, u16)]) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["serve", "--name", name]);
        for (protocol, port) in ports {
            command.args([flag(*protocol), &port.to_string()]);
        }
        Self::ready(command, host)
    }

    fn ready(command: Command, host: &Host) -> Result<Self> {
        let process = Process::start(command, &format!("the server on {}", host.name()))?;
        match process.line(START_DEADLINE)?.as_str() {
            server::READY => Ok(Self { process }),
            other => bail!("the server on {} said {other:?} instead of {:?}", host.name(), server::READY),
        }
    }

    /// Kills it: its connections are reset, its ports refuse.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// Makes the requests and waits for all of them.
///
/// # Errors
/// The client cannot be run; a request that fails is no error, but an answer.
pub fn dial(host: &Host, dial: &Dial) -> Result<Vec<Answer>> {
    Dialing::start(host, dial)?.finish()
}

/// Who answers these requests; a failed one is in it as its failure.
///
/// # Errors
/// They cannot be made.
pub fn answerers(host: &Host, requests: &Dial) -> Result<BTreeSet<String>> {
    let answers = dial(host, requests)?.into_iter();
    Ok(answers.map(|answer| answer.outcome.map_or_else(|f| format!("{f:?}"), |a| a.by)).collect())
}

/// Makes these requests until exactly `expected` answer them.
///
/// # Panics
/// They do not before the deadline, or the requests cannot be made; the message says who answered last.
pub fn wait_for_answerers(host: &Host, requests: &Dial, expected: &[&str], deadline: Duration) {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    let mut seen = BTreeSet::new();
    let waited = wait_until(deadline, "the expected pods", || {
        seen = answerers(host, requests).unwrap_or_else(|error| panic!("{error:#}"));
        seen == expected
    });
    waited.unwrap_or_else(|error| panic!("{error}: {expected:?}; seen: {seen:?}"));
}

/// Makes one request that must be answered.
///
/// # Errors
/// It was not; the message says why not.
pub fn ask(host: &Host, protocol: Protocol, to: SocketAddr) -> Result<Answered> {
    ask_as(host, &Dial::times(1, protocol, to))
}

/// As [`ask`], for a request that is not made in the usual way.
///
/// # Errors
/// It was not answered; the message says why not.
pub fn ask_as(host: &Host, request: &Dial) -> Result<Answered> {
    let answers = dial(host, request)?;
    let outcome = answers.first().map(|answer| answer.outcome.clone());
    let what = format!("{} to {} over {}", host.name(), request.to, request.protocol);
    match outcome.with_context(|| format!("{what}: no request was made"))? {
        Ok(answered) => Ok(answered),
        Err(failure) => bail!("{what}: {failure:?}"),
    }
}

/// Requests that are being made. Dropping it ends them.
#[derive(Debug)]
pub struct Dialing {
    process: Process,
    deadline: Duration,
    is_counted: bool,
}

impl Dialing {
    /// Begins with the requests.
    ///
    /// # Errors
    /// The client cannot be run.
    pub fn start(host: &Host, dial: &Dial) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["dial", flag(dial.protocol), &dial.to.to_string()]);
        command.args(["--timeout-ms", &dial.timeout.as_millis().to_string()]);
        command.args(["--interval-us", &dial.interval.as_micros().to_string()]);
        if let Some(count) = dial.count {
            command.args(["--count", &count.to_string()]);
        }
        if dial.udp_socket == UdpSocketKind::Unconnected {
            command.arg("--unconnected");
        }
        if let Some(source) = dial.source {
            command.args(["--source", &source.to_string()]);
        }
        let process = Process::start(command, &format!("the client on {} to {}", host.name(), dial.to))?;
        let longest = dial.timeout.max(dial.interval) * dial.count.unwrap_or(1);
        Ok(Self { process, deadline: longest + REPORT_DEADLINE, is_counted: dial.count.is_some() })
    }

    /// The next answer.
    ///
    /// # Errors
    /// None came in time, or there is none any more.
    pub fn next_answer(&self) -> Result<Answer> {
        parse(&self.process.line(self.deadline)?)
    }

    /// Waits for the requests that were counted, or ends those without end, and returns the answers
    /// that [`Dialing::next_answer`] has not returned.
    ///
    /// # Errors
    /// The client failed.
    pub fn finish(mut self) -> Result<Vec<Answer>> {
        if self.is_counted {
            self.process.wait(self.deadline)?;
        }
        self.process.finish(self.deadline)?.iter().map(|line| parse(line)).collect()
    }
}

/// Many TCP connections that stay open. Over each a line goes to and fro, round after round.
#[derive(Debug)]
pub struct Hold {
    process: Process,
    opened: Opened,
}

/// What [`Hold`] opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Connections by the host that answered.
    pub by: BTreeMap<String, u32>,
    /// Connections that were not opened, by the reason.
    pub failed: BTreeMap<Failure, u32>,
}

/// What became of the connections of a [`Hold`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Rounds over all connections.
    pub rounds: u32,
    /// Connections that broke, by the reason.
    pub lost: BTreeMap<Failure, u32>,
    /// The longest wait for an echo, microseconds.
    pub slowest_us: u64,
}

impl Hold {
    /// Opens `connections` and returns when all are open or have failed.
    ///
    /// # Errors
    /// The client cannot be run.
    pub fn start(host: &Host, to: SocketAddr, connections: u32) -> Result<Self> {
        Self::start_at_once(host, to, connections, 1)
    }

    /// The same, with so many lines under way at a time: the more, the less they wait for each other.
    ///
    /// # Errors
    /// As [`start`](Self::start)'s.
    pub fn start_at_once(host: &Host, to: SocketAddr, connections: u32, at_once: u32) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["hold", "--to", &to.to_string(), "--connections", &connections.to_string()]);
        command.args(["--at-once", &at_once.to_string()]);
        let process = Process::start(command, &format!("the connections of {} to {to}", host.name()))?;
        // Each may take a second at most, but all together hardly more.
        let opened = parse(&process.line(START_DEADLINE + Duration::from_millis(20) * connections)?)?;
        Ok(Self { process, opened })
    }

    /// What was opened.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Makes one more whole round, closes the connections and tells what became of them.
    ///
    /// # Errors
    /// The client failed.
    pub fn finish(self) -> Result<Held> {
        last(&self.process.finish(REPORT_DEADLINE)?)
    }
}

/// Numbered datagrams from one socket, without end.
#[derive(Debug)]
pub struct UdpStream {
    process: Process,
}

/// What became of the datagrams of a [`UdpStream`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streamed {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that were answered, by who answered.
    pub by: BTreeMap<String, u64>,
    /// Numbers of the first hundred that were not.
    pub missing: Vec<u64>,
    /// Errors of the socket, by kind.
    pub failed: BTreeMap<Failure, u64>,
    /// The longest time from one answer to the next, microseconds.
    pub longest_gap_us: u64,
}

impl UdpStream {
    /// Sends a datagram each `interval`; returns when the first is answered.
    ///
    /// # Errors
    /// The client cannot be run, or nobody answers.
    pub fn start(host: &Host, to: SocketAddr, interval: Duration) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["stream", "--to", &to.to_string()]);
        command.args(["--interval-us", &interval.as_micros().to_string()]);
        let process = Process::start(command, &format!("the stream of {} to {to}", host.name()))?;
        process.line(START_DEADLINE)?;
        Ok(Self { process })
    }

    /// Stops sending, waits for what is on its way and tells what became of it.
    ///
    /// # Errors
    /// The client failed.
    pub fn finish(self) -> Result<Streamed> {
        last(&self.process.finish(REPORT_DEADLINE)?)
    }
}

/// Short TCP connections at a steady rate, without end.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

/// What became of the connections of a [`Load`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Connections that were greeted, by who did.
    pub by: BTreeMap<String, u64>,
    /// Connections that were not, by the reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Some of these.
    pub failures: Vec<Failed>,
    /// The longest time to a greeting, microseconds.
    pub slowest_us: u64,
    /// How long it all took, microseconds.
    pub elapsed_us: u64,
}

/// A connection that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Where it went.
    pub to: SocketAddr,
    /// When it began, microseconds since the start.
    pub at_us: u64,
    /// Why.
    pub failure: Failure,
}

impl Load {
    /// Connects to each of `to` in turn, `rate` times a second, to servers that [`Server::greet`].
    ///
    /// # Errors
    /// The client cannot be run.
    pub fn start(host: &Host, to: &[SocketAddr], rate: u32) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["load", "--rate", &rate.to_string()]);
        for address in to {
            command.args(["--to", &address.to_string()]);
        }
        let process = Process::start(command, &format!("the load of {}", host.name()))?;
        process.line(START_DEADLINE)?;
        Ok(Self { process })
    }

    /// Stops and tells what became of the connections.
    ///
    /// # Errors
    /// The client failed.
    pub fn finish(self) -> Result<Loaded> {
        last(&self.process.finish(REPORT_DEADLINE)?)
    }
}

impl Loaded {
    /// Connections that were greeted.
    #[must_use]
    pub fn greeted(&self) -> u64 {
        self.by.values().sum()
    }
}

/// The program `lb-traffic`: `LB_TRAFFIC_BINARY`, or beside this program, or one directory above it
/// (where cargo puts the binaries of a package whose tests it runs).
///
/// # Errors
/// It is in none of these places.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LB_TRAFFIC_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("lb-traffic")).find(|path| path.is_file());
    found.with_context(|| {
        format!("no lb-traffic near {}; build it: cargo build -p lb-tests --bins", own.display())
    })
}

fn flag(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "--tcp",
        Protocol::Udp => "--udp",
        // lb-traffic refuses it: it has sockets of the other two.
        Protocol::Sctp => "--sctp",
    }
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("lb-traffic wrote {line:?}"))
}

fn last<T: DeserializeOwned>(lines: &[String]) -> Result<T> {
    parse(lines.last().context("lb-traffic ended without a report")?)
}
