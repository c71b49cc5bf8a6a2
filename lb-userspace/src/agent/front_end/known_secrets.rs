//! What Secrets hold, as it was last good.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ObjectName, TlsSecret};

/// A Secret that an Ingress names.
struct Known<T> {
    secret: Option<Arc<TlsSecret>>,
    /// The last that was good.
    value: Option<T>,
    /// What is wrong now.
    fault: Option<String>,
}

/// Those that are named for one purpose, each with what is read of it for that.
pub(super) struct KnownSecrets<T> {
    secrets: BTreeMap<ObjectName, Known<T>>,
    read: fn(&ObjectName, &TlsSecret) -> Result<T, String>,
    /// What a Secret must have to be of use.
    needs: &'static str,
}

impl<T> KnownSecrets<T> {
    pub(super) fn new(read: fn(&ObjectName, &TlsSecret) -> Result<T, String>, needs: &'static str) -> Self {
        Self { secrets: BTreeMap::new(), read, needs }
    }

    /// Takes the Secrets as they are now; whether a value or a fault came, changed or went. A Secret that cannot be
    /// used, or that is gone while it is named, leaves the last good value.
    pub(super) fn follow(
        &mut self,
        names: &BTreeSet<ObjectName>,
        secrets: &BTreeMap<ObjectName, Arc<TlsSecret>>,
    ) -> bool {
        let before = self.secrets.len();
        self.secrets.retain(|name, _| names.contains(name));
        let mut is_change = self.secrets.len() != before;
        for name in names {
            let secret = secrets.get(name);
            let known = self.secrets.entry(name.clone()).or_insert_with(|| {
                is_change = true;
                Known { secret: None, value: None, fault: Some("it is not there".to_owned()) }
            });
            if known.secret.as_ref() == secret {
                continue;
            }
            known.secret = secret.cloned();
            // A fault is a change too: it is to be told.
            is_change = true;
            let read = match secret {
                Some(secret) => (self.read)(name, secret),
                None => Err(format!("it is gone, or has not {}", self.needs)),
            };
            match read {
                Ok(value) => (known.value, known.fault) = (Some(value), None),
                Err(fault) => known.fault = Some(fault),
            }
        }
        is_change
    }

    /// The last good value of a Secret.
    pub(super) fn value(&self, name: &ObjectName) -> Option<&T> {
        self.secrets.get(name)?.value.as_ref()
    }

    /// All values, by their Secrets.
    pub(super) fn values(&self) -> impl Iterator<Item = (&ObjectName, &T)> {
        self.secrets.iter().filter_map(|(name, known)| Some((name, known.value.as_ref()?)))
    }

    /// What is wrong with Secrets, and whether a former value is used all the same.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&ObjectName, &str, bool)> {
        let faulty =
            self.secrets.iter().filter_map(|(name, known)| Some((name, known.fault.as_ref()?, known)));
        faulty.map(|(name, fault, known)| (name, fault.as_str(), known.value.is_some()))
    }
}
