//! The rules of its nftables mode (`pkg/proxy/nftables`): the same tables, maps, chains and kinds of rules.
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_userspace::model::TrafficPolicy;
use tempfile::NamedTempFile;

use super::CLUSTER_CIDRS;
use crate::manifests::{NAMESPACE, Service, ServicePort};
use crate::topology::Node;

/// Stands for the hash of a name, which keeps long ones apart.
const HASH: &str = "PWTEST00";

/// Replaces the rules of both families on `node`.
///
/// # Errors
/// `nft` refuses them.
pub fn load(node: &Node, services: &[&Service]) -> Result<()> {
    let script: String = (0..2).map(|family| table(node, services, family)).collect();
    let file = NamedTempFile::with_prefix("podway-nft-").context("cannot make a file")?;
    std::fs::write(file.path(), &script).context("cannot write the rules")?;
    nft(node, &["-f", file.path().to_str().context("the file's name is not UTF-8")?])
}

/// Removes them, as `kube-proxy --cleanup` does.
///
/// # Errors
/// There are none.
pub fn remove(node: &Node) -> Result<()> {
    nft(node, &["delete", "table", "ip", "kube-proxy"])?;
    nft(node, &["delete", "table", "ip6", "kube-proxy"])
}

fn nft(node: &Node, arguments: &[&str]) -> Result<()> {
    let output = node.host().command("nft").args(arguments).output().context("cannot run nft")?;
    ensure!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// One family's table, as it is written.
struct Table<'a> {
    node: &'a Node,
    /// Index of the family: 0 for IPv4, 1 for IPv6.
    family: usize,
    text: String,
}

fn table(node: &Node, services: &[&Service], family: usize) -> String {
    let mut table = Table { node, family, text: String::new() };
    table.begin();
    for service in services.iter().filter(|service| service.families.indices().any(|has| has == family)) {
        for port in &service.ports {
            table.port(service, port);
        }
    }
    table.text
}

