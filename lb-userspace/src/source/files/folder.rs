//! A folder of manifests as a set of facts, and what changed in it since the last look.
use std::collections::{BTreeMap, btree_map};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use tracing::info;

use super::manifest::{Object, Syntax};
use super::reading::{self, BATCH_FILES, Found, Stamp};
use crate::model::{Change, ObjectName, Problem};
use crate::source::objects::{self, Converted};
use crate::source::{Interner, Problems, SourceEvent};

/// Kind of the problems of files and of the folder.
const FILE_KIND: &str = "File";

/// Kind and name of an object.
type Key = (&'static str, ObjectName);

/// What one file gave when it was last read.
#[derive(Default)]
struct FileState {
    /// What the file system said of the text, so that an untouched file is not read again.
    stamp: Option<Stamp>,
    /// Hash of the text, so that the same text is not parsed again.
    text_hash: Option<u64>,
    objects: BTreeMap<Key, Entry>,
    faults: Vec<String>,
}

/// An object in a file.
struct Entry {
    document_number: usize,
    converted: Converted,
}

/// The folder, as last seen, and what was reported of it.
pub(super) struct Folder {
    dir: PathBuf,
    interner: Interner,
    files: BTreeMap<String, FileState>,
    reported_facts: BTreeMap<Key, Change>,
    reported_problems: BTreeMap<Key, Vec<Problem>>,
}

impl Folder {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            interner: Interner::default(),
            files: BTreeMap::new(),
            reported_facts: BTreeMap::new(),
            reported_problems: BTreeMap::new(),
        }
    }

    /// Reads what changed and says what that means.
    ///
    /// # Errors
    /// When the folder itself cannot be listed. Everything stays as it was.
    pub(super) fn scan(&mut self) -> io::Result<Vec<SourceEvent>> {
        let stamps = manifest_files(&self.dir)?;
        self.files.retain(|name, _| stamps.contains_key(name));
        let is_due = |name: &str, stamp: Option<Stamp>| {
            stamp.is_none() || self.files.get(name).and_then(|state| state.stamp) != stamp
        };
        let due: Vec<&String> =
            stamps.iter().filter(|(name, stamp)| is_due(name, **stamp)).map(|(name, _)| name).collect();
        for names in due.chunks(BATCH_FILES) {
            let hash_of = |name: &str| self.files.get(name).and_then(|state| state.text_hash);
            let files: Vec<_> = names.iter().map(|name| (name.as_str(), hash_of(name))).collect();
            let found = reading::read_all(&self.dir, &files);
            for (name, found) in names.iter().zip(found) {
                self.take(name, stamps[*name], found);
            }
        }
        let mut events = Vec::new();
        let (facts, problems) = self.merged();
        report_facts(&mut self.reported_facts, facts, &mut events);
        report_problems(&mut self.reported_problems, problems, &mut events);
        self.interner.forget_unused();
        Ok(events)
    }

    /// The event that says that the folder cannot be listed.
    pub(super) fn unreadable(&mut self, error: &io::Error) -> Option<SourceEvent> {
        let subject = ObjectName::new("", &self.dir.to_string_lossy());
        let message = format!(
            "cannot list the manifests: {error}; make the folder readable; what it gave before stays"
        );
        let found = vec![Problem { kind: FILE_KIND, object: subject.clone(), message }];
        let key = (FILE_KIND, subject.clone());
        if self.reported_problems.get(&key) == Some(&found) {
            return None;
        }
        self.reported_problems.insert(key, found.clone());
        Some(SourceEvent::Problems(Problems { kind: FILE_KIND, subject, found }))
    }

    /// Takes over what a look at a file has found.
    fn take(&mut self, name: &str, stamp: Option<Stamp>, found: Found) {
        let state = self.files.entry(name.to_owned()).or_default();
        state.stamp = stamp;
        let (text_hash, manifest) = match found {
            Found::Known => return,
            Found::Read { text_hash, manifest } => (text_hash, manifest),
            Found::Unreadable(reason) => {
                (state.stamp, state.text_hash) = (None, None);
                state.faults = vec![format!("cannot read the file: {reason}; what it gave before stays")];
                return;
            }
        };
        if !manifest.ignored_kinds.is_empty() {
            let kinds = manifest.ignored_kinds.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            info!(file = name, kinds, "kinds that are not read are ignored");
        }
        let before = std::mem::take(&mut state.objects);
        state.text_hash = Some(text_hash);
        state.faults = manifest.faults;
        for (document_number, object) in manifest.objects {
            let (key, converted) = convert(&object, &mut self.interner);
            match state.objects.entry(key) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(Entry { document_number, converted });
                }
                btree_map::Entry::Occupied(first) => state.faults.push(format!(
                    "document {document_number}: {} {} is also in document {}, which counts; remove one",
                    first.key().0,
                    first.key().1,
                    first.get().document_number
                )),
            }
        }
        if !state.faults.is_empty() {
            // Nobody can say which objects the unreadable documents stand for: all that are missing
            // may be theirs.
            for (key, entry) in before {
                state.objects.entry(key).or_insert(entry);
            }
        }
    }

    /// All facts and problems of all files. Of an object in two files the one in the file that sorts
    /// first counts.
    fn merged(&self) -> (BTreeMap<Key, Change>, BTreeMap<Key, Vec<Problem>>) {
        let mut owners: BTreeMap<&Key, &str> = BTreeMap::new();
        let mut facts = BTreeMap::new();
        let mut problems: BTreeMap<Key, Vec<Problem>> = BTreeMap::new();
        for (file, state) in &self.files {
            let subject = ObjectName::new("", file);
            let mut faults = state.faults.clone();
            for (key, entry) in &state.objects {
                if let Some(owner) = owners.get(key) {
                    faults.push(format!("{} {} is also in {owner}, which counts; remove one", key.0, key.1));
                    continue;
                }
                owners.insert(key, file);
                facts.insert(key.clone(), entry.converted.change.clone());
                if !entry.converted.problems.is_empty() {
                    problems.insert(key.clone(), entry.converted.problems.clone());
                }
            }
            if !faults.is_empty() {
                let problem = |message| Problem { kind: FILE_KIND, object: subject.clone(), message };
                let found = faults.into_iter().map(problem).collect();
                problems.insert((FILE_KIND, subject.clone()), found);
            }
        }
        (facts, problems)
    }
}

