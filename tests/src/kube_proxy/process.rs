//! kube-proxy itself, where its binary is given: a process on a node, and what it has written to the node's rules.
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;
use crate::topology::Host;

/// Time between two looks at the rules, each of which is a process.
const POLL: Duration = Duration::from_millis(20);

/// `--proxy-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rules of nftables.
    Nftables,
    /// Rules of iptables.
    Iptables,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// The flag's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// What shows where packets to a Service's address go, over IPv4: a line for each.
    const fn services(self) -> &'static [&'static str] {
        match self {
            Self::Nftables => &["nft", "list", "map", "ip", "kube-proxy", "service-ips"],
            Self::Iptables => &["iptables", "-w", "-t", "nat", "-S", "KUBE-SERVICES"],
        }
    }

    /// What shows a chain.
    fn chain(self, chain: &str) -> Vec<&str> {
        match self {
            Self::Nftables => vec!["nft", "list", "chain", "ip", "kube-proxy", chain],
            Self::Iptables => vec!["iptables", "-w", "-t", "nat", "-S", chain],
        }
    }
}

/// A running kube-proxy. Dropping it kills it; its rules stay with the node's namespace.
#[derive(Debug)]
pub struct KubeProxy {
    process: Process,
    mode: Mode,
    node: Host,
}

impl KubeProxy {
    /// Starts a binary for a node whose Node object has the host's name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(binary: &Path, node: &Host, kubeconfig: &Path, mode: Mode) -> Result<Self> {
        let mut command = node.command(binary);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.arg(format!("--hostname-override={}", node.name()));
        command.arg(format!("--proxy-mode={}", mode.name()));
        command.args([
            "--cluster-cidr=10.244.0.0/16",
            // The API server of the tests speaks no protobuf.
            "--kube-api-content-type=application/json",
            // Settings of the machine, which a namespace may not change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        Ok(Self { process: Process::start(command, "kube-proxy")?, mode, node: node.clone() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the rules lead somewhere from a Service's IPv4 address and TCP port; the chain, and when that was
    /// seen.
    ///
    /// # Errors
    /// They do not before the deadline, or it has ended; the message has its log.
    pub fn wait_for_service(
        &mut self,
        address: IpAddr,
        port: u16,
        deadline: Duration,
    ) -> Result<(String, Instant)> {
        let what = format!("Service {address}:{port}");
        self.wait(&what, deadline, |proxy| {
            let text = proxy.show(proxy.mode.services())?;
            Ok(text.lines().find_map(|line| chain_of(proxy.mode, line, address, port)))
        })
    }

    /// Waits until a chain names an endpoint, or names it no more; when that was seen.
    ///
    /// # Errors
    /// As [`KubeProxy::wait_for_service`].
    pub fn wait_for_endpoint(
        &mut self,
        chain: &str,
        endpoint: SocketAddr,
        is_there: bool,
        deadline: Duration,
    ) -> Result<Instant> {
        // As names of chains in nftables have it, and comments of iptables.
        let texts = [format!("{}/{}", endpoint.ip(), endpoint.port()), endpoint.to_string()];
        let what = format!("the change of endpoint {endpoint}");
        let chain = self.mode.chain(chain);
        let seen = self.wait(&what, deadline, |proxy| {
            let text = proxy.show(&chain)?;
            let names =
                |text_of: &String| text.split([' ', '"', '\n', ',']).any(|word| word.ends_with(text_of));
            Ok((texts.iter().any(names) == is_there).then_some(()))
        })?;
        Ok(seen.1)
    }

    fn wait<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        look: impl Fn(&Self) -> Result<Option<T>>,
    ) -> Result<(T, Instant)> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok((found, Instant::now()));
            }
            let is_running = self.process.is_running();
            if !is_running || begun.elapsed() > deadline {
                let event = if is_running { "is late" } else { "has ended" };
                bail!("kube-proxy {event}: {what} is not in its rules; its log:\n{}", self.process.log());
            }
            std::thread::sleep(POLL);
        }
    }

    /// What a program prints on the node; nothing where it fails, as it does before the first rules.
    fn show(&self, words: &[&str]) -> Result<String> {
        let output = self.node.command(words[0]).args(&words[1..]).output();
        let output = output.with_context(|| format!("cannot run {}", words[0]))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The chain that a line leads to from a Service's address and port.
fn chain_of(mode: Mode, line: &str, address: IpAddr, port: u16) -> Option<String> {
    match mode {
        Mode::Nftables => {
            // Elements stand several a line.
            let (_, rest) = line.split_once(&format!("{address} . tcp . {port} "))?;
            let (_, chain) = rest.split_once(": goto ")?;
            Some(chain.split([' ', ',']).next()?.to_owned())
        }
        Mode::Iptables => {
            let is_it =
                line.contains(&format!("-d {address}/32 ")) && line.contains(&format!("--dport {port} "));
            let (_, chain) = line.split_once(" -j ").filter(|_| is_it)?;
            Some(chain.split(' ').next()?.to_owned())
        }
    }
}

/// What a binary says that it is, for instance `Kubernetes v1.36.0`.
///
/// # Errors
/// It cannot be run, or is none of Kubernetes' binaries.
pub fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {} as kube-proxy", binary.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    ensure!(said.starts_with("Kubernetes v"), "{} is no kube-proxy: it says {said:?}", binary.display());
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_found_among_nftables_elements() {
        let line = "elements = { 10.96.0.1 . tcp . 80 : goto service-A-default/a/tcp/, 10.96.0.2 . tcp . 80 \
                    : goto service-B-default/b/tcp/http }";
        let found = chain_of(Mode::Nftables, line, "10.96.0.2".parse().unwrap(), 80);
        assert_eq!(found.as_deref(), Some("service-B-default/b/tcp/http"));
    }

    #[test]
    fn a_chain_is_found_in_an_iptables_rule() {
        let line = "-A KUBE-SERVICES -d 10.96.0.2/32 -p tcp -m comment --comment \"default/b:http cluster IP\" \
                    -m tcp --dport 80 -j KUBE-SVC-ABC";
        let found = |address: &str| chain_of(Mode::Iptables, line, address.parse().unwrap(), 80);
        assert_eq!((found("10.96.0.2").as_deref(), found("10.96.0.1")), (Some("KUBE-SVC-ABC"), None));
    }

    #[test]
    fn a_binary_that_is_none_of_kubernetes_is_told() {
        let error = version("/bin/true".as_ref()).unwrap_err().to_string();
        assert!(error.starts_with("/bin/true is no kube-proxy: it says \"true"), "{error}");
    }
}
