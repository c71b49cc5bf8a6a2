//! Which objects Podway reads for somebody: who wrote them is told what is wrong with them.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::events::FaultyKind;
use crate::model::{Ingress, ObjectName};
use crate::plan;

use super::Planner;

impl Planner {
    /// `metadata.uid` of an object; empty where it is unknown.
    pub(in crate::agent) fn uid_of(&self, kind: FaultyKind, object: &ObjectName) -> Arc<str> {
        let facts = &self.snapshot;
        let uid = match kind {
            FaultyKind::Ingress => facts.ingresses.get(object).map(|facts| &facts.uid),
            FaultyKind::Secret => facts.secrets.get(object).map(|facts| &facts.uid),
            FaultyKind::Service => facts.services.get(object).map(|facts| &facts.uid),
            FaultyKind::FrontendConfig => facts.frontend_configs.get(object).map(|facts| &facts.uid),
            FaultyKind::BackendConfig => facts.backend_configs.get(object).map(|facts| &facts.uid),
        };
        uid.cloned().unwrap_or_default()
    }

    /// Whether an object is there and of use to Podway: an Ingress of its class, a Service that it serves, and what
    /// these name.
    pub(in crate::agent) fn is_told_of(&self, kind: FaultyKind, object: &ObjectName) -> bool {
        match kind {
            FaultyKind::Ingress => self.ingress(object).is_some_and(|facts| self.is_ours(facts)),
            FaultyKind::Secret => self.snapshot.secrets.contains_key(object),
            FaultyKind::Service => self.served(object).is_some(),
            FaultyKind::FrontendConfig => self.our_ingresses().any(|ingress| {
                ingress.name.namespace == object.namespace
                    && ingress.frontend_config.as_ref() == Some(&object.name)
            }),
            FaultyKind::BackendConfig => {
                let first = ObjectName { namespace: Arc::clone(&object.namespace), name: "".into() };
                let services = self.snapshot.services.range(first..).map(|(_, service)| service);
                services
                    .take_while(|service| service.name.namespace == object.namespace)
                    .any(|service| service.backend_configs.has(&object.name))
            }
        }
    }

    /// The Ingresses of Podway's class that name each Secret.
    pub(in crate::agent) fn secret_users(&self) -> BTreeMap<ObjectName, BTreeSet<ObjectName>> {
        let mut users: BTreeMap<ObjectName, BTreeSet<ObjectName>> = BTreeMap::new();
        for ingress in self.our_ingresses() {
            let namespace = &ingress.name.namespace;
            let of_tls = ingress
                .tls
                .iter()
                .map(|tls| ObjectName { namespace: Arc::clone(namespace), name: Arc::clone(&tls.secret) });
            let of_clients = ingress.client_verification.iter().map(|clients| clients.secret.clone());
            for secret in of_tls.chain(of_clients) {
                users.entry(secret).or_default().insert(ingress.name.clone());
            }
        }
        users
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        plan::is_served_class(ingress, &self.snapshot)
    }

    fn our_ingresses(&self) -> impl Iterator<Item = &Arc<Ingress>> {
        self.snapshot.ingresses.values().filter(|ingress| self.is_ours(ingress))
    }
}
