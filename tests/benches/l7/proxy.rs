//! The proxies: each is one process with one thread, on the processor that is measured on.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lb_tests::bench::cpu;
use lb_tests::bench::l7::{Places, envoy, haproxy, nginx};
use lb_tests::bench::usage::Usage;
use lb_tests::process::Process;
use lb_tests::wait::wait_until;

use super::stand::{Stand, write};

/// Time in which a proxy must listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Podway,
    Nginx,
    Haproxy,
    Envoy,
}

/// Names Envoy's binary.
const ENVOY_VARIABLE: &str = "PODWAY_ENVOY";

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) usage: Usage,
    kind: Kind,
    _process: Process,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Podway, Self::Nginx, Self::Haproxy, Self::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Podway => "Podway",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }

    /// Its command, with the files that it wants.
    fn command(self, places: &Places) -> Result<Command> {
        let configuration = places.folder.join("configuration");
        // Killed with the bench, even if that is killed itself.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &cpu::measured()?.to_string()]);
        match self {
            Self::Podway => {
                let Places { http, https, upstream, certificate, key, .. } = places;
                command.arg(std::env::current_exe()?).arg("serve");
                command.args([http, https, upstream].map(ToString::to_string)).args([certificate, key]);
            }
            Self::Nginx => {
                write(&configuration, &nginx::configuration(places))?;
                command.args(["nginx", "-e", "stderr", "-c"]).arg(configuration);
            }
            Self::Haproxy => {
                write(&configuration, &haproxy::configuration(places))?;
                write(&places.folder.join("map"), &haproxy::map())?;
                command.args(["haproxy", "-db", "-f"]).arg(configuration);
            }
            Self::Envoy => {
                // It tells what a file is by its name.
                let configuration = configuration.with_extension("yaml");
                write(&configuration, &envoy::configuration(places))?;
                command.arg(envoy_binary()?).args(["--concurrency", "1", "--disable-hot-restart"]);
                command.args(["--log-level", "error", "--config-path"]).arg(configuration);
            }
        }
        Ok(command)
    }
}

impl Proxy {
    /// Starts it; it listens when this returns.
    pub(crate) fn start(kind: Kind, stand: &Stand) -> Result<Self> {
        let [http, https] = free_places()?;
        let folder = stand.path(kind.name());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let places = Places {
            http,
            https,
            upstream: stand.upstream.address,
            folder,
            certificate: stand.path("site.crt"),
            key: stand.path("site.key"),
            certificate_and_key: stand.path("site.pem"),
        };
        let mut process = Process::start(kind.command(&places)?, kind.name())?;
        let is_there = |place: &SocketAddr| TcpStream::connect(place).is_ok();
        let mut has_ended = false;
        let listening = wait_until(START_DEADLINE, &format!("{} to listen", kind.name()), || {
            has_ended = !process.is_running();
            has_ended || [http, https].iter().all(is_there)
        });
        if has_ended || listening.is_err() {
            bail!("cannot start {}; its log:\n{}", kind.name(), process.log());
        }
        Ok(Self { http, https, usage: Usage::of(process.id()), kind, _process: process })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }
}

/// Two ports that nobody has. They are free again until the proxy takes them, so another program could: it would be
/// told by the proxy's end.
fn free_places() -> Result<[SocketAddr; 2]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port");
    let listeners = [listen()?, listen()?];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
}

/// Where Envoy is.
pub(crate) fn envoy_binary() -> Result<PathBuf> {
    let path = std::env::var_os(ENVOY_VARIABLE);
    path.map(PathBuf::from).with_context(|| {
        format!("{ENVOY_VARIABLE} names no binary of Envoy; `cargo xtask bench --l7` gets one and names it")
    })
}

/// The first line with a word of what a program says of its version.
pub(crate) fn version(program: &str, option: &str) -> Result<String> {
    let output = Command::new(program).arg(option).output().with_context(|| {
        format!("cannot run {program}; `cargo xtask bench --l7` installs what this bench needs")
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line = line.strip_prefix("nginx version: ").unwrap_or(line);
    Ok(line.split(" - ").next().and_then(|line| line.split(" [").next()).unwrap_or_default().to_owned())
}
