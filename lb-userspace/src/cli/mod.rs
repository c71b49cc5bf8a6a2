//! The command line.
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

mod completions;
mod describe;
mod diff_kube_proxy;
mod doctor;
mod explain;
mod frontends;
mod get;
mod health;
mod manifests;
mod monitor;
mod node_negs;
mod output;
mod plan;
mod pressure;
mod programs;
mod read_from;
mod remove;
mod snapshot;
mod top;
mod traces;
mod url_maps;
mod verify;

pub(crate) use url_maps::Question as UrlMapQuestion;

use read_from::ReadFrom;

/// Where an agent pins its maps unless it is told otherwise.
const PIN_PATH: &str = crate::maps::PIN_PATH_DEFAULT;
/// Its run directory, likewise.
const RUN_DIR: &str = crate::agent::RUN_DIR_DEFAULT;

/// eBPF/XDP endpoint forwarder for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "podway", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(Box<crate::agent::Options>),
    Get(get::Get),
    GetHealth(health::GetHealth),
    Describe(describe::Describe),
    Explain(Box<explain::Explain>),
    Plan(plan::Plan),
    Verify(verify::Verify),
    DiffKubeProxy(diff_kube_proxy::DiffKubeProxy),
    Doctor(doctor::Doctor),
    Top(top::Top),
    Monitor(monitor::Monitor),
    Snapshot(snapshot::Snapshot),
    Remove(remove::Remove),
    Completions(completions::Completions),
    ManPages(completions::ManPages),
}

/// Runs a command; what it prints goes to standard output.
///
/// # Errors
/// One line and its causes: operation, datum, cause, remedy.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Agent(options) => crate::agent::run(&options).map(|()| ExitCode::SUCCESS),
        Command::DiffKubeProxy(diff) => diff_kube_proxy::run(&diff),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Top(top) => top::run(&top).map(|()| ExitCode::SUCCESS),
        Command::Monitor(monitor) => monitor::run(&monitor).map(|()| ExitCode::SUCCESS),
        Command::Get(get) => shown(get::run(&get)),
        Command::GetHealth(get) => shown(health::run(&get)),
        Command::Describe(describe) => shown(describe::run(&describe)),
        Command::Explain(explain) => shown(explain::run(&explain)),
        Command::Plan(plan) => shown(plan::run(&plan)),
        Command::Verify(verify) => shown(verify::run(&verify)),
        Command::Snapshot(snapshot) => shown(snapshot::run(&snapshot)),
        Command::Remove(remove) => shown(remove::run(&remove)),
        Command::Completions(completions) => shown(Ok(completions::script(&completions))),
        Command::ManPages(pages) => shown(completions::write_pages(&pages)),
    }
}

/// What `podway explain` prints with these arguments.
///
/// # Errors
/// They are none of `explain`, or it has no answer.
pub fn explanation<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    printed(std::iter::once("explain").chain(arguments))
}

/// What `podway explain`, `get`, `describe` or `plan` prints with these arguments.
///
/// # Errors
/// They are of no such command, or it has no answer.
pub fn printed<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    match Cli::try_parse_from(std::iter::once("podway").chain(arguments))?.command {
        Command::Explain(explain) => explain::run(&explain),
        Command::Get(get) => get::run(&get),
        Command::Describe(describe) => describe::run(&describe),
        Command::Plan(plan) => plan::run(&plan),
        _ => bail!("a command that does more than print"),
    }
}

fn shown(text: Result<String>) -> Result<ExitCode> {
    print(&text?)?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output may be closed early (`| head`): that is no error.
fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Where a command that needs no agent reads, if it is asked to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct GivenFacts {
    /// Answer from the plan of this folder of manifests; needs no kernel.
    #[arg(long, conflicts_with = "snapshot")]
    pub manifests: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    pub node_name: Option<String>,
    /// What the node is like.
    #[command(flatten, next_help_heading = "With --manifests")]
    pub node: crate::agent::NodeFlags,
}

impl GivenFacts {
    /// The facts, where there is a folder; a node without a name is none of the cluster's.
    fn facts(&self) -> Option<Facts> {
        let manifests = self.manifests.clone()?;
        let node_name = self.node_name.clone().unwrap_or_default();
        Some(Facts { manifests, node_name, node: self.node.clone() })
    }

    /// Answers from the folder, else from the snapshot, else asks the agent.
    fn ask_of_url_maps(&self, question: &UrlMapQuestion, from: &ReadFrom) -> Result<String> {
        let Some(facts) = self.facts() else {
            return from.ask_of_url_maps(question);
        };
        let planned = manifests::plan(&facts)?;
        manifests::warn(&planned.problems);
        for (name, reason) in planned.desired.url_maps().left_out() {
            eprintln!("podway: Ingress {name} is not served: {reason}");
        }
        question.answer(&planned.desired, &planned.problems)
    }
}

/// A directory of manifests and the node to plan for.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Facts {
    /// Folder of YAML manifests.
    #[arg(long)]
    pub manifests: PathBuf,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    pub node_name: String,
    /// What the node is like.
    #[command(flatten)]
    pub node: crate::agent::NodeFlags,
}
