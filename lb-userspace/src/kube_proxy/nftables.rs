//! kube-proxy's nftables mode, from `nft -j list table` (Kubernetes 1.31 and later, `pkg/proxy/nftables`).
//!
//! Verdict maps lead an address and port (`service-ips`), or a port alone (`service-nodeports`), to a
//! chain; `no-endpoint-services` and `no-endpoint-nodeports` say what becomes of flows that no chain took,
//! and `firewall-ips` leads to the source ranges.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::chains::{Action, Chains, Rule, When};
use super::{Entries, NodePortAddresses, Outcome, Range, Rules};
use crate::model::{ObjectName, Protocol};

/// The helper chain behind verdicts that refuse.
const REJECT_CHAIN: &str = "reject-chain";
/// The helper chain that marks flows for source NAT.
const MASQUERADE_CHAIN: &str = "mark-for-masquerade";

/// A verdict map by its key: address (absent in maps of node ports), protocol and port.
type VerdictMap<'a> = BTreeMap<(Option<IpAddr>, Protocol, u16), (Target<'a>, Option<&'a str>)>;

/// Where an element of a verdict map leads.
#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Chain(&'a str),
    Drop,
}

impl Target<'_> {
    fn outcome(self) -> Result<Outcome> {
        match self {
            Self::Drop => Ok(Outcome::Drop),
            Self::Chain(REJECT_CHAIN) => Ok(Outcome::Refuse),
            Self::Chain(other) => bail!("the chain {other} is no verdict"),
        }
    }
}

/// Reads the output of `nft -j list table FAMILY kube-proxy`.
///
/// # Errors
/// It is no JSON, or not kube-proxy's rules as this version knows them.
pub(super) fn parse(text: &str) -> Result<Rules> {
    let value: Value = serde_json::from_str(text).context("cannot read nft's output as JSON")?;
    let objects = value["nftables"].as_array().context("nft's output has no list named nftables")?;
    let table = Table::of(objects);
    let mut entries = Entries::new();
    let chains = table.chains()?;
    for name in ["service-ips", "service-nodeports"] {
        for (key, (target, _)) in table.verdict_map(name)? {
            let Target::Chain(chain) = target else { bail!("the map {name} has a verdict without a chain") };
            let entry = entries.entry(key).or_default();
            entry.service = service_of_chain(chain);
            entry.chain = Some(chain.to_owned());
        }
    }
    for name in ["no-endpoint-services", "no-endpoint-nodeports"] {
        for (key, (target, comment)) in table.verdict_map(name)? {
            let entry = entries.entry(key).or_default();
            entry.without_endpoints = Some(target.outcome().with_context(|| format!("map {name}"))?);
            entry.service = entry.service.take().or_else(|| comment.and_then(super::service_name));
        }
    }
    for (key, (target, _)) in table.verdict_map("firewall-ips")? {
        let Target::Chain(chain) = target else {
            bail!("the map firewall-ips has a verdict without a chain")
        };
        let ranges = table.source_ranges(chain).with_context(|| format!("chain {chain}"))?;
        entries.entry(key).or_default().source_ranges = Some(ranges);
    }
    Rules::of(entries, table.addresses()?, &chains)
}

/// `service-HASH-NAMESPACE/NAME/PROTOCOL/PORT`, also with `local-` or `external-` in front.
fn service_of_chain(chain: &str) -> Option<ObjectName> {
    let mut parts = chain.splitn(3, '-').nth(2)?.split('/');
    Some(ObjectName::new(parts.next()?, parts.next()?))
}

/// The objects of one table.
struct Table<'a> {
    maps: BTreeMap<&'a str, &'a Value>,
    sets: BTreeMap<&'a str, &'a Value>,
    chains: BTreeSet<&'a str>,
    rules: Vec<(&'a str, &'a Value)>,
}

