//! kube-proxy's rules as they stand on this node.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Frontends, Rules, iptables, nftables};

/// Which rules are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Those that are there: nftables, else iptables.
    #[default]
    Auto,
    /// The nftables tables named kube-proxy.
    Nftables,
    /// The iptables chains named KUBE-*.
    Iptables,
}

/// The interface that kube-proxy makes in ipvs mode, to have the service addresses on.
const IPVS_INTERFACE: &str = "/sys/class/net/kube-ipvs0";

/// The frontends of both families. `node_addresses` are those that node ports answer on where the rules
/// say all.
///
/// # Errors
/// There are no rules of kube-proxy's, or they cannot be read.
pub fn frontends(mode: Mode, node_addresses: &BTreeSet<IpAddr>) -> Result<Frontends> {
    ensure!(
        !Path::new(IPVS_INTERFACE).exists(),
        "cannot compare with kube-proxy in ipvs mode (interface kube-ipvs0): its endpoints are in IPVS tables, \
         which this command does not read; compare in nftables or iptables mode"
    );
    let mut found = None;
    if mode != Mode::Iptables {
        found = both_families(nft, node_addresses)?;
    }
    if found.is_none() && mode != Mode::Nftables {
        found = both_families(iptables_save, node_addresses)?;
    }
    found.with_context(|| {
        let where_to = match mode {
            Mode::Auto => "neither tables named kube-proxy in nft nor chains KUBE-SERVICES in iptables-save",
            Mode::Nftables => "no tables named kube-proxy in nft",
            Mode::Iptables => "no chains KUBE-SERVICES in iptables-save",
        };
        format!(
            "cannot find kube-proxy's rules: {where_to}; run this in the node's network namespace, as root"
        )
    })
}

/// Rules of one family, or `None` where it has none.
type Read = fn(is_v4: bool) -> Result<Option<Rules>>;

fn both_families(read: Read, node_addresses: &BTreeSet<IpAddr>) -> Result<Option<Frontends>> {
    let mut all = None;
    for is_v4 in [true, false] {
        let Some(rules) = read(is_v4)? else { continue };
        let addresses = node_addresses.iter().filter(|address| address.is_ipv4() == is_v4).copied().collect();
        all.get_or_insert_with(Frontends::new).extend(rules.on_node(&addresses));
    }
    Ok(all)
}

fn nft(is_v4: bool) -> Result<Option<Rules>> {
    let family = if is_v4 { "ip" } else { "ip6" };
    let what = format!("nft -j list table {family} kube-proxy");
    let Some(output) = output(Command::new("nft").args(["-j", "list", "table", family, "kube-proxy"]))?
    else {
        return Ok(None);
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        // A family that kube-proxy does not serve has no table.
        ensure!(message.contains("No such file or directory"), "{what} has failed: {}", first_line(&message));
        return Ok(None);
    }
    nftables::parse(&String::from_utf8_lossy(&output.stdout))
        .map(Some)
        .with_context(|| format!("cannot use what {what} says"))
}

fn iptables_save(is_v4: bool) -> Result<Option<Rules>> {
    let programs = if is_v4 {
        ["iptables-save", "iptables-legacy-save"]
    } else {
        ["ip6tables-save", "ip6tables-legacy-save"]
    };
    for program in programs {
        let Some(output) = output(&mut Command::new(program))? else { continue };
        if !output.status.success() {
            bail!("{program} has failed: {}", first_line(&String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains(":KUBE-SERVICES ") {
            return iptables::parse(&text)
                .map(Some)
                .with_context(|| format!("cannot use what {program} says"));
        }
    }
    Ok(None)
}

/// What a program says; `None` where it is not installed.
fn output(command: &mut Command) -> Result<Option<std::process::Output>> {
    match command.output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot run {:?}", command.get_program())),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
