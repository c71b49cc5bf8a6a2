//! The program `podway` on a simulated node: the agent as a process that can be killed and started
//! again, and the commands that look at what it left in the kernel.
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::metrics::ADDRESS_DEFAULT;
use lb_userspace::model::Protocol;
use rustix::process::Signal;
use serde_json::Value;

use crate::open_metrics::Metrics;
use crate::process::Process;
use crate::topology::{Host, Topology};
use crate::wait::wait_until;

/// How long an agent may take from its start to the last frontend in the maps. An emulated kernel verifies the
/// programs for half a minute.
const READY_DEADLINE: Duration = Duration::from_secs(180);

/// How long an agent may take to stop: its front-end lets requests end.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// As long as Prometheus waits.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The program, and the eBPF object where the program has none inside.
#[derive(Clone, Debug)]
pub struct Podway {
    /// The binary.
    pub binary: PathBuf,
    /// For `--ebpf-object`.
    pub ebpf_object: Option<PathBuf>,
}

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// The best that works.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// None: tc does all.
    Off,
}

impl XdpMode {
    /// The flag's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// Whether the agent attaches socket hooks to its node's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketHooks {
    /// It does.
    #[default]
    On,
    /// It does not (`--no-socket-hooks`): what pods send meets tc at their interface.
    Off,
}

/// How an agent is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Whether socket hooks are.
    pub socket_hooks: SocketHooks,
    /// Further flags with their values, for instance sizes of maps.
    pub further: &'static [&'static str],
}

/// Where an agent has its facts from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A folder of manifests.
    Folder(&'a Path),
    /// The API server that a kubeconfig names; a folder has the same objects for [`Agent::verify`].
    Cluster {
        /// The kubeconfig.
        kubeconfig: &'a Path,
        /// The folder.
        folder: &'a Path,
    },
}

impl<'a> Source<'a> {
    fn flag(self) -> [OsString; 2] {
        match self {
            Self::Folder(folder) => ["--manifests".into(), folder.into()],
            Self::Cluster { kubeconfig, .. } => ["--kubeconfig".into(), kubeconfig.into()],
        }
    }

    fn folder(self) -> &'a Path {
        match self {
            Self::Folder(folder) | Self::Cluster { folder, .. } => folder,
        }
    }
}

/// A frontend as the agent shows it.
pub type Frontend = (String, SocketAddr);

/// The agent of a node. Dropping it kills it and removes its pins, which detaches its programs.
#[derive(Debug)]
pub struct Agent {
    podway: Podway,
    node: Host,
    pins: PathBuf,
    run_dir: PathBuf,
    manifests: PathBuf,
    arguments: Vec<OsString>,
    process: Option<Process>,
}

/// What an agent says once it serves in the place of another.
pub const SERVES: &str = "serves in the place of the former agent";

/// Waits for the end of an agent that was taken over from and told to end.
///
/// # Errors
/// It does not end in time, it failed, or it cut a request off.
pub fn end_of_former(mut former: Process, deadline: Duration) -> Result<()> {
    let status = former.wait(deadline)?;
    let log = former.log();
    ensure!(status.success() && log.contains("front-end stopped cut=0"), "{status}: {log}");
    Ok(())
}

impl Agent {
    /// Starts the agent of `node` on a folder of manifests. It is not ready yet: see
    /// [`Agent::wait_for`].
    ///
    /// # Errors
    /// The binary cannot be run.
    ///
    /// # Panics
    /// There is no such node.
    pub fn start(
        podway: &Podway,
        topology: &Topology,
        node: &str,
        manifests: &Path,
        options: Options,
    ) -> Result<Self> {
        Self::start_from(podway, topology, node, Source::Folder(manifests), options)
    }

