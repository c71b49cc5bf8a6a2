//! `podway plan`: the desired state, no kernel needed.
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::plan::{Desired, Frontend, Scope, kind_name};
use crate::snapshot::NodeSnapshot;

use super::output::{self, Format, Row};
use super::{GivenFacts, manifests, url_maps};

/// Print what an agent would program from a folder of manifests, or had planned when a snapshot was made. Needs no
/// kernel and no root.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  podway plan --manifests examples --node-name node-a -o json")]
pub(super) struct Plan {
    #[command(flatten)]
    given: GivenFacts,
    /// Plan from the facts of an agent in a file of `podway snapshot`.
    #[arg(long, value_name = "FILE", required_unless_present = "manifests")]
    snapshot: Option<PathBuf>,
    /// Output format; the table forms show the frontends and the rules of URL maps.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints the desired state.
///
/// # Errors
/// The folder or the snapshot cannot be read, or the node has no name.
pub(super) fn run(plan: &Plan) -> Result<String> {
    let desired = desired(plan)?;
    if matches!(plan.output, Format::Json | Format::Yaml) {
        return output::value(&desired, plan.output);
    }
    let rows: Vec<PlannedFrontend> = desired
        .frontends()
        .map(|chain| PlannedFrontend {
            frontend: chain.frontend.clone(),
            endpoints: chain.backend_service.endpoints.len(),
        })
        .collect();
    let mut text = output::rows(&rows, plan.output)?;
    if !desired.url_maps().maps().is_empty() {
        text.push('\n');
        text.push_str(&url_maps::listing(&desired, None, plan.output)?);
    }
    Ok(text)
}

fn desired(plan: &Plan) -> Result<Desired> {
    if let Some(file) = &plan.snapshot {
        return Ok(NodeSnapshot::read(file)?.facts()?.plan());
    }
    let facts = plan.given.facts().filter(|facts| !facts.node_name.is_empty());
    let facts = facts.context("cannot tell which node to plan for: give --node-name")?;
    let mut planned = manifests::plan(&facts)?;
    manifests::tables(&mut planned);
    manifests::warn(&planned.problems);
    Ok(planned.desired)
}

#[derive(Serialize)]
struct PlannedFrontend {
    frontend: Frontend,
    endpoints: usize,
}

const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Cluster => "cluster",
        Scope::Local => "local",
    }
}

impl Row for PlannedFrontend {
    const HEADINGS: &'static [&'static str] =
        &["VIP", "PORT", "PROTOCOL", "KIND", "BACKEND SERVICE", "ENDPOINTS"];
    const WIDE_HEADINGS: &'static [&'static str] = &["NEG INTERNAL", "NEG EXTERNAL"];

    fn cells(&self) -> Vec<String> {
        let Self { frontend, endpoints } = self;
        vec![
            frontend.address.to_string(),
            frontend.port.to_string(),
            frontend.protocol.to_string(),
            kind_name(frontend.kind).to_owned(),
            frontend.backend_service.to_string(),
            endpoints.to_string(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        [self.frontend.neg_internal, self.frontend.neg_external]
            .map(|scope| scope_name(scope).to_owned())
            .to_vec()
    }
}
