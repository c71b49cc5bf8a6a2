//! The `podway` binary.
use std::process::ExitCode;

use clap::Parser as _;
use lb_userspace::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("podway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