    /// As [`Agent::start`], with facts from elsewhere.
    ///
    /// # Errors
    /// As [`Agent::start`].
    ///
    /// # Panics
    /// There is no such node.
    pub fn start_from(
        podway: &Podway,
        topology: &Topology,
        node: &str,
        source: Source<'_>,
        options: Options,
    ) -> Result<Self> {
        let host = topology.node(node).host().clone();
        let pins = topology.pins(node);
        let mut arguments: Vec<OsString> =
            ["agent", "--node-name", node, "--uplink", "eth0"].map(Into::into).into();
        arguments
            .extend(["--pod-interface", "vethpod*", "--xdp-mode", options.xdp_mode.name()].map(Into::into));
        arguments.extend(source.flag());
        arguments.extend([OsString::from("--pin-path"), pins.clone().into()]);
        let run_dir = topology.run_dir(node);
        arguments.extend([OsString::from("--run-dir"), run_dir.clone().into()]);
        match options.socket_hooks {
            SocketHooks::On => arguments.extend([OsString::from("--cgroup"), host.cgroup().into()]),
            SocketHooks::Off => arguments.push("--no-socket-hooks".into()),
        }
        arguments.extend(options.further.iter().map(OsString::from));
        if let Some(object) = &podway.ebpf_object {
            arguments.extend([OsString::from("--ebpf-object"), object.into()]);
        }
        let mut agent = Self {
            podway: podway.clone(),
            node: host,
            pins,
            run_dir,
            manifests: source.folder().to_owned(),
            arguments,
            process: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it again with the same arguments, after killing the one that still runs.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = Some(self.spawn(&[])?);
        Ok(())
    }

    /// Ends it as a supervisor does and starts another build with the same arguments.
    ///
    /// # Errors
    /// It does not end in time, or the binary cannot be run.
    pub fn replace_by(&mut self, podway: &Podway) -> Result<()> {
        self.process().signal(Signal::TERM)?;
        self.process().wait(STOP_DEADLINE)?;
        self.turn_into(podway);
        self.restart()
    }

    fn turn_into(&mut self, podway: &Podway) {
        if let (Some(former), Some(object)) = (&self.podway.ebpf_object, &podway.ebpf_object) {
            let of_object = self.arguments.iter_mut().filter(|argument| **argument == *former);
            of_object.for_each(|argument| *argument = object.into());
        }
        self.podway = podway.clone();
    }

    /// Starts one that takes over from the one that runs, if one does; gives that one.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn take_over(&mut self) -> Result<Option<Process>> {
        let successor = self.spawn(&["--take-over"])?;
        Ok(self.process.replace(successor))
    }

    /// Waits until it serves in the place of a former one.
    ///
    /// # Errors
    /// It does not in time; the message has the logs of both.
    pub fn wait_until_it_serves(&self, former: &Process, deadline: Duration) -> Result<()> {
        let waited = wait_until(deadline, SERVES, || self.log().contains(SERVES));
        waited.with_context(|| format!("{}\nthe former one: {}", self.log(), former.log()))
    }

