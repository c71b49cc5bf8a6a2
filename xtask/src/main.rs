//! Project commands: `cargo xtask test|demo|build|build-ebpf|churn|upgrade|soak|bench|dist|render|audit`. Each one
//! finds what it lacks, says in one line what it installs, installs it and goes on.
#![forbid(unsafe_code)]

mod audit;
mod bench;
mod build;
mod build_ebpf;
mod daemons;
mod demo;
mod dist;
mod endurance;
mod helm;
mod privilege;
mod project;
mod qemu;
mod setup;
mod test;
mod test_binary;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::project::Project;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Podway's project commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the tests, tier by tier; a tier whose need is not met says so and is skipped
    Test(test::Arguments),
    /// Show real traffic through two simulated nodes, with every expectation checked
    Demo(demo::Arguments),
    /// Build the release binary `podway` with the eBPF object inside
    Build,
    /// Build the eBPF object alone
    BuildEbpf,
    /// Fill `target/dist`: static binary, image context, chart, manifests, completions, manual pages, checksums
    Dist(dist::Arguments),
    /// Hold all crates to `deny.toml`, and look for advisories
    Audit,
    /// Render the chart with its defaults into `deploy/podway.yaml`
    Render,
    /// Let endpoints come and go for a minute under many short connections, of which none may fail
    Churn(endurance::Churn),
    /// Replace the agents by another build and back under traffic of both layers, of which nothing may be lost
    Upgrade(endurance::Upgrade),
    /// Let everything happen for half an hour: traffic, changes, kills, failing health checks
    Soak(endurance::Soak),
    /// Measure, and draw the page of performance and its charts from what was measured
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Project::find().and_then(|project| match arguments.command {
        Command::Test(arguments) => test::run_command(&project, &arguments),
        Command::Demo(arguments) => demo::run_command(&project, &arguments),
        Command::Build => build::run_command(&project),
        Command::Churn(arguments) => arguments.run(&project),
        Command::Upgrade(arguments) => arguments.run(&project),
        Command::Soak(arguments) => arguments.run(&project),
        Command::Bench(arguments) => bench::run_command(&project, &arguments),
        Command::Dist(arguments) => dist::run_command(&project, &arguments),
        Command::Audit => audit::run_command(&project),
        Command::Render => helm::run_command(&project),
        Command::BuildEbpf => build_ebpf::run_command(&project),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
