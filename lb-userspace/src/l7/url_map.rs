//! Which rule a request meets: host first, then path.
//!
//! The most precise host that matches decides alone: a request whose path none of its rules has goes to a default,
//! never to the rules of a less precise host. Of a host's paths the longest that matches wins, and of two that are
//! equally long the exact one (Ingress, "Multiple matches"; KEP-1453, "Path matching").
//!
//! Cost: one hash of the host, or two with wildcards; one of the path, and two for each of its elements that are not
//! deeper than the host's longest prefix.
use std::collections::HashMap;
use std::fmt;

use super::{Host, NormalPath};

/// Indices by text. What a client asks for is looked up and never put in, so that the hash need not stand clients who
/// choose its keys.
type Indices = HashMap<Box<str>, usize, foldhash::fast::RandomState>;

/// The hosts that a rule is for. Texts are normal forms of [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One name.
    Exact(Box<str>),
    /// `*.REST`, where `*` is one label.
    OneLabel(Box<str>),
    /// `*.REST`, where `*` is one label or more.
    Labels(Box<str>),
    /// All.
    Any,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::OneLabel(rest) | Self::Labels(rest) => write!(f, "*.{rest}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The paths that a rule is for. Texts are normal forms of [`NormalPath`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPattern {
    /// One path.
    Exact(Box<str>),
    /// A path and all that has its elements first: `/foo` has `/foo`, `/foo/` and `/foo/bar`, not `/foobar`.
    Prefix(Box<str>),
    /// What begins with a path that ends in a slash: `/foo/` has `/foo/` and `/foo/bar`, not `/foo`.
    Below(Box<str>),
}

impl PathPattern {
    /// This path alone.
    #[must_use]
    pub fn exact(path: &NormalPath<'_>) -> Self {
        Self::Exact(path.as_str().into())
    }

    /// By elements, so a slash at the end says nothing.
    #[must_use]
    pub fn prefix(path: &NormalPath<'_>) -> Self {
        let text = path.as_str();
        Self::Prefix(if text == "/" { text } else { text.strip_suffix('/').unwrap_or(text) }.into())
    }

    /// All below this path.
    #[must_use]
    pub fn below(path: &NormalPath<'_>) -> Self {
        let text = path.as_str();
        Self::Below(if text.ends_with('/') { text.into() } else { format!("{text}/").into() })
    }

    /// Its place among a host's prefixes: the root's is empty, so that only what ends in a slash is
    /// [`PathPattern::Below`].
    fn prefix_key(&self) -> Option<&str> {
        match self {
            Self::Exact(_) => None,
            Self::Prefix(path) => Some(if **path == *"/" { "" } else { path }),
            Self::Below(path) => Some(path),
        }
    }
}

/// `/foo` and, for [`PathPattern::Below`], `/foo/*`.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) | Self::Prefix(path) => f.write_str(path),
            Self::Below(path) => write!(f, "{path}*"),
        }
    }
}

/// Where one path of a host leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule<T> {
    /// The paths.
    pub pattern: PathPattern,
    /// Where they lead.
    pub target: T,
}

/// Where the paths of a host lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule<T> {
    /// The hosts.
    pub host: HostPattern,
    /// Its paths.
    pub paths: Vec<PathRule<T>>,
    /// Where a path leads that is none of them; `None` is where the URL map's default leads.
    pub default: Option<T>,
}

/// The rule that a request met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'a, T> {
    /// Where it leads.
    pub target: &'a T,
    /// Which one it was.
    pub rule: Rule<'a>,
}

/// Which rule a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule<'a> {
    /// A path of a host.
    Path(&'a HostPattern, &'a PathPattern),
    /// A host has rules, but none for the path.
    HostDefault(&'a HostPattern),
    /// The URL map's default.
    Default,
}

/// The rules of one host, ready to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostTable<T> {
    rule: HostRule<T>,
    /// Indices of `rule.paths`, by path.
    exact: Indices,
    /// The others, by [`PathPattern::prefix_key`].
    prefixes: Indices,
    /// Bytes of the longest key of `prefixes`: longer ones are not looked up.
    prefix_bytes_max: usize,
}

impl<T> HostTable<T> {
    fn new(host: HostPattern) -> Self {
        Self {
            rule: HostRule { host, paths: Vec::new(), default: None },
            exact: Indices::default(),
            prefixes: Indices::default(),
            prefix_bytes_max: 0,
        }
    }

    fn add(&mut self, rule: HostRule<T>) {
        self.rule.default = self.rule.default.take().or(rule.default);
        for path in rule.paths {
            let index = self.rule.paths.len();
            let (table, key) = match path.pattern.prefix_key() {
                Some(key) => (&mut self.prefixes, key),
                None => (&mut self.exact, exact_text(&path.pattern)),
            };
            if table.contains_key(key) {
                continue;
            }
            table.insert(key.into(), index);
            if path.pattern.prefix_key().is_some() {
                self.prefix_bytes_max = self.prefix_bytes_max.max(key.len());
            }
            self.rule.paths.push(path);
        }
    }