    /// As [`Agent::take_over`], by another build.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn take_over_by(&mut self, podway: &Podway) -> Result<Option<Process>> {
        self.turn_into(podway);
        self.take_over()
    }

    /// Starts another one with the same arguments, which is the caller's to watch.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn beside(&self) -> Result<Process> {
        self.spawn(&[])
    }

    /// Goes on with one that was replaced, after killing the one that still runs.
    pub fn go_on_with(&mut self, process: Process) {
        self.kill();
        self.process = Some(process);
    }

    fn spawn(&self, further: &[&str]) -> Result<Process> {
        let mut command = self.node.command(&self.podway.binary);
        command.args(&self.arguments).args(further);
        Process::start(command, &format!("the agent of {}", self.node.name()))
    }

    /// Kills it with SIGKILL; the programs in the kernel stay.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The running process.
    ///
    /// # Panics
    /// It was killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent was killed")
    }

    /// What the running agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::log)
    }

    /// Waits until the frontends in the maps are exactly `expected`.
    ///
    /// # Errors
    /// They are not in three minutes, or the agent ended; the message holds its log.
    pub fn wait_for(&mut self, expected: &BTreeSet<Frontend>) -> Result<()> {
        let mut seen = Ok(BTreeSet::new());
        let what = format!("{} frontends on {}", expected.len(), self.node.name());
        let waited = wait_until(READY_DEADLINE, &what, || {
            seen = self.frontends();
            let has_ended = self.process.as_mut().is_some_and(|process| !process.is_running());
            has_ended || seen.as_ref().is_ok_and(|seen| seen == expected)
        });
        let is_running = self.process.as_mut().is_some_and(Process::is_running);
        if waited.is_ok() && is_running {
            return Ok(());
        }
        let seen = seen.context(format!("{what}: the agent's log:\n{}", self.log()))?;
        bail!(
            "{what}: missing {:?}, surplus {:?}; running: {is_running}; log:\n{}",
            expected.difference(&seen).collect::<Vec<_>>(),
            seen.difference(expected).collect::<Vec<_>>(),
            self.log()
        )
    }

    /// The frontends in the maps, by `podway get frontends -o json`.
    ///
    /// # Errors
    /// The command failed, or a row has no address, port and protocol.
    pub fn frontends(&self) -> Result<BTreeSet<Frontend>> {
        let rows = self.get("frontends")?;
        let rows = rows.as_array().context("get frontends gave no list")?;
        rows.iter().map(|row| frontend_of(row).with_context(|| format!("not a frontend: {row}"))).collect()
    }

    /// `podway get WHAT -o json`.
    ///
    /// # Errors
    /// The command failed, or wrote no JSON.
    pub fn get(&self, what: &str) -> Result<Value> {
        let text = self.podway(&["get", what, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("podway get {what} wrote no JSON: {text}"))
    }

    /// `podway get-health BACKEND_SERVICE -o json`: a row for each endpoint.
    ///
    /// # Errors
    /// The command failed, or wrote no list.
    pub fn health(&self, backend_service: &str) -> Result<Vec<Value>> {
        let text = self.podway(&["get-health", backend_service, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("podway get-health wrote no list: {text}"))
    }

    /// `podway verify`: the maps agree with each other.
    ///
    /// # Errors
    /// It found something; the message holds what.
    pub fn verify_maps(&self) -> Result<()> {
        self.podway(&["verify"]).map(drop)
    }

    /// `podway verify`: the maps agree with each other and with the plan of the manifests.
    ///
    /// # Errors
    /// It found something; the message holds what.
    pub fn verify(&self) -> Result<()> {
        let manifests = self.manifests.to_str().context("the folder's name is not UTF-8")?;
        let node = self.node.name();
        self.podway(&["verify", "--manifests", manifests, "--node-name", node]).map(drop)
    }

    /// What the node has counted for a reason.
    ///
    /// # Errors
    /// The command failed, or there is no such reason.
    pub fn count(&self, reason: &str) -> Result<u64> {
        let rows = self.get("counters")?;
        let row = rows.as_array().into_iter().flatten().find(|row| row["reason"] == reason);
        row.and_then(|row| row["packets"].as_u64()).with_context(|| format!("no counter {reason}: {rows}"))
    }

    /// What the agent serves at a path of its metrics, from within its node.
    ///
    /// # Errors
    /// It answers with an error, or not in the text form.
    pub fn metrics(&self, path: &str) -> Result<Metrics> {
        let answer = self.node.run_in_netns(|| scrape(path))??;
        let (head, text) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}: {text}");
        Metrics::parse(text).with_context(|| format!("metrics at {path} on {}", self.node.name()))
    }

    /// What a command of `podway` writes, with this node's pins and run directory.
    ///
    /// # Errors
    /// It failed; the message holds what it wrote.
    pub fn podway(&self, arguments: &[&str]) -> Result<String> {
        self.podway_and_remarks(arguments).map(|(text, _)| text)
    }

    /// As [`Agent::podway`], with what the command writes to standard error.
    ///
    /// # Errors
    /// As [`Agent::podway`].
    pub fn podway_and_remarks(&self, arguments: &[&str]) -> Result<(String, String)> {
        let mut command = self.node.command(&self.podway.binary);
        command.args(arguments).arg("--pin-path").arg(&self.pins);
        if arguments
            .first()
            .is_some_and(|name| ["get", "get-health", "describe", "top", "verify"].contains(name))
        {
            command.arg("--run-dir").arg(&self.run_dir);
        }
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "podway {} on {} failed ({}): {text}{errors}",
                arguments.join(" "),
                self.node.name(),
                output.status
            );
        }
        Ok((text, String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        // Not there if the agent never came so far; else the topology removes it once more.
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn scrape(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS_DEFAULT).context("nobody serves metrics")?;
    stream.set_read_timeout(Some(SCRAPE_TIMEOUT))?;
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.1";
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\naccept: {accept}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The key under which a frontend is expected and shown.
#[must_use]
pub fn frontend(protocol: Protocol, address: IpAddr, port: u16) -> Frontend {
    (protocol.to_string(), SocketAddr::new(address, port))
}

fn frontend_of(row: &Value) -> Option<Frontend> {
    let address: IpAddr = row["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(row["port"].as_u64()?).ok()?;
    Some((row["protocol"].as_str()?.to_uppercase(), SocketAddr::new(address, port)))
}
