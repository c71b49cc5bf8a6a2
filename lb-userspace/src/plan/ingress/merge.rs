//! Ingresses on the same VIPs: one URL map, and who keeps what two of them ask for.
//!
//! The older Ingress goes before the younger one, then the lesser name before the greater, as among Services.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::l7::{HostPattern, HostRule, PathPattern, UrlMap};
use crate::model::{ObjectName, Problem, ProxyVersions};

use super::draft::Draft;
use super::tls::demands;
use super::{NoBackend, PlainHttp, Target, TlsDemand, UrlMapPlan, VipSource};

/// The URL map of drafts, the one that goes first in front, and what some of them do not get.
pub(super) fn url_map(drafts: &[&Draft], vips: Vec<(IpAddr, VipSource)>) -> (UrlMapPlan, Vec<Problem>) {
    let mut problems = contended_paths(drafts);
    problems.extend(contended_defaults(drafts));
    let (tls, unverified) = demands(drafts);
    problems.extend(unverified);
    let (proxy_protocol, unspoken) = proxy_protocol(drafts);
    problems.extend(unspoken);
    let default = drafts.iter().find_map(|draft| draft.default.clone());
    let default = default.map(|target| over_http(target, tls.get(&HostPattern::Any)));
    let names: Vec<String> = drafts.iter().map(|draft| draft.name().to_string()).collect();
    let plan = UrlMapPlan {
        name: names.join("+").into(),
        ingresses: drafts.iter().map(|draft| draft.origin.clone()).collect(),
        vips,
        has_http: drafts.iter().any(|draft| draft.allows_http),
        has_https: drafts.iter().any(|draft| !draft.certificates.is_empty()),
        certificates: drafts.iter().flat_map(|draft| draft.certificates.iter().cloned()).collect(),
        map: UrlMap::new(rules(drafts, &tls, default.as_ref()), default),
        tls: tls.into_iter().collect(),
        proxy_protocol,
    };
    (plan, problems)
}

/// The rules of all drafts; of equal paths the URL map takes the first.
fn rules(
    drafts: &[&Draft],
    tls: &BTreeMap<HostPattern, TlsDemand>,
    of_map: Option<&Target>,
) -> Vec<HostRule<Target>> {
    let defaults = host_defaults(drafts);
    let all = drafts.iter().flat_map(|draft| &draft.hosts);
    all.map(|(host, paths)| {
        let demand = tls.get(host);
        let mut default = defaults.get(host).cloned().flatten();
        if demand.is_some_and(TlsDemand::requires_certificate) {
            // What the URL map's default does without TLS is not for this host to follow.
            default = default.or_else(|| of_map.cloned());
        }
        let mut paths = paths.clone();
        paths.iter_mut().for_each(|path| path.target = over_http(path.target.clone(), demand));
        HostRule { host: host.clone(), paths, default: default.map(|target| over_http(target, demand)) }
    })
    .collect()
}

/// Where clients need a certificate they cannot come without TLS.
fn over_http(target: Target, demand: Option<&TlsDemand>) -> Target {
    let is_refused =
        target.plain_http == PlainHttp::Served && demand.is_some_and(TlsDemand::requires_certificate);
    if is_refused { Target { plain_http: PlainHttp::Refused, ..target } } else { target }
}

/// What connections to the VIPs begin with: the same for all who share these, as the first says that says something.
fn proxy_protocol(drafts: &[&Draft]) -> (Option<ProxyVersions>, Vec<Problem>) {
    let mut asked = drafts.iter().filter_map(|draft| Some((draft, draft.proxy_protocol?)));
    let Some((owner, held)) = asked.next() else { return (None, Vec::new()) };
    let others = asked.filter(|(_, wanted)| *wanted != held).map(|(draft, _)| {
        problem(
            draft,
            format!(
                "cannot have its podway.io/proxy-protocol: Ingress {} has the same VIPs and says {}; give both one value",
                owner.name(),
                held.name()
            ),
        )
    });
    (Some(held), others.collect())
}

/// Where the other paths of a host lead: to the default backend of an Ingress that names the host, never to that of
/// an Ingress that does not. `None` is the URL map's default, also for the rules without a host: these name none.
fn host_defaults<'a>(drafts: &[&'a Draft]) -> BTreeMap<&'a HostPattern, Option<Target>> {
    let mut naming: BTreeMap<&HostPattern, Vec<&Draft>> = BTreeMap::new();
    for draft in drafts {
        for (host, _) in draft.hosts.iter().filter(|(host, _)| *host != HostPattern::Any) {
            naming.entry(host).or_default().push(draft);
        }
    }
    let of_map = drafts.iter().find(|draft| draft.default.is_some()).map(|draft| draft.name());
    let default = |naming: &[&Draft]| {
        let first = naming.first()?;
        let owner = naming.iter().find(|draft| draft.default.is_some());
        match owner {
            Some(owner) if Some(owner.name()) == of_map => None,
            Some(owner) => owner.default.clone(),
            None => of_map.map(|_| Target {
                ingress: first.name().clone(),
                backend: Err(NoBackend::NoDefault),
                plain_http: first.plain_http,
            }),
        }
    };
    naming.into_iter().map(|(host, naming)| (host, default(&naming))).collect()
}

fn contended_paths(drafts: &[&Draft]) -> Vec<Problem> {
    let mut owners: HashMap<(&HostPattern, &PathPattern), &ObjectName> = HashMap::new();
    let mut problems = Vec::new();
    for draft in drafts {
        for (host, path) in
            draft.hosts.iter().flat_map(|(host, paths)| paths.iter().map(move |path| (host, path)))
        {
            match owners.get(&(host, &path.pattern)) {
                None => drop(owners.insert((host, &path.pattern), draft.name())),
                Some(owner) if *owner == draft.name() => problems.push(problem(
                    draft,
                    format!("has path {} of host {host} twice; the first holds; remove one", path.pattern),
                )),
                Some(owner) => problems.push(problem(
                    draft,
                    format!(
                        "cannot have path {} of host {host}: Ingress {owner} has it on the same VIPs, being the older \
                         one or, of one age, of the lesser name; change one of them, or podway.io/vips",
                        path.pattern
                    ),
                )),
            }
        }
    }
    problems
}

fn contended_defaults(drafts: &[&Draft]) -> Vec<Problem> {
    let mut with_default = drafts.iter().filter(|draft| draft.default.is_some());
    let Some(owner) = with_default.next() else { return Vec::new() };
    let lost = |draft: &&Draft| {
        problem(
            draft,
            format!(
                "cannot have the requests to hosts without a rule: Ingress {} has them on the same VIPs, being the \
                 older one or, of one age, of the lesser name; its default backend serves its own hosts alone",
                owner.name()
            ),
        )
    };
    with_default.map(lost).collect()
}

fn problem(draft: &Draft, message: String) -> Problem {
    Problem { kind: "Ingress", object: draft.name().clone(), message }
}
