//! The objects of the server and what happened to them.
use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

/// A resource that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `/api/v1/services`.
    Services,
    /// `/apis/discovery.k8s.io/v1/endpointslices`.
    EndpointSlices,
    /// `/api/v1/nodes`.
    Nodes,
    /// `/apis/networking.k8s.io/v1/servicecidrs`.
    ServiceCidrs,
    /// `/apis/cloud.google.com/v1/backendconfigs`.
    BackendConfigs,
    /// `/apis/networking.k8s.io/v1/ingresses`.
    Ingresses,
    /// `/apis/networking.k8s.io/v1/ingressclasses`.
    IngressClasses,
    /// `/apis/networking.gke.io/v1beta1/frontendconfigs`.
    FrontendConfigs,
    /// `/apis/podway.io/v1alpha1/loadbalancerpools`.
    LoadBalancerPools,
    /// `/api/v1/pods`, of which an agent watches those of its node.
    Pods,
    /// `/api/v1/secrets`, of which an agent watches each that an Ingress names.
    Secrets,
    /// `/apis/coordination.k8s.io/v1/leases`, of which agents watch those of a namespace.
    Leases,
    /// `/apis/events.k8s.io/v1/events`, which is written and not watched.
    Events,
}

impl Resource {
    /// The resources that an agent watches all over the cluster.
    pub const ALL: [Self; 9] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::BackendConfigs,
        Self::Ingresses,
        Self::IngressClasses,
        Self::FrontendConfigs,
        Self::LoadBalancerPools,
    ];

    /// Path of its cluster-wide list.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
            Self::BackendConfigs => "/apis/cloud.google.com/v1/backendconfigs",
            Self::Ingresses => "/apis/networking.k8s.io/v1/ingresses",
            Self::IngressClasses => "/apis/networking.k8s.io/v1/ingressclasses",
            Self::FrontendConfigs => "/apis/networking.gke.io/v1beta1/frontendconfigs",
            Self::LoadBalancerPools => "/apis/podway.io/v1alpha1/loadbalancerpools",
            Self::Pods => "/api/v1/pods",
            Self::Secrets => "/api/v1/secrets",
            Self::Leases => "/apis/coordination.k8s.io/v1/leases",
            Self::Events => "/apis/events.k8s.io/v1/events",
        }
    }

    /// `apiVersion` and `kind` of its objects.
    #[must_use]
    pub const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
            Self::ServiceCidrs => ("networking.k8s.io/v1", "ServiceCIDR"),
            Self::BackendConfigs => ("cloud.google.com/v1", "BackendConfig"),
            Self::Ingresses => ("networking.k8s.io/v1", "Ingress"),
            Self::IngressClasses => ("networking.k8s.io/v1", "IngressClass"),
            Self::FrontendConfigs => ("networking.gke.io/v1beta1", "FrontendConfig"),
            Self::LoadBalancerPools => ("podway.io/v1alpha1", "LoadBalancerPool"),
            Self::Pods => ("v1", "Pod"),
            Self::Secrets => ("v1", "Secret"),
            Self::Leases => ("coordination.k8s.io/v1", "Lease"),
            Self::Events => ("events.k8s.io/v1", "Event"),
        }
    }

    /// The resource of a path, and what follows: the namespace, where the path has one, and the rest.
    pub(super) fn of_path(path: &str) -> Option<(Self, Option<&str>, &str)> {
        let others = [Self::Pods, Self::Secrets, Self::Leases, Self::Events];
        Self::ALL.into_iter().chain(others).find_map(|resource| {
            let (group, plural) = resource.path().rsplit_once('/')?;
            let rest = path.strip_prefix(group)?.strip_prefix('/')?;
            let (namespace, rest) =
                match rest.strip_prefix("namespaces/").and_then(|rest| rest.split_once('/')) {
                    Some((namespace, rest)) => (Some(namespace), rest),
                    None => (None, rest),
                };
            let rest = rest.strip_prefix(plural)?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (resource, namespace, rest.trim_start_matches('/')))
        })
    }
}

/// Resource, namespace and name.
type Key = (Resource, String, String);

/// A change of one object.
#[derive(Clone, Debug)]
struct Change {
    version: u64,
    resource: Resource,
    before: Option<Value>,
    after: Option<Value>,
}

/// Most changes that are remembered; older ones are as if compacted.
const HISTORY_MAX: usize = 1024;

/// An object with its text, which is made once: lists may be long.
#[derive(Clone, Debug)]
struct Stored {
    object: Value,
    text: String,
}

/// Objects, and their history since the last compaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    version: u64,
    compacted: u64,
    objects: BTreeMap<Key, Stored>,
    history: VecDeque<Change>,
    /// Lists that are being paged through, by version, resource and selector.
    pages: BTreeMap<(u64, Resource, String), Vec<Value>>,
}

/// The version that was asked for is no longer in the history.
#[derive(Debug)]
pub(super) struct Gone;

