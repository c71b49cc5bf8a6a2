//! Which `EndpointSlice` each endpoint came from, on disk: the maps hold no room for it, and `explain` tells
//! it also when no agent runs. One small file for each Service, written when its plan changes.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::model::ObjectName;
use crate::plan::{Desired, ServicePlan};

/// A slice and the endpoints that it gave to a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceOrigin {
    name: String,
    resource_version: String,
    endpoints: BTreeSet<SocketAddr>,
}

/// The folder of the files.
#[derive(Clone, Debug)]
pub struct Origins {
    dir: PathBuf,
}

impl Origins {
    /// The files below an agent's run directory.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("origins") }
    }

    fn file(&self, service: &ObjectName) -> PathBuf {
        self.dir.join(file_name(service))
    }

    /// All files with their names, for a snapshot; none where there is no folder.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let file = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok().filter(|name| name.ends_with(".json"))?;
            Some((name, std::fs::read(entry.path()).ok()?))
        };
        let mut files: Vec<(String, Vec<u8>)> = entries.filter_map(file).collect();
        files.sort_unstable();
        files
    }

    /// Makes the folder and removes what is there of Services that are no more.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(crate) fn begin(&self, desired: &Desired) -> Result<()> {
        let cannot = || format!("cannot use {}; give another --run-dir", self.dir.display());
        std::fs::create_dir_all(&self.dir).with_context(cannot)?;
        let wanted: BTreeSet<PathBuf> = desired.services().keys().map(|name| self.file(name)).collect();
        for entry in std::fs::read_dir(&self.dir).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if !wanted.contains(&path) {
                std::fs::remove_file(&path).with_context(cannot)?;
            }
        }
        Ok(())
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub(crate) fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the files of Services whose plan changed. What cannot be written costs nothing but the
    /// slice's name in an explanation.
    pub(crate) fn update(&self, desired: &Desired, changed: &BTreeSet<ObjectName>) {
        for name in changed {
            let file = self.file(name);
            let done = match desired.service(name) {
                Some(plan) => write(&file, &slices(plan)),
                None => std::fs::remove_file(&file),
            };
            match done {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(file = %file.display(), error = %error, "cannot note where endpoints came from");
                }
                _ => {}
            }
        }
    }

    /// The slice of a Service's endpoint, as text with its resourceVersion; `None` where it is not known.
    #[must_use]
    pub fn slice(&self, service: &ObjectName, endpoint: SocketAddr) -> Option<String> {
        slice_in(&std::fs::read(self.file(service)).ok()?, service, endpoint)
    }
}

/// The name of a Service's file: a namespace has no dot (RFC 1123 label), so no two share a name.
#[must_use]
pub fn file_name(service: &ObjectName) -> String {
    format!("{}.{}.json", service.namespace, service.name)
}

/// As [`Origins::slice`], from the content of the Service's file.
#[must_use]
pub fn slice_in(file: &[u8], service: &ObjectName, endpoint: SocketAddr) -> Option<String> {
    let slices: Vec<SliceOrigin> = serde_json::from_slice(file).ok()?;
    let slice = slices.into_iter().find(|slice| slice.endpoints.contains(&endpoint))?;
    let version = match &*slice.resource_version {
        "" => String::new(),
        version => format!(" at resourceVersion {version}"),
    };
    Some(format!("EndpointSlice {}/{}{version}", service.namespace, slice.name))
}

fn slices(plan: &ServicePlan) -> Vec<SliceOrigin> {
    let mut slices: Vec<SliceOrigin> = Vec::new();
    for endpoint in plan.backend_services.iter().flat_map(|service| &service.endpoints) {
        let name = &*endpoint.slice.name.name;
        let place = slices.iter().position(|slice| slice.name == name).unwrap_or_else(|| {
            slices.push(SliceOrigin {
                name: name.to_owned(),
                resource_version: endpoint.slice.resource_version.to_string(),
                endpoints: BTreeSet::new(),
            });
            slices.len() - 1
        });
        slices[place].endpoints.insert(SocketAddr::new(endpoint.address, endpoint.port));
    }
    slices
}

/// Replaces a file in one step.
fn write(file: &Path, slices: &[SliceOrigin]) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(slices).map_err(std::io::Error::other)?)?;
    std::fs::rename(new, file)
}
