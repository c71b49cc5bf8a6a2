//! Which Services this node's Podway serves while kube-proxy, or another proxy, serves the others.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ObjectName, Service};

/// The Services that are served: those with one of the names and those that match the selector. With neither
/// names nor selector, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// `--only-service`.
    pub names: BTreeSet<ObjectName>,
    /// `--service-selector`.
    pub selector: Option<LabelSelector>,
}

impl Selection {
    /// Whether all Services are served: only then may an address that no Service has be dropped.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.names.is_empty() && self.selector.is_none()
    }

    /// Whether a Service is served.
    #[must_use]
    pub fn has(&self, service: &Service) -> bool {
        self.is_all()
            || self.names.contains(&service.name)
            || self.selector.as_ref().is_some_and(|selector| selector.matches(&service.labels))
    }
}

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A label selector as `kubectl -l` takes it: requirements that must all hold, with commas between them
/// (Kubernetes, "Labels and Selectors", API section).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelSelector(Vec<Requirement>);

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Requirement {
    /// `KEY in (A, B)`, `KEY=A`, `KEY==A`.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// `KEY notin (A, B)`, `KEY!=A`: objects without the key match too.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// `KEY`.
    Exists(Arc<str>),
    /// `!KEY`.
    Absent(Arc<str>),
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
        }
    }
}

impl LabelSelector {
    /// Whether labels meet it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        loop {
            let (requirement, after) = requirement(rest).map_err(|error| format!("{error} in {text:?}"))?;
            requirements.push(requirement);
            match after.trim_start().strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None if after.trim().is_empty() => return Ok(Self(requirements)),
                None => return Err(format!("want a comma before {:?} in {text:?}", after.trim())),
            }
        }
    }
}

/// One requirement, and what follows it.
fn requirement(text: &str) -> Result<(Requirement, &str), String> {
    if let Some(negated) = text.strip_prefix('!') {
        let (key, rest) = word(negated.trim_start());
        return Ok((Requirement::Absent(checked_key(key)?), rest));
    }
    let (key, rest) = word(text);
    let key = checked_key(key)?;
    let rest = rest.trim_start();
    for (sign, is_in) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(after) = rest.strip_prefix(sign) {
            let (value, rest) = word(after.trim_start());
            return Ok((set(key, [checked_value(value)?].into(), is_in), rest));
        }
    }
    match word(rest) {
        ("in", after) => values(after).map(|(values, rest)| (set(key, values, true), rest)),
        ("notin", after) => values(after).map(|(values, rest)| (set(key, values, false), rest)),
        ("", _) => Ok((Requirement::Exists(key), rest)),
        (other, _) => Err(format!("want =, !=, in or notin instead of {other:?}")),
    }
}

fn set(key: Arc<str>, values: BTreeSet<Arc<str>>, is_in: bool) -> Requirement {
    if is_in { Requirement::In(key, values) } else { Requirement::NotIn(key, values) }
}

/// `(A, B)`.
fn values(text: &str) -> Result<(BTreeSet<Arc<str>>, &str), String> {
    let inner = text.trim_start().strip_prefix('(').and_then(|text| text.split_once(')'));
    let (inner, rest) = inner.ok_or("want values in parentheses")?;
    Ok((inner.split(',').map(|value| checked_value(value.trim())).collect::<Result<_, _>>()?, rest))
}

/// The characters up to one that can be in neither a key nor a value.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !is_label_character(c) && c != '/').unwrap_or(text.len()))
}

fn is_label_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// `NAME` or `PREFIX/NAME` (apimachinery `validation.IsQualifiedName`).
fn checked_key(key: &str) -> Result<Arc<str>, String> {
    let name = key.split_once('/').map_or(key, |(_, name)| name);
    if name.is_empty() || checked_value(name).is_err() {
        return Err(format!("{key:?} is no label key"));
    }
    Ok(key.into())
}

/// At most 63 characters, the first and last a letter or digit, or none at all
/// (apimachinery `validation.IsValidLabelValue`).
fn checked_value(value: &str) -> Result<Arc<str>, String> {
    let is_edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let is_value = value.len() <= 63
        && value.chars().all(is_label_character)
        && is_edge(value.chars().next())
        && is_edge(value.chars().next_back());
    if is_value { Ok(value.into()) } else { Err(format!("{value:?} is no label value")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
        selector.parse::<LabelSelector>().expect("a selector").matches(&labels(pairs))
    }

    const WEB: &[(&str, &str)] = &[("app", "web"), ("podway.io/proxy", "yes"), ("tier", "")];

    #[test]
    fn equality_matches_the_value() {
        for selector in ["app=web", "app==web", " app = web ", "podway.io/proxy=yes", "tier="] {
            assert!(matches(selector, WEB), "{selector}");
        }
        assert!(!matches("app=cart", WEB) && !matches("zone=a", WEB));
    }

    #[test]
    fn inequality_matches_what_lacks_the_key_too() {
        assert!(matches("app!=cart", WEB) && matches("zone!=a", WEB));
        assert!(!matches("app!=web", WEB));
    }

    #[test]
    fn sets_match_any_of_their_values() {
        assert!(matches("app in (cart, web)", WEB) && matches("app notin (cart,auth)", WEB));
        assert!(!matches("app in (cart)", WEB) && !matches("app notin (web)", WEB));
        assert!(matches("zone notin (a)", WEB) && !matches("zone in (a)", WEB));
    }

    #[test]
    fn keys_match_by_being_there() {
        assert!(matches("app", WEB) && matches("!zone", WEB));
        assert!(!matches("zone", WEB) && !matches("!app", WEB));
    }

    #[test]
    fn all_requirements_must_hold() {
        assert!(matches("app in (web), !zone, tier=", WEB));
        assert!(!matches("app=web,zone", WEB));
    }

    #[test]
    fn what_is_no_selector_is_named() {
        let error = |text: &str| text.parse::<LabelSelector>().expect_err("no selector");
        assert_eq!(error(""), r#""" is no label key in """#);
        assert_eq!(error("app=web cart"), r#"want a comma before "cart" in "app=web cart""#);
        assert_eq!(error("app is web"), r#"want =, !=, in or notin instead of "is" in "app is web""#);
        assert_eq!(error("app in web"), r#"want values in parentheses in "app in web""#);
        assert_eq!(error("app=-web"), r#""-web" is no label value in "app=-web""#);
        assert_eq!(error("app=web,"), r#""" is no label key in "app=web,""#);
    }

    #[test]
    fn names_and_selector_add_up_and_without_them_all_are_served() {
        let service = |name: &str, pairs| Service {
            labels: Arc::new(labels(pairs)),
            ..Service::new(ObjectName::new("shop", name))
        };
        let selection = Selection {
            names: [ObjectName::new("shop", "cart")].into(),
            selector: Some("app=web".parse().expect("a selector")),
        };
        let has = |name, pairs| selection.has(&service(name, pairs));
        assert!(has("cart", &[]) && has("other", WEB));
        assert!(!has("other", &[]));
        assert!(Selection::default().has(&service("other", &[])));
    }
}