impl<'a> Table<'a> {
    fn of(objects: &'a [Value]) -> Self {
        let mut table =
            Self { maps: BTreeMap::new(), sets: BTreeMap::new(), chains: BTreeSet::new(), rules: Vec::new() };
        for object in objects {
            let named = |kind: &str| object[kind]["name"].as_str().map(|name| (name, &object[kind]));
            table.maps.extend(named("map"));
            table.sets.extend(named("set"));
            table.chains.extend(named("chain").map(|(name, _)| name));
            let rule = &object["rule"];
            table.rules.extend(rule["chain"].as_str().map(|chain| (chain, rule)));
        }
        table
    }

    fn verdict_map(&self, name: &str) -> Result<VerdictMap<'a>> {
        let map = self.maps.get(name).with_context(|| {
            format!("the table has no map {name}: these are not the rules of a kube-proxy that is known")
        })?;
        let mut elements = BTreeMap::new();
        // A map without elements has no such field.
        for element in map["elem"].as_array().into_iter().flatten() {
            let (key, target, comment) =
                verdict_element(element).with_context(|| format!("map {name}: cannot read {element}"))?;
            elements.insert(key, (target, comment));
        }
        Ok(elements)
    }

    /// The node ports' addresses; without the set kube-proxy takes all.
    fn addresses(&self) -> Result<NodePortAddresses> {
        let Some(set) = self.sets.get("nodeport-ips") else { return Ok(NodePortAddresses::All) };
        let elements = set["elem"].as_array().into_iter().flatten();
        let addresses = elements.map(|element| {
            let text = element.as_str().context("an element of nodeport-ips is no text")?;
            text.parse().with_context(|| format!("nodeport-ips: {text:?} is no address"))
        });
        Ok(NodePortAddresses::These(addresses.collect::<Result<_>>()?))
    }

    /// The chains that lead to endpoints. Others (base chains, checks, marks) lead no flow on.
    fn chains(&self) -> Result<Chains> {
        let leads_on = |name: &str| {
            ["service-", "local-", "external-", "endpoint-"].iter().any(|prefix| name.starts_with(prefix))
                && name.contains('/')
        };
        let names = self.chains.iter().filter(|name| leads_on(name));
        let mut chains = Chains(names.map(|name| ((*name).to_owned(), Vec::new())).collect());
        for (chain, rule) in &self.rules {
            if let Some(rules) = chains.0.get_mut(*chain) {
                let rule = self
                    .rule(rule)
                    .with_context(|| format!("cannot read a rule of the chain {chain}: {}", rule["expr"]))?;
                rules.push(rule);
            }
        }
        Ok(chains)
    }

    fn rule(&self, rule: &Value) -> Result<Rule> {
        let mut read = Rule { when: When::Always, action: Action::Nothing };
        for expression in rule["expr"].as_array().context("it has no expressions")? {
            let (kind, value) =
                expression.as_object().and_then(|map| map.iter().next()).context("an expression is empty")?;
            match kind.as_str() {
                "match" => read.when = self.when(value)?.unwrap_or(read.when),
                "jump" | "goto" => match text(&value["target"])? {
                    MASQUERADE_CHAIN => {}
                    chain => read.action = Action::Chain(chain.to_owned()),
                },
                "vmap" => read.action = Action::OneOf(random_targets(value)?),
                "dnat" => read.action = Action::Endpoint(endpoint(value)?),
                "drop" => read.action = Action::End(Outcome::Drop),
                "reject" => read.action = Action::End(Outcome::Refuse),
                // An endpoint chain notes the client, and counters count.
                "set" | "counter" => {}
                other => bail!("the expression {other} is unknown"),
            }
        }
        Ok(read)
    }

    /// Which clients a match is for; `None` where it repeats what the verdict map has said.
    fn when(&self, matched: &Value) -> Result<Option<When>> {
        let left = &matched["left"];
        let is_source = left["payload"]["field"] == "saddr"
            || left["fib"]["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "saddr"))
            || matches!(left["meta"]["key"].as_str(), Some("iif" | "iifname"));
        if !is_source {
            let is_known = matches!(left["payload"]["field"].as_str(), Some("daddr" | "dport"))
                || left["meta"]["key"] == "l4proto";
            anyhow::ensure!(is_known, "the match {left} is unknown");
            return Ok(None);
        }
        if let Some(set) = matched["right"].as_str().and_then(|right| right.strip_prefix('@')) {
            let timeout = self.sets.get(set).and_then(|set| set["timeout"].as_u64());
            let timeout_s = timeout.and_then(|seconds| u32::try_from(seconds).ok());
            return Ok(Some(When::Sticky(
                timeout_s.with_context(|| format!("the set {set} has no timeout"))?,
            )));
        }
        match text(&matched["op"])? {
            "!=" => Ok(Some(When::FromOutside)),
            _ => Ok(Some(When::FromInside)),
        }
    }

    /// `ip saddr != RANGES drop`.
    fn source_ranges(&self, chain: &str) -> Result<BTreeSet<Range>> {
        let rules = self.rules.iter().filter(|(name, _)| *name == chain);
        for (_, rule) in rules {
            let matched = &rule["expr"][0]["match"];
            if matched["op"] == "!=" && matched["left"]["payload"]["field"] == "saddr" {
                let right = &matched["right"];
                return match right["set"].as_array() {
                    Some(elements) => elements.iter().map(range).collect(),
                    None => Ok(BTreeSet::from([range(right)?])),
                };
            }
        }
        bail!("no rule there bounds the sources")
    }
}

