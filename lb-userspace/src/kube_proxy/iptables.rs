//! kube-proxy's iptables mode, from `iptables-save` (Kubernetes 1.27 and later, `pkg/proxy/iptables`).
//!
//! In the table nat, KUBE-SERVICES and KUBE-NODEPORTS lead to a chain for each Service port; in the table
//! filter, KUBE-SERVICES and KUBE-EXTERNAL-SERVICES refuse or drop what has no endpoints, and
//! KUBE-PROXY-FIREWALL leads to the source ranges.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};

use super::chains::{Action, Chains, Rule, When};
use super::{Entries, NodePortAddresses, Outcome, Range, Rules};
use crate::attach::Cidr;
use crate::model::{ObjectName, Protocol};

/// Chains that lead to endpoints.
const LEADING: [&str; 4] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-SEP-"];

/// One line of `iptables-save`, as far as it decides anything.
#[derive(Debug, Default)]
struct Line {
    table: String,
    chain: String,
    source: Option<String>,
    is_source_negated: bool,
    destination: Option<Range>,
    protocol: Option<Protocol>,
    port: Option<u16>,
    comment: Option<String>,
    /// `--src-type LOCAL`, or the interface of a pod.
    is_from_inside: bool,
    is_to_local: bool,
    is_share: bool,
    is_recent: bool,
    seconds: Option<u32>,
    to: Option<SocketAddr>,
    target: String,
}

impl Line {
    fn service(&self) -> Option<ObjectName> {
        super::service_name(self.comment.as_deref()?.split_whitespace().next()?)
    }

    /// What was dialled: with an address, or as a node port without one.
    fn key(&self) -> Option<(Option<IpAddr>, Protocol, u16)> {
        let address = match self.destination {
            // A rule for a network counts packets to node ports on loopback addresses.
            Some((address, bits)) => Some((bits == whole(address)).then_some(address)?),
            None => None,
        };
        Some((address, self.protocol?, self.port?))
    }

    fn when(&self) -> When {
        match (&self.source, self.is_recent, self.seconds) {
            (_, true, Some(seconds)) => When::Sticky(seconds),
            _ if self.is_share => When::Sometimes,
            (Some(_), ..) if self.is_source_negated => When::FromOutside,
            (Some(_), ..) => When::FromInside,
            _ if self.is_from_inside => When::FromInside,
            _ => When::Always,
        }
    }

    fn action(&self) -> Result<Action> {
        match self.target.as_str() {
            "DNAT" => Ok(Action::Endpoint(self.to.context("DNAT has no destination")?)),
            "KUBE-MARK-MASQ" | "" => Ok(Action::Nothing),
            chain if LEADING.iter().any(|prefix| chain.starts_with(prefix)) => {
                Ok(Action::Chain(chain.to_owned()))
            }
            other => bail!("the target {other} is unknown"),
        }
    }
}

/// Reads the output of `iptables-save` or `ip6tables-save`.
///
/// # Errors
/// A line cannot be read, or these are not kube-proxy's rules as this version knows them.
pub(super) fn parse(text: &str) -> Result<Rules> {
    let lines = lines(text)?;
    let in_chain = |table: &'static str, chain: &'static str| {
        lines.iter().filter(move |line| line.table == table && line.chain == chain)
    };
    let mut chains = Chains(declared(text));
    for line in &lines {
        if let Some(rules) = chains.0.get_mut(&line.chain) {
            let action = line.action().with_context(|| format!("chain {}", line.chain))?;
            rules.push(Rule { when: line.when(), action });
        }
    }
    let mut entries = Entries::new();
    let mut addresses = NodePortAddresses::These(BTreeSet::new());
    for line in in_chain("nat", "KUBE-SERVICES").chain(in_chain("nat", "KUBE-NODEPORTS")) {
        if line.target == "KUBE-NODEPORTS" {
            note_address(&mut addresses, line);
        } else if let (Some(key), Action::Chain(chain)) = (line.key(), line.action()?) {
            let entry = entries.entry(key).or_default();
            entry.service = line.service();
            entry.chain = Some(chain);
        }
    }
    for line in in_chain("filter", "KUBE-SERVICES").chain(in_chain("filter", "KUBE-EXTERNAL-SERVICES")) {
        let Some(key) = line.key() else { continue };
        let entry = entries.entry(key).or_default();
        entry.without_endpoints = Some(match line.target.as_str() {
            "REJECT" => Outcome::Refuse,
            "DROP" => Outcome::Drop,
            other => bail!("chain {}: the verdict {other} is unknown", line.chain),
        });
        entry.service = entry.service.take().or_else(|| line.service());
    }
    for line in in_chain("filter", "KUBE-PROXY-FIREWALL") {
        let Some(key) = line.key() else { continue };
        entries.entry(key).or_default().source_ranges = Some(source_ranges(&lines, &line.target)?);
    }
    Rules::of(entries, addresses, &chains)
}

