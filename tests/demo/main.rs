//! `podway-demo`: two simulated nodes with six pods, a client outside, the manifests of `examples/`,
//! an Ingress, and real traffic. Every step states what it expects; the exit status is 0 only if all held.
//! `cargo xtask demo` builds what it needs and runs it as root.
#![forbid(unsafe_code)]

mod failures;
mod ingress;
mod inside;
mod interrupt;
mod outside;
mod report;
mod stage;
mod tally;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lb_tests::need;

use crate::interrupt::Interrupt;
use crate::report::Report;
use crate::stage::Stage;

/// Real traffic through two simulated nodes, with every expectation checked.
#[derive(Parser)]
struct Arguments {
    /// Leave everything up until Ctrl-C, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON; the story goes to standard error
    #[arg(long)]
    json: bool,
    /// The manifests that the agents read, beside those of an Ingress
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole demo; whether every expectation held. Whatever happens, the stage is taken down: it goes
/// when its value does, also while a panic unwinds.
fn run(arguments: &Arguments) -> Result<bool> {
    let need = need::find_netns().map_err(anyhow::Error::msg)?;
    let interrupt = Interrupt::listen()?;
    let mut report = Report::new(arguments.json);
    report.say("starting two nodes, six pods, a client outside and an agent per node");
    let mut stage = Stage::raise(&need, &arguments.manifests, &interrupt)?;
    let played = play(&mut stage, &mut report, &interrupt);
    if let Err(error) = &played {
        if interrupt.is_raised() {
            report.say("interrupted; taking everything down");
        } else {
            report.say(&format!("a step could not be done; the agents' logs:\n{}", stage.logs()));
            report.say(&format!("error: {error:#}"));
        }
    }
    if arguments.keep && played.is_ok() {
        report.say(&tour::how_to_look_around(&stage));
        interrupt.wait();
    }
    let namespaces = stage.take_down().context("cannot take everything down")?;
    report.say(&format!("took everything down: {namespaces} network namespaces, and the pins of both nodes"));
    let has_held = played.is_ok() && report.has_held();
    report.finish(has_held)?;
    Ok(has_held)
}

fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    for act in [outside::play, inside::play, ingress::play, failures::play, tour::play] {
        act(stage, report, interrupt)?;
    }
    Ok(())
}
