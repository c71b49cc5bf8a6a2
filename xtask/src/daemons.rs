//! Daemons that tests run: the programs alone, which no part of the system shall start.
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::privilege::Privilege;
use crate::project::{self, Project};
use crate::setup::{install, install_packages, partial_beside};

/// What would start a daemon with the system, of its package.
const BIRD_WITHOUT: [&str; 3] =
    ["--path-exclude=*/bird.service", "--path-exclude=/etc/init.d/bird", "--path-exclude=/etc/default/bird"];
const FRR_WITHOUT: [&str; 3] =
    ["--path-exclude=*/frr.service", "--path-exclude=*/frr@.service", "--path-exclude=/etc/init.d/frr"];

/// One of FRR's daemons, which lie on no `PATH`.
const FRR: &str = "/usr/lib/frr/bgpd";

/// All that the tests run.
pub(crate) fn install_all(project: &Project, privilege: Privilege) -> Result<()> {
    if project::find_program("bird").is_none() {
        install_packages(privilege, &["bird2"], &BIRD_WITHOUT)?;
    }
    if !Path::new(FRR).exists() {
        install_packages(privilege, &["frr"], &FRR_WITHOUT)?;
    }
    nginx(project, privilege)
}

/// nginx, unpacked beside the project's own tools: its package can be installed only where it may start a server.
fn nginx(project: &Project, privilege: Privilege) -> Result<()> {
    let folder = project.tools().join("nginx");
    if project::find_program("nginx").is_some() || folder.join("usr/sbin/nginx").is_file() {
        return Ok(());
    }
    let remedy = || "missing: nginx; install it with `apt-get install nginx-light`";
    eprintln!("setup: getting nginx into {} (apt-get download)", folder.display());
    install(privilege.plain_command("apt-get").args(["update", "--quiet"])).with_context(remedy)?;
    let partial = partial_beside(&folder)?;
    let mut download = Command::new("apt-get");
    install(download.args(["download", "--quiet", "nginx"]).current_dir(&partial)).with_context(remedy)?;
    let mut files = std::fs::read_dir(&partial).with_context(remedy)?;
    let package = files.next().with_context(remedy)?.with_context(remedy)?.path();
    install(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial)).with_context(remedy)?;
    std::fs::remove_file(&package).with_context(remedy)?;
    std::fs::rename(&partial, &folder).with_context(remedy)
}
