//! An image and a DaemonSet, run as a node's runtime runs them, without one: bubblewrap gives the process its root file
//! system, which is read-only, its folders of the node, its capabilities and its filter of system calls.
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use dockerfile_parser::{Dockerfile, Instruction, ShellOrExecExpr};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use lb_tests::deployment;
use lb_tests::process::Process;
use lb_tests::topology::Host;
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::TargetArch;
use serde_json::{Value, json};
use tempfile::TempDir;

const PROFILE: &str = include_str!("../../../deploy/seccomp/podway.json");

/// Folders that a runtime makes in a root file system, or whose content it lays over.
const RUNTIME_FOLDERS: [&str; 3] = ["proc", "dev", "sys"];

/// Shared libraries, for a program that was not linked for the image.
const LIBRARIES: [&str; 3] = ["lib", "lib64", "usr/lib"];

/// A root file system and what runs in it.
pub(crate) struct Image {
    dir: TempDir,
    entrypoint: Vec<String>,
}

impl Image {
    /// Lets `cargo xtask dist` pack a program, and makes of its image context what the Dockerfile says.
    pub(crate) fn of_release(program: &Path) -> Result<Self> {
        let dir = TempDir::with_prefix("podway-image-")?;
        let xtask = program.with_file_name("xtask");
        let (dist, context) = (dir.path().join("dist"), dir.path().join("context"));
        std::fs::create_dir(&context)?;
        // What a debugger needs is most of a program, and takes long to pack.
        let stripped = dir.path().join("podway");
        run(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        let mut pack = Command::new(&xtask);
        pack.arg("dist").arg("--binary").arg(&stripped).arg("--to").arg(&dist);
        // The bill of materials asks cargo, which an administrator's PATH may not name.
        let tools = Path::new(env!("CARGO")).parent().context("cargo is in a folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        pack.env("CARGO", env!("CARGO")).env("PATH", format!("{}:{path}", tools.display()));
        run(&mut pack).context("cargo build --workspace makes xtask")?;
        run(Command::new("tar").arg("-xzf").arg(dist.join("podway-image.tar.gz")).arg("-C").arg(&context))?;
        let root = dir.path().join("root");
        let text = std::fs::read_to_string(context.join("Dockerfile"))?;
        let entrypoint = build(&text, &context, &root)?;
        Ok(Self { dir, entrypoint })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Starts the DaemonSet's container on a node.
    pub(crate) fn start(&self, node: &Host, run: &Run<'_>) -> Result<Process> {
        let mut arguments = Vec::new();
        let mut mount = |kind: &str, from: &Path, to: &str| -> Result<()> {
            std::fs::create_dir_all(self.root().join(to.trim_start_matches('/')))?;
            arguments.extend([kind.to_owned(), from.display().to_string(), to.to_owned()]);
            Ok(())
        };
        mount("--ro-bind", &self.root(), "/")?;
        mount("--ro-bind", Path::new("/sys"), "/sys")?;
        for library in LIBRARIES {
            mount("--ro-bind-try", &Path::new("/").join(library), &format!("/{library}"))?;
        }
        for (from, to) in run.given {
            mount("--ro-bind", from, to)?;
        }
        for volume in volumes(&run.pod)? {
            let from = run.host_paths.iter().find(|(path, _)| *path == volume.host_path);
            let (_, from) =
                from.with_context(|| format!("no folder of the node for {}", volume.host_path))?;
            std::fs::create_dir_all(from)?;
            mount(if volume.is_read_only { "--ro-bind" } else { "--bind" }, from, &volume.mount_path)?;
        }
        arguments
            .extend(["--proc", "/proc", "--dev", "/dev", "--die-with-parent", "--clearenv"].map(Into::into));
        for (name, value) in run.environment {
            arguments.extend(["--setenv".to_owned(), (*name).to_owned(), value.clone()]);
        }
        arguments.extend(["--cap-drop", "ALL"].map(Into::into));
        for capability in run.capabilities {
            arguments.extend(["--cap-add".to_owned(), format!("CAP_{capability}")]);
        }
        ensure!(run.pod.host_pid == Some(true), "without the node's processes this is another sandbox");
        arguments.extend(self.entrypoint.iter().cloned());
        arguments.extend(container(&run.pod)?.args.unwrap_or_default());
        arguments.extend(run.further.iter().map(|argument| (*argument).to_owned()));
        let node_name = node.name();
        let arguments = arguments.iter().map(|argument| argument.replace("$(NODE_NAME)", node_name));
        // bubblewrap reads the filter from a descriptor, which the shell opens.
        let filter = self.dir.path().join("filter");
        std::fs::write(&filter, filter_program()?)?;
        let mut command = node.command("sh");
        command.args(["-c", "exec 9<\"$1\"; shift; exec bwrap --seccomp 9 \"$@\"", "sh"]);
        command.arg(&filter).args(arguments);
        Process::start(command, "the container")
    }
}

/// Tells the program of a container to end, as the kubelet does. bubblewrap itself would not pass the signal on.
pub(crate) fn tell_to_end(container: &Process) -> Result<()> {
    let mut id = container.id();
    loop {
        let path = format!("/proc/{id}/task/{id}/children");
        let children = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        match children.split_whitespace().next() {
            Some(child) => id = child.parse()?,
            None => break,
        }
    }
    ensure!(id != container.id(), "the container has no program");
    let program = i32::try_from(id).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(program, Signal::TERM).with_context(|| format!("cannot signal {id}"))
}

/// How a container is run.
pub(crate) struct Run<'a> {
    pub(crate) pod: PodSpec,
    pub(crate) capabilities: &'a [String],
    /// Folders of the node that the DaemonSet names, with those that stand for them here.
    pub(crate) host_paths: &'a [(&'a str, PathBuf)],
    /// Files and folders that the test adds.
    pub(crate) given: &'a [(&'a Path, &'a str)],
    /// Variables that the kubelet adds.
    pub(crate) environment: &'a [(&'a str, String)],
    /// Arguments that the test adds.
    pub(crate) further: &'a [&'a str],
}

