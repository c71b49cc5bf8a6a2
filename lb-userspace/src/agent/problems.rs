//! What cannot be used, for people: each problem is logged once when it comes and once when it goes, and
//! all that there are now stand in a file.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tracing::{info, warn};

use crate::model::Problem;

/// The problems as they were last told.
#[derive(Debug)]
pub(super) struct ProblemReport {
    file: PathBuf,
    told: BTreeSet<Problem>,
}

impl ProblemReport {
    pub(super) fn new(run_dir: &Path, node_name: &str) -> Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot make {}; give another --run-dir", run_dir.display()))?;
        let mut report = Self { file: super::problems_file(run_dir, node_name), told: BTreeSet::new() };
        report.write();
        Ok(report)
    }

    /// How many there are, by the kind of their objects.
    pub(super) fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        self.told.iter().for_each(|problem| *counts.entry(problem.kind).or_default() += 1);
        counts
    }

    /// All that there are, sorted.
    pub(super) fn all(&self) -> impl Iterator<Item = &Problem> {
        self.told.iter()
    }

    /// Tells what is new and what is over.
    pub(super) fn update(&mut self, problems: Vec<Problem>) {
        let now: BTreeSet<Problem> = problems.into_iter().collect();
        if now == self.told {
            return;
        }
        for problem in now.difference(&self.told) {
            let object = problem.object.to_string();
            warn!(kind = problem.kind, object, problem = problem.message, "object cannot be used in full");
        }
        for problem in self.told.difference(&now) {
            let object = problem.object.to_string();
            info!(kind = problem.kind, object, problem = problem.message, "problem is over");
        }
        self.told = now;
        self.write();
    }

    /// Replaces the file in one step, so that a reader never sees a half.
    fn write(&mut self) {
        let written = serde_json::to_vec_pretty(&self.told).map_err(std::io::Error::other).and_then(|text| {
            let new = self.file.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(&new, &self.file)
        });
        if let Err(error) = written {
            warn!(file = %self.file.display(), error = %error, "cannot write the problems");
        }
    }
}

/// Removes the files of all nodes' agents, and the directory if nothing else is in it.
pub(super) fn remove(run_dir: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(run_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("problems-")) {
            std::fs::remove_file(&path)?;
        }
    }
    match std::fs::remove_dir(run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}
