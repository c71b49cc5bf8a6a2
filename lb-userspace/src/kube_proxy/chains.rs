//! The part of kube-proxy's rules that both kinds share: chains of rules that lead a flow on.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use super::Outcome;

/// Chains that lead to one another at most; kube-proxy has three (external, policy, endpoint).
const DEPTH_MAX: usize = 8;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A pod or the node.
    Internal,
    /// A client outside the cluster.
    External,
}

/// Which flows a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// All.
    Always,
    /// Those of pods or of the node itself.
    FromInside,
    /// Those from outside the cluster.
    FromOutside,
    /// A share of them; what is left goes on to the next rule.
    Sometimes,
    /// Those of a client that was here in the last seconds.
    Sticky(u32),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Goes on in another chain.
    Chain(String),
    /// Goes on in one of these.
    OneOf(Vec<String>),
    /// Leads to an endpoint.
    Endpoint(SocketAddr),
    /// Ends the flow.
    End(Outcome),
    /// Nothing that decides where the flow goes.
    Nothing,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) when: When,
    pub(super) action: Action,
}

/// Chains by name.
#[derive(Debug, Default)]
pub(super) struct Chains(pub(super) BTreeMap<String, Vec<Rule>>);

impl Chains {
    /// Where a flow may go that enters `chain`; `None` where it falls through. Notes the affinity that
    /// it meets.
    ///
    /// # Errors
    /// A rule leads to a chain that is not there, or the chains lead in a circle.
    pub(super) fn walk(
        &self,
        chain: &str,
        scope: Scope,
        affinity_timeout_s: &mut Option<u32>,
    ) -> Result<Option<Outcome>> {
        let mut endpoints = BTreeSet::new();
        let end = self.step(chain, scope, DEPTH_MAX, &mut endpoints, affinity_timeout_s)?;
        if endpoints.is_empty() { Ok(end) } else { Ok(Some(Outcome::OneOf(endpoints))) }
    }

    fn step(
        &self,
        chain: &str,
        scope: Scope,
        depth: usize,
        endpoints: &mut BTreeSet<SocketAddr>,
        affinity_timeout_s: &mut Option<u32>,
    ) -> Result<Option<Outcome>> {
        ensure!(depth > 0, "the chain {chain} is more than {DEPTH_MAX} chains deep");
        let rules = self.0.get(chain).with_context(|| format!("there is no chain {chain}"))?;
        for rule in rules {
            let ends = match (rule.when, scope) {
                (When::FromInside, Scope::External) | (When::FromOutside, Scope::Internal) => continue,
                (When::Sticky(timeout_s), _) => {
                    affinity_timeout_s.get_or_insert(timeout_s);
                    false
                }
                (When::Sometimes, _) => false,
                (When::Always | When::FromInside | When::FromOutside, _) => true,
            };
            let targets = match &rule.action {
                Action::Nothing => continue,
                Action::End(outcome) => return Ok(Some(outcome.clone())),
                Action::Endpoint(endpoint) => {
                    endpoints.insert(*endpoint);
                    return Ok(None);
                }
                Action::Chain(target) => std::slice::from_ref(target),
                Action::OneOf(targets) => targets,
            };
            let mut end = None;
            for target in targets {
                end = self.step(target, scope, depth - 1, endpoints, affinity_timeout_s)?;
            }
            if ends {
                return Ok(end);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(chains: &[(&str, &[(When, Action)])]) -> Chains {
        let rules = |rules: &[(When, Action)]| {
            rules.iter().map(|(when, action)| Rule { when: *when, action: action.clone() }).collect()
        };
        Chains(chains.iter().map(|(name, list)| ((*name).to_owned(), rules(list))).collect())
    }

    fn endpoint(text: &str) -> Action {
        Action::Endpoint(text.parse().expect("an endpoint"))
    }

    fn walk(chains: &Chains, scope: Scope) -> String {
        let found = chains.walk("start", scope, &mut None).expect("whole chains");
        found.map_or("none".to_owned(), |outcome| outcome.to_string())
    }

    #[test]
    fn shares_of_one_chain_add_up() {
        let chains = chains(&[
            (
                "start",
                &[(When::Sometimes, Action::Chain("a".into())), (When::Always, Action::Chain("b".into()))],
            ),
            ("a", &[(When::Always, endpoint("192.0.2.1:80"))]),
            ("b", &[(When::Always, endpoint("192.0.2.2:80"))]),
        ]);
        assert_eq!(walk(&chains, Scope::External), "192.0.2.1:80 192.0.2.2:80");
    }

    #[test]
    fn a_rule_for_insiders_ends_the_chain_for_them_alone() {
        let chains = chains(&[
            (
                "start",
                &[(When::FromInside, Action::Chain("a".into())), (When::Always, Action::Chain("b".into()))],
            ),
            ("a", &[(When::Always, endpoint("192.0.2.1:80"))]),
            ("b", &[(When::Always, endpoint("192.0.2.2:80"))]),
        ]);
        assert_eq!(walk(&chains, Scope::Internal), "192.0.2.1:80");
        assert_eq!(walk(&chains, Scope::External), "192.0.2.2:80");
    }

    #[test]
    fn what_no_rule_is_for_falls_through() {
        let chains = chains(&[("start", &[(When::FromInside, endpoint("192.0.2.1:80"))])]);
        assert_eq!(walk(&chains, Scope::External), "none");
    }

    #[test]
    fn a_circle_and_a_missing_chain_are_errors() {
        let circle = chains(&[("start", &[(When::Always, Action::Chain("start".into()))])]);
        let error = circle.walk("start", Scope::Internal, &mut None).expect_err("a circle");
        assert_eq!(error.to_string(), "the chain start is more than 8 chains deep");
        let gap = chains(&[("start", &[(When::Always, Action::Chain("gone".into()))])]);
        let error = gap.walk("start", Scope::Internal, &mut None).expect_err("a gap");
        assert_eq!(error.to_string(), "there is no chain gone");
    }
}