    fn find(&self, path: &str) -> Option<&PathRule<T>> {
        let index = self.exact.get(path).or_else(|| self.longest_prefix(path))?;
        self.rule.paths.get(*index)
    }

    /// Takes slashes and elements off the end in turn: `/a/b`, `/a/`, `/a`, `/` and the empty text.
    fn longest_prefix(&self, path: &str) -> Option<&usize> {
        let mut rest = path;
        loop {
            if rest.len() <= self.prefix_bytes_max
                && let Some(index) = self.prefixes.get(rest)
            {
                return Some(index);
            }
            rest = match rest.strip_suffix('/') {
                Some(shorter) => shorter,
                None => &rest[..=rest.rfind('/')?],
            };
        }
    }
}

/// An immutable table from host and path to `T`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlMap<T> {
    hosts: Vec<HostTable<T>>,
    exact: Indices,
    one_label: Indices,
    labels: Indices,
    any: Option<usize>,
    default: Option<T>,
}

impl<T> UrlMap<T> {
    /// Rules of one host are taken together. Of equal paths of a host, and of its defaults, the first holds.
    #[must_use]
    pub fn new(rules: Vec<HostRule<T>>, default: Option<T>) -> Self {
        let mut map = Self {
            hosts: Vec::new(),
            exact: Indices::default(),
            one_label: Indices::default(),
            labels: Indices::default(),
            any: None,
            default,
        };
        for rule in rules {
            let next = map.hosts.len();
            let index = match &rule.host {
                HostPattern::Exact(name) => *map.exact.entry(name.clone()).or_insert(next),
                HostPattern::OneLabel(rest) => *map.one_label.entry(rest.clone()).or_insert(next),
                HostPattern::Labels(rest) => *map.labels.entry(rest.clone()).or_insert(next),
                HostPattern::Any => *map.any.get_or_insert(next),
            };
            if index == next {
                map.hosts.push(HostTable::new(rule.host.clone()));
            }
            map.hosts[index].add(rule);
        }
        map
    }

    /// The rule for a request; `None` is a request that no rule is for, which is answered with 404.
    #[must_use]
    pub fn find(&self, host: &Host<'_>, path: &NormalPath<'_>) -> Option<Match<'_, T>> {
        let of_map = || self.default.as_ref().map(|target| Match { target, rule: Rule::Default });
        let Some(table) = self.host(host.as_str()) else { return of_map() };
        let host = &table.rule.host;
        if let Some(PathRule { pattern, target }) = table.find(path.as_str()) {
            return Some(Match { target, rule: Rule::Path(host, pattern) });
        }
        let of_host = table.rule.default.as_ref();
        of_host.map(|target| Match { target, rule: Rule::HostDefault(host) }).or_else(of_map)
    }

    /// Where the other paths of a host lead, those that none of its rules has.
    #[must_use]
    pub fn default_of(&self, host: &Host<'_>) -> Option<&T> {
        let of_host = self.host(host.as_str()).and_then(|table| table.rule.default.as_ref());
        of_host.or(self.default.as_ref())
    }

    /// The same rules, with other targets.
    #[must_use]
    pub fn convert<U>(&self, mut target: impl FnMut(&T) -> U) -> UrlMap<U> {
        let rules = self.hosts().map(|rule| HostRule {
            host: rule.host.clone(),
            paths: rule
                .paths
                .iter()
                .map(|path| PathRule { pattern: path.pattern.clone(), target: target(&path.target) })
                .collect(),
            default: rule.default.as_ref().map(&mut target),
        });
        let rules = rules.collect();
        UrlMap::new(rules, self.default.as_ref().map(target))
    }

    /// The hosts with their rules, in the order in which they were given.
    pub fn hosts(&self) -> impl Iterator<Item = &HostRule<T>> {
        self.hosts.iter().map(|table| &table.rule)
    }

    /// Where requests lead that no rule is for.
    #[must_use]
    pub const fn default_target(&self) -> Option<&T> {
        self.default.as_ref()
    }

    /// An exact name goes before a wildcard, a longer wildcard before a shorter one (KEP-1453, "Wildcards").
    fn host(&self, name: &str) -> Option<&HostTable<T>> {
        let of_one_label = || self.one_label.get(name.split_once('.')?.1);
        let of_labels = || if self.labels.is_empty() { None } else { longest(&self.labels, name) };
        let index = self.exact.get(name).or_else(of_one_label).or_else(of_labels).or(self.any.as_ref())?;
        self.hosts.get(*index)
    }
}

/// Takes labels off the front in turn; at most 127, since a name has no more.
fn longest<'a>(labels: &'a Indices, name: &str) -> Option<&'a usize> {
    let mut rest = name;
    loop {
        rest = rest.split_once('.')?.1;
        if let Some(index) = labels.get(rest) {
            return Some(index);
        }
    }
}

fn exact_text(pattern: &PathPattern) -> &str {
    let (PathPattern::Exact(path) | PathPattern::Prefix(path) | PathPattern::Below(path)) = pattern;
    path
}

#[cfg(test)]
#[path = "url_map_tests.rs"]
mod tests;
