//! What there is of kube-proxy on this node, running or left behind, without its rules being read.
use std::path::Path;
use std::process::Command;

use rustix::net::netlink;

use crate::attach::netlink::{Attributes, dump, text};

/// The name of its process.
const PROCESS: &str = "kube-proxy";
/// The name of its tables in nftables mode.
const TABLE: &str = "kube-proxy";
/// A chain that it has in iptables mode.
const CHAIN: &str = "KUBE-SERVICES";
/// The interface that it makes in ipvs mode.
const IPVS_INTERFACE: &str = "/proc/sys/net/ipv4/conf/kube-ipvs0";

/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's type.
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
/// Bytes of `struct nfgenmsg`: family, version, two of a number.
const NFGENMSG_BYTES: usize = 4;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Its processes in this network namespace, as far as this process namespace shows them, by number.
#[must_use]
pub fn processes() -> Vec<u32> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let own = namespace("self");
    let is_one = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == PROCESS) && namespace(&pid.to_string()) == own
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<u32> = pids.filter(is_one).collect();
    found.sort_unstable();
    found
}

/// Its rules in this network namespace, one text for each kind; what cannot be asked counts as not there.
#[must_use]
pub fn rules() -> Vec<String> {
    let mut found = Vec::new();
    for (family, name) in [(NFPROTO_IPV4, "ip"), (NFPROTO_IPV6, "ip6")] {
        if has_table(family) {
            found.push(format!("table {name} {TABLE}"));
        }
        if let Some(table) = table_with_chain(family) {
            found.push(format!("chain {CHAIN} in table {name} {table}"));
        }
    }
    if has_legacy_chain() {
        found.push(format!("chain {CHAIN} in iptables-legacy"));
    }
    if Path::new(IPVS_INTERFACE).exists() {
        found.push("interface kube-ipvs0".into());
    }
    found
}

fn has_table(family: u8) -> bool {
    let names = nftables(NFT_MSG_GETTABLE, family, |attributes| attribute(attributes, NFTA_TABLE_NAME));
    names.iter().any(|name| name == TABLE)
}

fn table_with_chain(family: u8) -> Option<String> {
    let chains = nftables(NFT_MSG_GETCHAIN, family, |attributes| {
        Some((attribute(attributes, NFTA_CHAIN_NAME)?, attribute(attributes, NFTA_CHAIN_TABLE)?))
    });
    chains.into_iter().find(|(name, _)| name == CHAIN).map(|(_, table)| table)
}

/// What `read` makes of each message of a dump of one family.
fn nftables<T>(question: u16, family: u8, read: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
    let answers = dump(Some(netlink::NETFILTER), NFTABLES | question, &[family, 0, 0, 0]).unwrap_or_default();
    answers.iter().filter_map(|answer| read(answer.payload.get(NFGENMSG_BYTES..)?)).collect()
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<String> {
    Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value))
}

/// The kernel's older iptables have no names in nftables; only their own program lists them.
fn has_legacy_chain() -> bool {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    if !tables.lines().any(|table| table == "nat") {
        return false;
    }
    let output = Command::new("iptables-legacy-save").args(["-t", "nat"]).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!(":{CHAIN} ")))
}