impl Table<'_> {
    /// The table's name with its family: `ip kube-proxy`.
    fn name(&self) -> &'static str {
        ["ip kube-proxy", "ip6 kube-proxy"][self.family]
    }

    /// The word of an address field.
    fn ip(&self) -> &'static str {
        ["ip", "ip6"][self.family]
    }

    fn add(&mut self, kind: &str, what: &str) {
        let name = self.name();
        writeln!(self.text, "add {kind} {name} {what}").expect("memory is enough");
    }

    /// What is there without any Service.
    fn begin(&mut self) {
        let (name, ip) = (self.name(), self.ip());
        let address = ["ipv4_addr", "ipv6_addr"][self.family];
        writeln!(self.text, "add table {name}\ndelete table {name}\nadd table {name}")
            .expect("memory is enough");
        self.add("set", &format!("cluster-ips {{ type {address} ; }}"));
        self.add("set", &format!("nodeport-ips {{ type {address} ; }}"));
        for map in ["firewall-ips", "no-endpoint-services", "service-ips"] {
            self.add("map", &format!("{map} {{ type {address} . inet_proto . inet_service : verdict ; }}"));
        }
        for map in ["no-endpoint-nodeports", "service-nodeports"] {
            self.add("map", &format!("{map} {{ type inet_proto . inet_service : verdict ; }}"));
        }
        for (chain, hook) in [
            ("filter-prerouting-pre-dnat", "filter hook prerouting priority -110"),
            ("filter-input", "filter hook input priority 0"),
            ("filter-forward", "filter hook forward priority 0"),
            ("filter-output", "filter hook output priority 0"),
            ("nat-prerouting", "nat hook prerouting priority -100"),
            ("nat-output", "nat hook output priority -100"),
            ("nat-postrouting", "nat hook postrouting priority 100"),
        ] {
            self.add("chain", &format!("{chain} {{ type {hook} ; }}"));
        }
        for chain in [
            "services",
            "firewall-check",
            "service-endpoints-check",
            "nodeport-endpoints-check",
            "cluster-ips-check",
            "reject-chain",
            "mark-for-masquerade",
            "masquerading",
        ] {
            self.add("chain", chain);
        }
        for rule in [
            "nat-prerouting jump services".to_owned(),
            "nat-output jump services".to_owned(),
            "nat-postrouting jump masquerading".to_owned(),
            "filter-prerouting-pre-dnat ct state new jump firewall-check".to_owned(),
            "filter-input ct state new jump nodeport-endpoints-check".to_owned(),
            "filter-input ct state new jump service-endpoints-check".to_owned(),
            "filter-forward ct state new jump service-endpoints-check".to_owned(),
            "filter-forward ct state new jump cluster-ips-check".to_owned(),
            "filter-output ct state new jump service-endpoints-check".to_owned(),
            "filter-output ct state new jump cluster-ips-check".to_owned(),
            format!("services {ip} daddr . meta l4proto . th dport vmap @service-ips"),
            format!("services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
            format!("firewall-check {ip} daddr . meta l4proto . th dport vmap @firewall-ips"),
            format!(
                "service-endpoints-check {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"
            ),
            format!(
                "nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
            ),
            format!("cluster-ips-check {ip} daddr @cluster-ips reject"),
            "reject-chain reject".to_owned(),
            "mark-for-masquerade mark set mark or 0x4000".to_owned(),
            "masquerading mark and 0x4000 == 0 return".to_owned(),
            "masquerading mark set mark xor 0x4000".to_owned(),
            "masquerading masquerade fully-random".to_owned(),
        ] {
            self.add("rule", &rule);
        }
        let node = [IpAddr::from(self.node.host().v4()), self.node.host().v6().into()][self.family];
        self.add("element", &format!("nodeport-ips {{ {node} }}"));
    }

    /// The chains of one Service port, and the elements that lead there.
    fn port(&mut self, service: &Service, port: &ServicePort) {
        let protocol = port.protocol.to_string().to_lowercase();
        let base = format!("{HASH}-{NAMESPACE}/{}/{protocol}/{}", service.name, port.name);
        let usable: Vec<_> = service.endpoints.iter().filter(|endpoint| endpoint.ready).collect();
        let place = |endpoint: &&crate::manifests::Endpoint| {
            SocketAddr::new(endpoint.addresses[self.family], port.target_port)
        };
        let all: Vec<SocketAddr> = usable.iter().map(place).collect();
        let here = usable.iter().filter(|endpoint| endpoint.node == self.node.host().name());
        let local: Vec<SocketAddr> = here.map(place).collect();
        for endpoint in &all {
            self.endpoint_chain(service, &base, &protocol, *endpoint);
        }
        self.policy_chain(service, &format!("service-{base}"), &base, &all);
        let is_local = |policy| policy == TrafficPolicy::Local;
        if is_local(service.internal_traffic_policy) || is_local(service.external_traffic_policy) {
            self.policy_chain(service, &format!("local-{base}"), &base, &local);
        }
        let internal = if is_local(service.internal_traffic_policy) { "local" } else { "service" };
        self.masquerade_outsiders(service, port, &format!("{internal}-{base}"));
        let internal_members = if internal == "local" { &local } else { &all };
        let cluster_ip = service.cluster_ips[self.family];
        let key = format!("{protocol} . {}", port.port);
        self.add("element", &format!("cluster-ips {{ {cluster_ip} }}"));
        if internal_members.is_empty() {
            let verdict = verdict(&all);
            self.add("element", &format!("no-endpoint-services {{ {cluster_ip} . {key} : {verdict} }}"));
        } else {
            self.add("element", &format!("service-ips {{ {cluster_ip} . {key} : goto {internal}-{base} }}"));
        }
        self.outer(service, port, &base, &all, &local);
    }

    /// Clients outside the cluster that dial a cluster IP have to come back through this node.
    fn masquerade_outsiders(&mut self, service: &Service, port: &ServicePort, chain: &str) {
        let (ip, pods, vip) = (self.ip(), CLUSTER_CIDRS[self.family], service.cluster_ips[self.family]);
        let (protocol, number) = (port.protocol.to_string().to_lowercase(), port.port);
        self.add("chain", chain);
        let rule = format!(
            "{chain} {ip} daddr {vip} {protocol} dport {number} {ip} saddr != {pods} jump mark-for-masquerade"
        );
        writeln!(self.text, "insert rule {} {rule}", self.name()).expect("memory is enough");
    }

    /// External, load-balancer and node addresses.
    fn outer(
        &mut self,
        service: &Service,
        port: &ServicePort,
        base: &str,
        all: &[SocketAddr],
        local: &[SocketAddr],
    ) {
        let is_local = service.external_traffic_policy == TrafficPolicy::Local;
        let protocol = port.protocol.to_string().to_lowercase();
        let external = format!("external-{base}");
        if !all.is_empty() {
            self.add("chain", &external);
            if is_local {
                let (ip, pods) = (self.ip(), CLUSTER_CIDRS[self.family]);
                self.add("rule", &format!("{external} {ip} saddr {pods} goto service-{base}"));
                self.add("rule", &format!("{external} fib saddr type local jump mark-for-masquerade"));
                self.add("rule", &format!("{external} fib saddr type local goto service-{base}"));
                if !local.is_empty() {
                    self.add("rule", &format!("{external} goto local-{base}"));
                }
            } else {
                self.add("rule", &format!("{external} jump mark-for-masquerade"));
                self.add("rule", &format!("{external} goto service-{base}"));
            }
        }
        let vips = service.external_ips.iter().chain(&service.load_balancer_ips);
        let mut keys: Vec<(&str, &str, String)> = vips
            .filter(|vip| vip.is_ipv4() == (self.family == 0))
            .map(|vip| ("service-ips", "no-endpoint-services", format!("{vip} . {protocol} . {}", port.port)))
            .collect();
        keys.extend(
            port.node_port.map(|number| {
                ("service-nodeports", "no-endpoint-nodeports", format!("{protocol} . {number}"))
            }),
        );
        let is_without = if is_local { local.is_empty() } else { all.is_empty() };
        for (map, no_endpoint_map, key) in keys {
            if !all.is_empty() {
                self.add("element", &format!("{map} {{ {key} : goto {external} }}"));
            }
            if is_without {
                let (comment, verdict) =
                    (format!("{NAMESPACE}/{}:{}", service.name, port.name), verdict(all));
                self.add(
                    "element",
                    &format!("{no_endpoint_map} {{ {key} comment \"{comment}\" : {verdict} }}"),
                );
            }
        }
    }

    fn endpoint_name(base: &str, endpoint: SocketAddr) -> String {
        format!("{base}__{}/{}", endpoint.ip().to_string().replace(':', "."), endpoint.port())
    }

    fn endpoint_chain(&mut self, service: &Service, base: &str, protocol: &str, endpoint: SocketAddr) {
        let name = Self::endpoint_name(base, endpoint);
        let (ip, address) = (self.ip(), ["ipv4_addr", "ipv6_addr"][self.family]);
        self.add("chain", &format!("endpoint-{name}"));
        self.add("rule", &format!("endpoint-{name} {ip} saddr {} jump mark-for-masquerade", endpoint.ip()));
        if let Some(timeout_s) = service.affinity_timeout_s {
            self.add(
                "set",
                &format!(
                    "affinity-{name} {{ type {address} ; flags dynamic,timeout ; timeout {timeout_s}s ; }}"
                ),
            );
            self.add("rule", &format!("endpoint-{name} update @affinity-{name} {{ {ip} saddr }}"));
        }
        self.add("rule", &format!("endpoint-{name} meta l4proto {protocol} dnat to {endpoint}"));
    }

    fn policy_chain(&mut self, service: &Service, chain: &str, base: &str, endpoints: &[SocketAddr]) {
        if endpoints.is_empty() {
            return;
        }
        self.add("chain", chain);
        let names: Vec<String> =
            endpoints.iter().map(|endpoint| Self::endpoint_name(base, *endpoint)).collect();
        if service.affinity_timeout_s.is_some() {
            for name in &names {
                let ip = self.ip();
                self.add("rule", &format!("{chain} {ip} saddr @affinity-{name} goto endpoint-{name}"));
            }
        }
        let elements: Vec<String> =
            names.iter().enumerate().map(|(index, name)| format!("{index} : goto endpoint-{name}")).collect();
        self.add(
            "rule",
            &format!("{chain} numgen random mod {} vmap {{ {} }}", names.len(), elements.join(", ")),
        );
    }
}

/// On what meets no endpoint: refused where there is none at all, else dropped.
fn verdict(all: &[SocketAddr]) -> &'static str {
    if all.is_empty() { "goto reject-chain" } else { "drop" }
}
