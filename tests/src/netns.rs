//! Network namespaces, and processes and threads inside them.
//!
//! This is the one place of the test tiers with `unsafe`: a process can enter a namespace and a
//! cgroup only between `fork` and `exec`, and the standard library marks that hook unsafe.
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces.
const NAMESPACE_DIR: &str = "/run/netns";

/// A named network namespace (`ip netns`). It is not removed on drop: its topology removes all of
/// its namespaces in one step.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    descriptor: Arc<OwnedFd>,
}

impl Namespace {
    /// Opens a namespace that `ip netns add` made.
    ///
    /// # Errors
    /// There is no such namespace.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NAMESPACE_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("cannot open network namespace {name}"))?;
        Ok(Self { name: name.to_owned(), descriptor: Arc::new(OwnedFd::from(file)) })
    }

    /// The name that `ip -n` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACE_DIR).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    /// The thread cannot enter the namespace (needs `CAP_SYS_ADMIN`).
    ///
    /// # Panics
    /// Passes a panic of `work` on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.descriptor.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter network namespace {}", self.name))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes values below `/proc/sys/net` of the namespace.
    ///
    /// # Errors
    /// A key does not exist or takes no such value; the message names it.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                std::fs::write(Path::new("/proc/sys/net").join(key), value)
                    .with_context(|| format!("cannot set net/{key} to {value} in {}", self.name))?;
            }
            Ok(())
        })?
    }

    /// Runs a batch of `ip` commands inside the namespace.
    ///
    /// # Errors
    /// One of them failed; the message holds what `ip` said.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        ip_batch(&["-n", &self.name], commands)
    }

    /// A command whose process will run inside the namespace and, where one is given, the cgroup
    /// whose `cgroup.procs` file is `cgroup_procs`.
    #[must_use]
    pub fn command(&self, program: &Path, cgroup_procs: Option<Arc<File>>) -> Command {
        let mut command = Command::new(program);
        let namespace = Arc::clone(&self.descriptor);
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            if let Some(procs) = &cgroup_procs {
                // "0" stands for the process that writes.
                rustix::io::write(procs.as_fd(), b"0")?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes
        // two system calls on descriptors that are open already; it takes no lock and allocates
        // nothing (a failed call becomes an `io::Error` that holds only the number).
        unsafe { command.pre_exec(enter) };
        command
    }
}

/// Runs a batch of `ip` commands, one a line, with `options` before them.
///
/// # Errors
/// One of them failed; the message holds what `ip` said.
pub fn ip_batch(options: &[&str], commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip; install iproute2")?;
    let mut input = child.stdin.take().context("ip has no standard input")?;
    // A command that fails ends `ip` early and closes the pipe: the exit status says so below.
    let written = input.write_all(commands.as_bytes());
    drop(input);
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() || written.is_err() {
        bail!("ip {options:?} failed: {}\n{commands}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The names of all namespaces of `ip netns`.
#[must_use]
pub fn namespace_names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMESPACE_DIR) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