type Element<'a> = ((Option<IpAddr>, Protocol, u16), Target<'a>, Option<&'a str>);

fn verdict_element(element: &Value) -> Result<Element<'_>> {
    let (key, verdict) = (&element[0], &element[1]);
    let (value, comment) = match key.get("elem") {
        Some(described) => (&described["val"], described["comment"].as_str()),
        None => (key, None),
    };
    let parts = value["concat"].as_array().context("its key has no parts")?;
    let (address, rest) = match &parts[..] {
        [address, rest @ ..] if rest.len() == 2 => {
            (Some(text(address)?.parse().context("no address")?), rest)
        }
        rest => (None, rest),
    };
    let [protocol, port] = rest else { bail!("its key has neither two parts nor three") };
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).context("its port is no number")?;
    let target = match verdict["goto"]["target"].as_str().or_else(|| verdict["jump"]["target"].as_str()) {
        Some(chain) => Target::Chain(chain),
        None if verdict.get("drop").is_some() => Target::Drop,
        None => bail!("its verdict is unknown"),
    };
    Ok(((address, super::protocol(text(protocol)?)?, port), target, comment))
}

/// `numgen random mod N vmap { 0 : goto CHAIN, … }`.
fn random_targets(map: &Value) -> Result<Vec<String>> {
    anyhow::ensure!(map["key"]["numgen"]["mode"] == "random", "the vmap does not choose at random");
    let elements = map["data"]["set"].as_array().context("the vmap has no elements")?;
    elements.iter().map(|element| Ok(text(&element[1]["goto"]["target"])?.to_owned())).collect()
}

fn endpoint(value: &Value) -> Result<SocketAddr> {
    let address = text(&value["addr"])?.parse().context("dnat leads to no address")?;
    let port =
        value["port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("dnat leads to no port")?;
    Ok(SocketAddr::new(address, port))
}

/// An address, or a prefix.
fn range(value: &Value) -> Result<Range> {
    let prefix = &value["prefix"];
    let address: IpAddr = match value.as_str() {
        Some(address) => address,
        None => text(&prefix["addr"])?,
    }
    .parse()
    .with_context(|| format!("{value} is no range"))?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let bits = prefix["len"].as_u64().map_or(Ok(whole), u8::try_from).context("a prefix is too long")?;
    Ok((address, bits))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

#[cfg(test)]
#[path = "nftables_tests.rs"]
mod tests;
