//! Where the reading commands read: this node's maps and agent, or a snapshot.
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::admin;
use crate::snapshot::{NodeSnapshot, Reading};

use super::UrlMapQuestion;

/// Where to read.
#[derive(Args, Clone, Debug)]
pub(super) struct ReadFrom {
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir, where it answers what the maps do not hold.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
    /// Read what `podway snapshot` has written, of this node or another one, in place of the maps and the agent;
    /// needs no kernel and no rights.
    #[arg(long, value_name = "FILE")]
    pub(super) snapshot: Option<PathBuf>,
}

impl ReadFrom {
    /// Opens it.
    ///
    /// # Errors
    /// No maps are pinned there, or the snapshot cannot be read.
    pub(super) fn open(&self) -> Result<Reading> {
        match &self.snapshot {
            Some(file) => Reading::recorded(file),
            None => Reading::pinned(&self.pin_path, &self.run_dir),
        }
    }

    /// Answers a question about URL maps, which the maps do not hold.
    ///
    /// # Errors
    /// Nobody knows, or there is no answer.
    pub(super) fn ask_of_url_maps(&self, question: &UrlMapQuestion) -> Result<String> {
        let Some(file) = &self.snapshot else {
            return admin::url_maps(&self.run_dir, serde_json::to_value(question)?).context(
                "cannot ask the agent for its URL maps; give its --run-dir, --manifests DIR or --snapshot FILE",
            );
        };
        let facts = NodeSnapshot::read(file)?.facts()?;
        question.answer(&facts.plan().url_map_part(), &facts.ingress_problems())
    }
}