/// One page of a list.
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<Value>,
    /// Token for the next page.
    pub(super) next: Option<String>,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn put(&mut self, resource: Resource, mut object: Value) -> u64 {
        self.version += 1;
        let (api_version, kind) = resource.kind();
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (resource, text("namespace"), text("name"));
        assert!(!key.2.is_empty(), "object without a name: {object}");
        let stored = Stored { text: object.to_string(), object: object.clone() };
        let before = self.objects.insert(key, stored).map(|stored| stored.object);
        self.remember(Change { version: self.version, resource, before, after: Some(object) });
        self.version
    }

    /// The object of a name.
    pub(super) fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<&Value> {
        let key = (resource, namespace.to_owned(), name.to_owned());
        self.objects.get(&key).map(|stored| &stored.object)
    }

    pub(super) fn delete(&mut self, resource: Resource, namespace: &str, name: &str) -> bool {
        let Some(stored) = self.objects.remove(&(resource, namespace.to_owned(), name.to_owned())) else {
            return false;
        };
        let before = stored.object;
        self.version += 1;
        self.remember(Change { version: self.version, resource, before: Some(before), after: None });
        true
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY_MAX
            && let Some(forgotten) = self.history.pop_front()
        {
            self.compacted = self.compacted.max(forgotten.version);
        }
    }

    pub(super) fn compact(&mut self) {
        // Etcd's versions move without our objects too: not even the current one is known after this.
        self.version += 1;
        self.compacted = self.version;
        self.history.clear();
        self.pages.clear();
    }

    /// All objects that a selector takes.
    pub(super) fn select(&self, resource: Resource, selector: &str) -> Vec<Value> {
        self.selected(resource, selector).map(|stored| stored.object.clone()).collect()
    }

    /// Their texts.
    pub(super) fn texts(&self, resource: Resource, selector: &str) -> impl Iterator<Item = &str> {
        self.selected(resource, selector).map(|stored| stored.text.as_str())
    }

    fn selected(&self, resource: Resource, selector: &str) -> impl Iterator<Item = &Stored> {
        let objects = self.objects.iter().filter(move |((of, _, _), _)| *of == resource);
        objects.map(|(_, stored)| stored).filter(move |stored| takes(selector, &stored.object))
    }

    /// A page of a list, consistent over all its pages.
    pub(super) fn page(
        &mut self,
        resource: Resource,
        selector: &str,
        items_max: usize,
        token: Option<&str>,
    ) -> Result<Page, Gone> {
        let (version, start) = match token {
            None => (self.version, 0),
            Some(token) => {
                let (version, start) = token.split_once('-').expect("a token of ours");
                (version.parse().expect("a version"), start.parse().expect("an index"))
            }
        };
        let key = (version, resource, selector.to_owned());
        if token.is_none() {
            let all = self.select(resource, selector);
            self.pages.insert(key.clone(), all);
        }
        let all = self.pages.get(&key).ok_or(Gone)?;
        let end = all.len().min(start + items_max);
        let next = (end < all.len()).then(|| format!("{version}-{end}"));
        Ok(Page { version, items: all[start..end].to_vec(), next })
    }

    /// Watch events after a version, as type and object.
    pub(super) fn events_after(
        &self,
        version: u64,
        resource: Resource,
        selector: &str,
    ) -> Result<Vec<(&'static str, Value)>, Gone> {
        if version < self.compacted {
            return Err(Gone);
        }
        let changes = self.history.iter().filter(|change| change.version > version);
        Ok(changes.filter(|change| change.resource == resource).filter_map(|c| event(c, selector)).collect())
    }

    pub(super) fn versions(&self, resource: Resource, selector: &str) -> BTreeMap<String, String> {
        let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        self.select(resource, selector)
            .iter()
            .map(|o| (format!("{}/{}", text(o, "namespace"), text(o, "name")), text(o, "resourceVersion")))
            .collect()
    }
}

/// An object that a selector no longer takes is `DELETED` to its watch, as from a real server.
fn event(change: &Change, selector: &str) -> Option<(&'static str, Value)> {
    let taken = |object: &Option<Value>| object.clone().filter(|object| takes(selector, object));
    match (taken(&change.before), taken(&change.after)) {
        (None, None) => None,
        (None, Some(after)) => Some(("ADDED", after)),
        (Some(_), Some(after)) => Some(("MODIFIED", after)),
        (Some(mut before), None) => {
            before["metadata"]["resourceVersion"] = change.version.to_string().into();
            Some(("DELETED", before))
        }
    }
}

/// A selector of terms `label`, `!label` and, of the fields that agents select by, `metadata.name=NAME`.
fn takes(selector: &str, object: &Value) -> bool {
    let has = |label: &str| object["metadata"]["labels"].get(label).is_some();
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let of_field = |field: &str| term.strip_prefix(field)?.strip_prefix('=');
        for (part, field) in [("metadata", "name"), ("metadata", "namespace"), ("spec", "nodeName")] {
            if let Some(value) = of_field(&format!("{part}.{field}")) {
                return object[part][field] == value;
            }
        }
        assert!(!term.contains(['=', ' ']), "selector term {term:?} is not understood");
        term.strip_prefix('!').map_or_else(|| has(term), |label| !has(label))
    })
}