/// The pod of the manifests' DaemonSet.
pub(crate) fn pod() -> Result<PodSpec> {
    let objects = deployment::objects(deployment::MANIFESTS)?;
    let daemon_set =
        deployment::of_kind::<DaemonSet>(&objects, "DaemonSet")?.pop().context("no DaemonSet")?;
    daemon_set.spec.and_then(|spec| spec.template.spec).context("no pod")
}

fn container(pod: &PodSpec) -> Result<Container> {
    pod.containers.first().cloned().context("no container")
}

/// The capabilities that the manifests give.
pub(crate) fn capabilities(pod: &PodSpec) -> Result<Vec<String>> {
    let context = container(pod)?.security_context.context("no security context")?;
    context.capabilities.and_then(|capabilities| capabilities.add).context("no capabilities")
}

struct Volume {
    host_path: String,
    mount_path: String,
    is_read_only: bool,
}

fn volumes(pod: &PodSpec) -> Result<Vec<Volume>> {
    let mounts = container(pod)?.volume_mounts.unwrap_or_default();
    let volume = |mount: k8s_openapi::api::core::v1::VolumeMount| {
        let mut volumes = pod.volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == mount.name).context("a mount without a volume")?;
        let host_path = volume.host_path.as_ref().context("a volume that is no folder of the node")?;
        Ok(Volume {
            host_path: host_path.path.clone(),
            mount_path: mount.mount_path,
            is_read_only: mount.read_only == Some(true),
        })
    };
    mounts.into_iter().map(volume).collect()
}

/// Makes the root file system of a Dockerfile that starts from nothing and copies; its entry point.
fn build(dockerfile: &str, context: &Path, root: &Path) -> Result<Vec<String>> {
    let mut entrypoint = None;
    std::fs::create_dir(root)?;
    for folder in RUNTIME_FOLDERS {
        std::fs::create_dir(root.join(folder))?;
    }
    for instruction in Dockerfile::parse(dockerfile)?.instructions {
        match instruction {
            Instruction::From(from) => {
                ensure!(from.image.content == "scratch", "from {}", from.image.content);
            }
            Instruction::Copy(copy) => {
                let to = &copy.destination.content;
                let into = root.join(to.trim_start_matches('/'));
                for source in &copy.sources {
                    let target = if to.ends_with('/') { into.join(&source.content) } else { into.clone() };
                    std::fs::create_dir_all(target.parent().context("a file without a folder")?)?;
                    std::fs::copy(context.join(&source.content), &target)
                        .with_context(|| format!("{} is not in the context", source.content))?;
                }
            }
            Instruction::Entrypoint(given) => match given.expr {
                ShellOrExecExpr::Exec(words) => {
                    entrypoint = Some(words.elements.iter().map(|word| word.content.clone()).collect());
                }
                ShellOrExecExpr::Shell(_) => bail!("an entry point by a shell, which the image has not"),
            },
            Instruction::Label(_) | Instruction::Env(_) | Instruction::Cmd(_) | Instruction::Misc(_) => {}
            other => bail!("an instruction that this test cannot carry out: {other:?}"),
        }
    }
    std::fs::set_permissions(root, Permissions::from_mode(0o755))?;
    entrypoint.context("no entry point")
}

/// The profile, which is in the runtimes' form, as a program of classic BPF.
fn filter_program() -> Result<Vec<u8>> {
    let profile: Value = serde_json::from_str(PROFILE)?;
    ensure!(profile["defaultAction"] == "SCMP_ACT_ERRNO", "another default action");
    let groups = profile["syscalls"].as_array().context("no system calls")?;
    let mut allowed = Vec::new();
    for group in groups {
        ensure!(group["action"] == "SCMP_ACT_ALLOW" && group["args"].is_null(), "another rule: {group}");
        allowed.extend(group["names"].as_array().into_iter().flatten().map(|name| json!({"syscall": name})));
    }
    let filter = json!({"agent": {
        "mismatch_action": {"errno": profile["defaultErrnoRet"]}, "match_action": "allow", "filter": allowed,
    }});
    let filters = seccompiler::compile_from_json(filter.to_string().as_bytes(), TargetArch::x86_64)?;
    let program = &filters["agent"];
    let bytes = program.iter().flat_map(|instruction| {
        let [c0, c1] = instruction.code.to_ne_bytes();
        let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
        [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
    });
    Ok(bytes.collect())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
