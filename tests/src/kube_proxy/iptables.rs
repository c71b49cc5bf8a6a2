//! The rules of its iptables mode (`pkg/proxy/iptables`): the same chains and kinds of rules in the tables nat
//! and filter. Session affinity and traffic policies are not written.
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lb_userspace::model::TrafficPolicy;

use super::CLUSTER_CIDRS;
use crate::manifests::{NAMESPACE, Service, ServicePort};
use crate::topology::Node;

/// What restores the rules of each family.
const PROGRAMS: [&str; 2] = ["iptables-restore", "ip6tables-restore"];
/// Longest prefix of each family.
const HOST_BITS: [u8; 2] = [32, 128];

/// Replaces the rules of both families on `node`.
///
/// # Errors
/// A Service has what is not written; `iptables-restore` refuses the rules.
pub fn load(node: &Node, services: &[&Service]) -> Result<()> {
    for family in 0..2 {
        restore(node, family, &rules(services, family)?)?;
    }
    Ok(())
}

fn restore(node: &Node, family: usize, text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::with_prefix("podway-iptables-").context("cannot make a file")?;
    std::fs::write(file.path(), text).context("cannot write the rules")?;
    let input = file.reopen().context("cannot read the rules")?;
    let program = PROGRAMS[family];
    let mut command = node.host().command(program);
    let output =
        command.stdin(Stdio::from(input)).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// One family's rules, table by table.
struct Rules {
    family: usize,
    chains: String,
    /// Of KUBE-SERVICES, which a packet of a new flow meets one by one.
    services: String,
    others: String,
    refusals: String,
}

fn rules(services: &[&Service], family: usize) -> Result<String> {
    let mut rules = Rules {
        family,
        chains: String::new(),
        services: String::new(),
        others: String::new(),
        refusals: String::new(),
    };
    for service in services.iter().filter(|service| service.families.indices().any(|has| has == family)) {
        let policies = [service.internal_traffic_policy, service.external_traffic_policy];
        let has_policy = service.affinity_timeout_s.is_some() || policies.contains(&TrafficPolicy::Local);
        ensure!(!has_policy, "Service {}: affinity and policies are not written", service.name);
        for (index, port) in service.ports.iter().enumerate() {
            rules.port(service, index, port);
        }
    }
    Ok(rules.text())
}

impl Rules {
    /// The chains of one Service port, and the rules that lead there.
    fn port(&mut self, service: &Service, index: usize, port: &ServicePort) {
        let (family, protocol) = (self.family, port.protocol.to_string().to_lowercase());
        let base = hash(&service.name, index);
        let name = format!("{NAMESPACE}/{}:{}", service.name, port.name);
        let usable = service.endpoints.iter().filter(|endpoint| endpoint.ready);
        let endpoints: Vec<SocketAddr> =
            usable.map(|endpoint| SocketAddr::new(endpoint.addresses[family], port.target_port)).collect();
        let bits = HOST_BITS[family];
        let matching = |address: IpAddr| {
            format!("-d {address}/{bits} -p {protocol} -m {protocol} --dport {}", port.port)
        };
        let cluster_ip = matching(service.cluster_ips[family]);
        let outside: Vec<String> = service
            .external_ips
            .iter()
            .chain(&service.load_balancer_ips)
            .filter(|address| address.is_ipv4() == (family == 0))
            .map(|address| matching(*address))
            .collect();
        if endpoints.is_empty() {
            for matching in [cluster_ip].iter().chain(&outside) {
                let comment = format!("-m comment --comment \"{name} has no endpoints\"");
                line(&mut self.refusals, &format!("-A KUBE-SERVICES {comment} {matching} -j REJECT"));
            }
            return;
        }
        let comment = |what: &str| format!("-m comment --comment \"{name} {what}\"");
        line(&mut self.chains, &format!(":KUBE-SVC-{base} - [0:0]"));
        line(
            &mut self.services,
            &format!("-A KUBE-SERVICES {} {cluster_ip} -j KUBE-SVC-{base}", comment("cluster IP")),
        );
        for matching in outside {
            let comment = comment("loadbalancer IP");
            line(&mut self.services, &format!("-A KUBE-SERVICES {comment} {matching} -j KUBE-EXT-{base}"));
        }
        if let Some(node_port) = port.node_port {
            line(
                &mut self.others,
                &format!(
                    "-A KUBE-NODEPORTS {} -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{base}",
                    comment("")
                ),
            );
        }
        line(&mut self.chains, &format!(":KUBE-EXT-{base} - [0:0]"));
        line(
            &mut self.others,
            &format!("-A KUBE-EXT-{base} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{base} -j KUBE-SVC-{base}"),
        );
        let pods = CLUSTER_CIDRS[family];
        line(&mut self.others, &format!("-A KUBE-SVC-{base} ! -s {pods} {cluster_ip} -j KUBE-MARK-MASQ"));
        self.endpoints(&base, &name, &protocol, &endpoints);
    }

    /// Each endpoint with its share of what the ones before it leave.
    fn endpoints(&mut self, base: &str, name: &str, protocol: &str, endpoints: &[SocketAddr]) {
        for (index, endpoint) in endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{base}{index:X}");
            let left = endpoints.len() - index;
            let chance = match left {
                1 => String::new(),
                left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
            };
            line(&mut self.chains, &format!(":{chain} - [0:0]"));
            let comment = format!("-m comment --comment \"{name} -> {endpoint}\"");
            line(&mut self.others, &format!("-A KUBE-SVC-{base} {comment} {chance}-j {chain}"));
            let (address, bits) = (endpoint.ip(), HOST_BITS[self.family]);
            line(&mut self.others, &format!("-A {chain} -s {address}/{bits} -j KUBE-MARK-MASQ"));
            line(
                &mut self.others,
                &format!("-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}"),
            );
        }
    }

    fn text(&self) -> String {
        let Self { chains, services, others, refusals, .. } = self;
        let portals = "-m comment --comment \"kubernetes service portals\"";
        format!(
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
             :KUBE-MARK-MASQ - [0:0]\n{chains}\
             -A PREROUTING {portals} -j KUBE-SERVICES\n\
             -A OUTPUT {portals} -j KUBE-SERVICES\n\
             -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             {services}\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             {others}COMMIT\n\
             *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
             :KUBE-PROXY-FIREWALL - [0:0]\n\
             -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
             -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
             -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
             -A FORWARD -j KUBE-FORWARD\n\
             -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
             -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
             -A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
             -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             {refusals}COMMIT\n"
        )
    }
}

fn line(text: &mut String, rule: &str) {
    writeln!(text, "{rule}").expect("memory is enough");
}

/// What stands for the hash of a Service port's name in the names of chains: FNV-1a, in as many letters.
fn hash(service: &str, port: usize) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in service.bytes().chain(port.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // A chain's name has 28 characters at most, and endpoints add to this one.
    format!("{:014X}", hash >> 8)
}
