//! `cargo xtask bench`: measures, keeps what was measured as JSON, and draws the page and its charts from it.
//!
//! Each bench program of `lb-tests` writes its results to a file; all of a run are one saved run. The page
//! is made from a saved run alone, so `--page-only` draws it anew without measuring.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{self, BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::{setup, test_binary};

mod chart;
mod compare;
#[path = "../../tests/src/bench/data.rs"]
#[expect(unreachable_pub, reason = "the file is also a public module of lb-tests")]
mod data;
mod kube_proxy;
mod page;
mod saved;

use data::Results;

/// Names the file to write results to, to a bench program.
const RESULTS_VARIABLE: &str = "PODWAY_BENCH_RESULTS";
/// Asks a bench program for a quick look.
const QUICK_VARIABLE: &str = "PODWAY_BENCH_QUICK";

/// Names the binary of kube-proxy to a bench program.
const KUBE_PROXY_VARIABLE: &str = "PODWAY_KUBE_PROXY";

/// Names the binary of Envoy to a bench program.
const ENVOY_VARIABLE: &str = "PODWAY_ENVOY";

/// The bench program that needs other proxies and their load generators.
const L7: &str = "l7";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fewer sizes and rounds, a matter of minutes; the page and the kept run stay as they are
    #[arg(long)]
    quick: bool,
    /// Also write what was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say what got slower than in a saved run, beyond noise; the exit status is 1 if anything did
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure nothing: compare this saved run, instead of a new one, with that of `--against`
    #[arg(long, value_name = "FILE", requires = "against", conflicts_with_all = ["quick", "json", "only", "l7", "kube_proxy"])]
    run: Option<PathBuf>,
    /// Run one bench program alone, by its name; of the kept run the others stay
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run the bench of the front-end beside nginx, HAProxy and Envoy alone, which a whole run leaves out: as `--only l7`
    #[arg(long, conflicts_with = "only")]
    l7: bool,
    /// Also measure kube-proxy itself, this binary of it, beside the agent (`scale`)
    #[arg(long, value_name = "PATH")]
    kube_proxy: Option<PathBuf>,
    /// Measure nothing: draw the page and its charts from the kept run
    #[arg(long, conflicts_with_all = ["quick", "json", "against", "only", "l7", "kube_proxy", "run"])]
    page_only: bool,
}

impl Arguments {
    /// Whether a bench program is to run: with no word about it all but the one that needs other proxies.
    fn wants(&self, bench: &str) -> bool {
        match &self.only {
            Some(only) => only == bench,
            None => self.l7 == (bench == L7),
        }
    }
}

/// Builds all that is measured as the user, and measures as root.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let kept = project.performance().join("results.json");
    if arguments.page_only {
        return page::write(project, &saved::read(&kept)?);
    }
    // What is wrong with the arguments is told before anything is built.
    let before = arguments.against.as_deref().map(saved::read).transpose()?;
    if let (Some(before), Some(after)) = (&before, &arguments.run) {
        return compare::report(before, &saved::read(after)?);
    }
    let kube_proxy = arguments.kube_proxy.as_deref().map(kube_proxy::checked).transpose()?;
    let measured = measure(project, arguments, kube_proxy.as_deref())?;
    if let Some(path) = &arguments.json {
        saved::write(path, &measured)?;
    }
    if !arguments.quick {
        let merged = saved::merged(saved::read_if_there(&kept)?, measured.clone());
        saved::write(&kept, &merged)?;
        page::write(project, &merged)?;
    }
    match before {
        Some(before) => compare::report(&before, &measured),
        None => Ok(()),
    }
}

fn measure(project: &Project, arguments: &Arguments, kube_proxy: Option<&Path>) -> Result<Vec<Results>> {
    let privilege = Privilege::find()?;
    setup::system(privilege)?;
    let envoy = if arguments.wants(L7) {
        setup::l7_peers(privilege)?;
        Some(setup::envoy(project, privilege)?)
    } else {
        None
    };
    let podway = build::release_binary(project)?;
    let object = project.ebpf_object();
    let built = test_binary::build(
        project,
        &["bench", "--package", "lb-tests", "--benches", "--bins", "--no-run"],
        Some(&object),
    )?;
    let is_bench = |binary: &&test_binary::TestBinary| binary.kind == test_binary::Kind::Bench;
    let benches: Vec<_> = built.iter().filter(is_bench).collect();
    let names: Vec<&str> = benches.iter().map(|bench| bench.name.as_str()).collect();
    if !names.iter().any(|name| arguments.wants(name)) {
        bail!("there is no such bench program; there are {}", names.join(", "));
    }
    let mut measured = Vec::new();
    for bench in benches.into_iter().filter(|bench| arguments.wants(&bench.name)) {
        println!("bench: {}", bench.name);
        let file = project.target().join(format!("bench-{}.json", bench.name));
        // Made by the user: what root makes the user could not remove.
        std::fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
        let mut variables = vec![
            (OBJECT_VARIABLE, object.as_os_str()),
            (BINARY_VARIABLE, podway.as_os_str()),
            (RESULTS_VARIABLE, file.as_os_str()),
        ];
        variables.extend(kube_proxy.map(|path| (KUBE_PROXY_VARIABLE, path.as_os_str())));
        variables.extend(envoy.as_deref().map(|path| (ENVOY_VARIABLE, path.as_os_str())));
        if arguments.quick {
            variables.push((QUICK_VARIABLE, "1".as_ref()));
        }
        let mut command = privilege.command(&bench.path, variables);
        bench.set_folder(&mut command);
        run(&mut command)?;
        measured.push(results_of(&file)?);
    }
    Ok(measured)
}

fn results_of(file: &Path) -> Result<Results> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no results", file.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// Which of two bench programs run.
    fn wanted(options: &[&str]) -> [bool; 2] {
        let line = Line::parse_from([&["bench"], options].concat());
        ["path", "l7"].map(|bench| line.arguments.wants(bench))
    }

    #[test]
    fn a_whole_run_leaves_the_front_end_out() {
        assert_eq!(wanted(&[]), [true, false]);
        assert_eq!(wanted(&["--quick"]), [true, false]);
    }

    #[test]
    fn the_front_end_is_measured_alone() {
        assert_eq!(wanted(&["--l7"]), [false, true]);
        assert_eq!(wanted(&["--only", "l7"]), [false, true]);
        assert_eq!(wanted(&["--only", "path"]), [true, false]);
    }
}
