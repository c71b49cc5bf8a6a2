//! The `podway` binary.
use std::process::ExitCode;

use clap::Parser as _;
use lb_userspace::cli::{self, Cli};
use lb_userspace::memory;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

fn main() -> ExitCode {
    memory::give_back_at_once();
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("podway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