/// `KUBE-SERVICES -j KUBE-NODEPORTS` is for all local addresses or, once for each, for one.
fn note_address(addresses: &mut NodePortAddresses, line: &Line) {
    match (line.destination, addresses) {
        (Some((address, _)), NodePortAddresses::These(known)) => drop(known.insert(address)),
        (None, addresses) if line.is_to_local => *addresses = NodePortAddresses::All,
        _ => {}
    }
}

/// `-s RANGE -j RETURN` for each range, then `-j DROP`.
fn source_ranges(lines: &[Line], chain: &str) -> Result<BTreeSet<Range>> {
    let allowed = lines.iter().filter(|line| line.chain == chain && line.target == "RETURN");
    let ranges: BTreeSet<Range> = allowed
        .filter_map(|line| line.source.as_deref())
        .map(|text| range(text).with_context(|| format!("chain {chain}")))
        .collect::<Result<_>>()?;
    anyhow::ensure!(!ranges.is_empty(), "the chain {chain} lets no source in");
    Ok(ranges)
}

fn range(text: &str) -> Result<Range> {
    let with_bits = text.parse::<Cidr>().map(|Cidr(address, bits)| (address, bits));
    let alone = text.parse::<IpAddr>().map(|address| (address, whole(address)));
    with_bits.ok().or(alone.ok()).with_context(|| format!("{text:?} is no range"))
}

fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The chains that are declared (`:NAME - [0:0]`): one without rules is there all the same.
fn declared(text: &str) -> BTreeMap<String, Vec<Rule>> {
    let names = text.lines().filter_map(|line| line.strip_prefix(':')?.split_whitespace().next());
    let leading = names.filter(|name| LEADING.iter().any(|prefix| name.starts_with(prefix)));
    leading.map(|name| (name.to_owned(), Vec::new())).collect()
}

fn lines(text: &str) -> Result<Vec<Line>> {
    let mut table = String::new();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim().to_owned();
        } else if line.starts_with("-A KUBE-") {
            let read = rule_line(line).with_context(|| format!("cannot read line {number}: {line}"))?;
            lines.push(Line { table: table.clone(), ..read });
        }
    }
    Ok(lines)
}

fn rule_line(text: &str) -> Result<Line> {
    let words = words(text)?;
    let mut words = words.iter().map(String::as_str);
    let mut line = Line::default();
    let mut is_negated = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} has no value"));
        match word {
            "!" => {
                is_negated = true;
                continue;
            }
            "-A" => line.chain = value()?.to_owned(),
            "-j" | "-g" => line.target = value()?.to_owned(),
            "-s" => {
                line.source = Some(value()?.to_owned());
                line.is_source_negated = is_negated;
            }
            "-d" => line.destination = Some(range(value()?)?),
            "-i" => {
                value()?;
                line.is_from_inside = !is_negated;
            }
            "-p" => line.protocol = super::protocol(value()?).ok(),
            "--dport" => line.port = Some(value()?.parse().context("--dport is no port")?),
            "--comment" => line.comment = Some(value()?.to_owned()),
            "--src-type" => line.is_from_inside = value()? == "LOCAL" && !is_negated,
            "--dst-type" => line.is_to_local = value()? == "LOCAL",
            "--probability" => {
                value()?;
                line.is_share = true;
            }
            "--rcheck" => line.is_recent = true,
            "--seconds" => line.seconds = Some(value()?.parse().context("--seconds is no number")?),
            "--to-destination" => {
                line.to = Some(value()?.parse().context("--to-destination is no address and port")?);
            }
            // Names of matches and their other options decide nothing here.
            _ => {}
        }
        is_negated = false;
    }
    Ok(line)
}

/// Words apart, quoted ones whole.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').context("a quoted text does not end")?,
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
#[path = "iptables_tests.rs"]
mod tests;
