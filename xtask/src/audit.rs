//! `cargo xtask audit`: licences, sources and advisories of all crates, by cargo-deny.
use anyhow::{Context, Result};

use crate::project::{Project, output_of, run};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// The command itself: what needs no network first; advisories need their database, which is fetched.
pub(crate) fn run_command(project: &Project) -> Result<()> {
    let deny = project.tools().join("bin/cargo-deny");
    let is_there = output_of(project.command(&deny).arg("--version"))
        .is_some_and(|version| version.split_whitespace().any(|word| word == CARGO_DENY_VERSION));
    if !is_there {
        eprintln!("setup: installing cargo-deny {CARGO_DENY_VERSION} into {}", project.tools().display());
        let mut install = project.cargo();
        install.args([
            "install",
            "cargo-deny",
            "--version",
            CARGO_DENY_VERSION,
            "--locked",
            "--quiet",
            "--root",
        ]);
        run(install.arg(project.tools()).stdout(std::io::stderr()))
            .context("cannot audit: it needs cargo-deny")?;
    }
    run(project.command(&deny).args(["check", "licenses", "bans", "sources"]))
        .context("a crate is under a licence, or from a source, that deny.toml does not allow")?;
    run(project.command(&deny).args(["fetch", "db"])).context(
        "licences, bans and sources are in order, advisories were not looked for: their database cannot be fetched; \
         run this again where it can be",
    )?;
    run(project.command(&deny).args(["--offline", "check", "advisories"]))
        .context("an advisory holds for a crate; what it says is above")
}
