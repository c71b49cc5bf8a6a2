//! What was reported of one kind of object, so that a complete list shows what has gone.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Change, ObjectName, Problem};
use crate::source::objects::Converted;
use crate::source::{Problems, SourceEvent};

/// What one object was when it was last reported.
struct Seen {
    version: Version,
    /// Whether the last complete list, or the one that is being read, has it.
    is_listed: bool,
    has_problems: bool,
}

/// What must differ for a report to be worth making.
#[derive(PartialEq)]
enum Version {
    /// `metadata.resourceVersion`.
    Resource(Arc<str>),
    /// The fact without its version: a Node's version moves with each heartbeat.
    Fact(Box<Change>),
    /// The object did not decode; its last fact stays.
    Undecodable(Arc<str>),
}

/// The objects of one kind.
pub(super) struct Known {
    kind: &'static str,
    gone: fn(ObjectName) -> Change,
    objects: BTreeMap<ObjectName, Seen>,
}

impl Known {
    /// `gone` makes the change that takes an object away.
    pub(super) fn new(kind: &'static str, gone: fn(ObjectName) -> Change) -> Self {
        Self { kind, gone, objects: BTreeMap::new() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// A complete list begins.
    pub(super) fn list_begins(&mut self) {
        for seen in self.objects.values_mut() {
            seen.is_listed = false;
        }
    }

    /// The list is complete: what it does not have is gone.
    pub(super) fn list_ends(&mut self) -> Vec<SourceEvent> {
        let unlisted: Vec<_> =
            self.objects.iter().filter(|(_, seen)| !seen.is_listed).map(|(name, _)| name.clone()).collect();
        unlisted.into_iter().flat_map(|name| self.remove(name)).collect()
    }

    /// The object is now so, in a list or a watch event.
    pub(super) fn update(&mut self, name: ObjectName, converted: Converted) -> Vec<SourceEvent> {
        let version = version(&converted.change);
        let before = self.objects.get_mut(&name);
        if let Some(seen) = before.filter(|seen| seen.version == version) {
            seen.is_listed = true;
            return Vec::new();
        }
        let had_problems = self.objects.get(&name).is_some_and(|seen| seen.has_problems);
        let has_problems = !converted.problems.is_empty();
        self.objects.insert(name.clone(), Seen { version, is_listed: true, has_problems });
        let mut events = vec![SourceEvent::Change(converted.change)];
        if had_problems || has_problems {
            events.push(self.problems(name, converted.problems));
        }
        events
    }

    /// The object is there, but this is all that can be said of it.
    pub(super) fn undecodable(
        &mut self,
        name: ObjectName,
        resource_version: &str,
        reason: &str,
    ) -> Vec<SourceEvent> {
        let version = Version::Undecodable(resource_version.into());
        if let Some(seen) = self.objects.get_mut(&name).filter(|seen| seen.version == version) {
            seen.is_listed = true;
            return Vec::new();
        }
        self.objects.insert(name.clone(), Seen { version, is_listed: true, has_problems: true });
        let message = format!("cannot read the object: {reason}; its last good state stays");
        let problem = Problem { kind: self.kind, object: name.clone(), message };
        vec![self.problems(name, vec![problem])]
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, name: ObjectName) -> Vec<SourceEvent> {
        let Some(seen) = self.objects.remove(&name) else { return Vec::new() };
        let mut events = vec![SourceEvent::Change((self.gone)(name.clone()))];
        if seen.has_problems {
            events.push(self.problems(name, Vec::new()));
        }
        events
    }

    fn problems(&self, subject: ObjectName, found: Vec<Problem>) -> SourceEvent {
        SourceEvent::Problems(Problems { kind: self.kind, subject, found })
    }
}

fn version(change: &Change) -> Version {
    match change {
        Change::Service(service) => Version::Resource(Arc::clone(&service.resource_version)),
        Change::EndpointSlice(slice) => Version::Resource(Arc::clone(&slice.resource_version)),
        Change::ServiceCidr(cidr) => Version::Resource(Arc::clone(&cidr.resource_version)),
        Change::BackendConfig(config) => Version::Resource(Arc::clone(&config.resource_version)),
        Change::Secret(secret) => Version::Resource(Arc::clone(&secret.resource_version)),
        Change::Ingress(ingress) => Version::Resource(Arc::clone(&ingress.resource_version)),
        Change::IngressClass(class) => Version::Resource(Arc::clone(&class.resource_version)),
        Change::FrontendConfig(config) => Version::Resource(Arc::clone(&config.resource_version)),
        Change::LoadBalancerPool(pool) => Version::Resource(Arc::clone(&pool.resource_version)),
        // Its version moves with every probe.
        Change::GatedPod(_) => Version::Fact(Box::new(change.clone())),
        Change::Node(node) => {
            let mut node = node.clone();
            node.resource_version = "".into();
            Version::Fact(Box::new(Change::Node(node)))
        }
        gone => Version::Fact(Box::new(gone.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;

    fn node(name: &str, resource_version: &str, zone: Option<&str>) -> (ObjectName, Converted) {
        let node = Node {
            name: name.into(),
            resource_version: resource_version.into(),
            addresses: vec![],
            internal_addresses: vec![],
            takes_balanced_traffic: true,
            pod_cidrs: vec![],
            zone: zone.map(Into::into),
        };
        (ObjectName::new("", name), Converted { change: Change::Node(node), problems: vec![] })
    }

    fn known() -> Known {
        Known::new("Node", |name| Change::NodeGone(name.name))
    }

    fn update(known: &mut Known, (name, converted): (ObjectName, Converted)) -> usize {
        known.update(name, converted).len()
    }

    #[test]
    fn complete_list_takes_away_what_it_does_not_have() {
        let mut known = known();
        update(&mut known, node("a", "1", None));
        update(&mut known, node("b", "1", None));
        known.list_begins();
        assert_eq!(update(&mut known, node("b", "1", None)), 0, "unchanged");
        assert_eq!(known.list_ends(), [SourceEvent::Change(Change::NodeGone("a".into()))]);
        known.list_begins();
        assert_eq!(known.list_ends(), [SourceEvent::Change(Change::NodeGone("b".into()))]);
    }

    #[test]
    fn heartbeat_of_a_node_is_no_change() {
        let mut known = known();
        assert_eq!(update(&mut known, node("a", "1", None)), 1);
        assert_eq!(update(&mut known, node("a", "2", None)), 0);
        assert_eq!(update(&mut known, node("a", "3", Some("zone-1"))), 1);
    }

    #[test]
    fn object_that_stops_decoding_stays_until_it_is_gone() {
        let mut known = known();
        update(&mut known, node("a", "1", None));
        let name = ObjectName::new("", "a");
        let events = known.undecodable(name.clone(), "2", "odd");
        let [SourceEvent::Problems(problems)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(problems.found[0].message, "cannot read the object: odd; its last good state stays");
        known.list_begins();
        assert_eq!(known.undecodable(name.clone(), "2", "odd"), [], "said before");
        assert_eq!(known.list_ends(), []);
        assert_eq!(update(&mut known, node("a", "3", None)), 2, "the fact, and that it is in order");
        assert_eq!(known.remove(name).len(), 1);
    }
}