/// The manifest files, sorted by name, with their stamps. Hidden files and folders are none (a mounted `ConfigMap`
/// keeps its versions in hidden folders).
fn manifest_files(dir: &Path) -> io::Result<BTreeMap<String, Option<Stamp>>> {
    let now = SystemTime::now();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || Syntax::of_file(&name).is_none() {
            continue;
        }
        let metadata = fs::metadata(entry.path());
        if !metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            files.insert(name, metadata.ok().and_then(|metadata| Stamp::of(&metadata, now)));
        }
    }
    Ok(files)
}

fn convert(object: &Object, interner: &mut Interner) -> (Key, Converted) {
    let (kind, meta, converted) = match object {
        Object::Service(service) => ("Service", &service.metadata, objects::service(service, interner)),
        Object::EndpointSlice(slice) => {
            ("EndpointSlice", &slice.metadata, objects::endpoint_slice(slice, interner))
        }
        Object::Node(node) => ("Node", &node.metadata, objects::node(node, interner)),
        Object::ServiceCidr(cidr) => ("ServiceCIDR", &cidr.metadata, objects::service_cidr(cidr, interner)),
        Object::BackendConfig(config) => {
            ("BackendConfig", &config.metadata, objects::backend_config(config, interner))
        }
        Object::Secret(secret) => ("Secret", &secret.metadata, objects::secret(secret, interner)),
        Object::Ingress(ingress) => ("Ingress", &ingress.metadata, objects::ingress(ingress, interner)),
        Object::IngressClass(class) => {
            ("IngressClass", &class.metadata, objects::ingress_class(class, interner))
        }
        Object::FrontendConfig(config) => {
            ("FrontendConfig", &config.metadata, objects::frontend_config(config, interner))
        }
        Object::LoadBalancerPool(pool) => {
            ("LoadBalancerPool", &pool.metadata, objects::load_balancer_pool(pool, interner))
        }
    };
    let name = ObjectName::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    ((kind, name), converted)
}

fn report_facts(
    reported: &mut BTreeMap<Key, Change>,
    facts: BTreeMap<Key, Change>,
    events: &mut Vec<SourceEvent>,
) {
    for (key, change) in reported.iter().filter(|(key, _)| !facts.contains_key(*key)) {
        events.push(SourceEvent::Change(gone(key, change)));
    }
    for (key, change) in &facts {
        if reported.get(key) != Some(change) {
            events.push(SourceEvent::Change(change.clone()));
        }
    }
    *reported = facts;
}

fn gone(key: &Key, last: &Change) -> Change {
    match last {
        Change::Service(_) | Change::ServiceGone(_) => Change::ServiceGone(key.1.clone()),
        Change::EndpointSlice(_) | Change::EndpointSliceGone(_) => Change::EndpointSliceGone(key.1.clone()),
        Change::Node(_) | Change::NodeGone(_) => Change::NodeGone(key.1.name.clone()),
        Change::ServiceCidr(_) | Change::ServiceCidrGone(_) => Change::ServiceCidrGone(key.1.name.clone()),
        Change::BackendConfig(_) | Change::BackendConfigGone(_) => Change::BackendConfigGone(key.1.clone()),
        Change::Secret(_) | Change::SecretGone(_) => Change::SecretGone(key.1.clone()),
        Change::Ingress(_) | Change::IngressGone(_) => Change::IngressGone(key.1.clone()),
        Change::IngressClass(_) | Change::IngressClassGone(_) => Change::IngressClassGone(key.1.name.clone()),
        Change::FrontendConfig(_) | Change::FrontendConfigGone(_) => {
            Change::FrontendConfigGone(key.1.clone())
        }
        Change::LoadBalancerPool(_) | Change::LoadBalancerPoolGone(_) => {
            Change::LoadBalancerPoolGone(key.1.name.clone())
        }
        Change::GatedPod(_) | Change::GatedPodGone(_) => Change::GatedPodGone(key.1.clone()),
    }
}

fn report_problems(
    reported: &mut BTreeMap<Key, Vec<Problem>>,
    problems: BTreeMap<Key, Vec<Problem>>,
    events: &mut Vec<SourceEvent>,
) {
    for (kind, subject) in reported.keys().filter(|key| !problems.contains_key(*key)) {
        let subject = subject.clone();
        events.push(SourceEvent::Problems(Problems { kind, subject, found: Vec::new() }));
    }
    for (key, found) in &problems {
        if reported.get(key) != Some(found) {
            let (kind, subject) = key.clone();
            events.push(SourceEvent::Problems(Problems { kind, subject, found: found.clone() }));
        }
    }
    *reported = problems;
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
