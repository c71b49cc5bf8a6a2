//! Which rule of an Ingress a request meets: a walk over all rules, written from the Kubernetes page "Ingress" and
//! the description of URL maps of Google's load balancers.
use lb_userspace::model::{Dialect, PathType};

use crate::packet::Random;

/// One path of one host.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `host`; empty for all.
    pub host: String,
    /// `pathType`.
    pub path_type: PathType,
    /// `path`.
    pub path: String,
}

/// The index of the rule that a request meets.
#[must_use]
pub fn met(rules: &[Rule], dialect: Dialect, host: &str, path: &str) -> Option<usize> {
    let best_host =
        rules.iter().filter(|rule| host_matches(&rule.host, dialect, host)).map(|rule| &rule.host);
    let best_host = best_host.max_by_key(|host| precision(host))?;
    let mut best: Option<(usize, (usize, bool))> = None;
    for (index, rule) in rules.iter().enumerate() {
        if rule.host == *best_host && path_matches(rule, dialect, path) {
            let rank = (matched_length(rule, dialect), is_exact(rule, dialect));
            if best.is_none_or(|(_, other)| rank > other) {
                best = Some((index, rank));
            }
        }
    }
    best.map(|(index, _)| index)
}

fn host_matches(pattern: &str, dialect: Dialect, host: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else { return pattern.is_empty() || pattern == host };
    match host.strip_suffix(suffix) {
        None | Some("") => false,
        Some(star) => dialect == Dialect::Gce || !star.contains('.'),
    }
}

/// Names before wildcards, long wildcards before short ones, all hosts last.
fn precision(pattern: &str) -> (bool, usize) {
    (!pattern.is_empty() && !pattern.starts_with('*'), pattern.len())
}

fn is_exact(rule: &Rule, dialect: Dialect) -> bool {
    match rule.path_type {
        PathType::Exact => true,
        PathType::Prefix => false,
        PathType::ImplementationSpecific => dialect == Dialect::Gce && !rule.path.ends_with("/*"),
    }
}

fn path_matches(rule: &Rule, dialect: Dialect, path: &str) -> bool {
    if is_exact(rule, dialect) {
        return rule.path == path;
    }
    match rule.path.strip_suffix('*') {
        Some(start) if rule.path_type == PathType::ImplementationSpecific => path.starts_with(start),
        _ => elements(path).starts_with(&elements(&rule.path)),
    }
}

fn elements(path: &str) -> Vec<&str> {
    path.split('/').filter(|element| !element.is_empty()).collect()
}

/// A slash at the end of a prefix says nothing; that of an exact path, or of `/foo/*`, is a part of what matches.
fn matched_length(rule: &Rule, dialect: Dialect) -> usize {
    match rule.path.strip_suffix('*') {
        Some(start) => start.len(),
        None if is_exact(rule, dialect) => rule.path.len(),
        None => rule.path.trim_end_matches('/').len(),
    }
}

const HOSTS: [&str; 8] = [
    "",
    "a.example",
    "b.a.example",
    "c.b.a.example",
    "*.a.example",
    "*.b.a.example",
    "*.example",
    "d.example",
];

/// Rules of a seed, from few hosts and elements, so that they meet.
#[must_use]
pub fn rules(random: &mut Random) -> Vec<Rule> {
    let rule = |random: &mut Random| {
        let path_type = *random.pick(&[PathType::Exact, PathType::Prefix, PathType::ImplementationSpecific]);
        let mut path = path(random);
        if path_type == PathType::ImplementationSpecific && random.chance(50) {
            path = format!("{}/*", path.trim_end_matches('/'));
        }
        Rule { host: (*random.pick(&HOSTS)).to_owned(), path_type, path }
    };
    (0..1 + random.below(24)).map(|_| rule(random)).collect()
}

/// A host and a path, as rules and requests have them.
#[must_use]
pub fn request(random: &mut Random) -> (String, String) {
    let host = loop {
        let host = *random.pick(&HOSTS);
        if !host.is_empty() {
            break host.replace('*', "x");
        }
    };
    (host, path(random))
}

fn path(random: &mut Random) -> String {
    let elements = (0..random.below(4)).map(|_| *random.pick(&["a", "b", "ab"])).collect::<Vec<_>>();
    let slash = if elements.is_empty() || random.chance(70) { "" } else { "/" };
    format!("/{}{slash}", elements.join("/"))
}
