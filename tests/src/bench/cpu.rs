//! CPU time on one processor: of the thread that makes packets, and of the kernel's thread that handles
//! them when there are too many for the former.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Processors of this machine.
///
/// # Errors
/// `/proc` does not say.
pub fn count() -> Result<usize> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    Ok(text.lines().filter(|line| line.starts_with("processor")).count())
}

/// The processor that is measured on: the last one, as the first has most of a machine's interrupts.
///
/// # Errors
/// `/proc` does not say how many there are.
pub fn measured() -> Result<usize> {
    Ok(count()?.saturating_sub(1))
}

/// Keeps the calling thread on the processor that is measured on.
///
/// # Errors
/// The kernel refuses it.
pub fn pin() -> Result<()> {
    pin_to(measured()?)
}

/// Keeps the calling thread, and all that it starts from now on, on one processor.
///
/// # Errors
/// The kernel refuses it.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("cannot pin a thread to processor {cpu}"))
}

/// CPU time of the calling thread, ns.
#[must_use]
pub fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Threads of the kernel on the processor that is measured on.
pub struct KernelThreads {
    schedstats: Vec<PathBuf>,
}

impl KernelThreads {
    /// The one for soft interrupts, and of others all that have the name `and`: there may be one for each
    /// network namespace.
    ///
    /// # Errors
    /// `/proc` shows none for soft interrupts.
    pub fn find(and: Option<&str>) -> Result<Self> {
        let soft_interrupts = format!("ksoftirqd/{}", measured()?);
        let mut schedstats = Vec::new();
        let mut is_complete = false;
        for folder in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
            let Ok(name) = fs::read_to_string(folder.path().join("comm")) else { continue };
            is_complete |= name.trim() == soft_interrupts;
            if name.trim() == soft_interrupts || Some(name.trim()) == and {
                schedstats.push(folder.path().join("schedstat"));
            }
        }
        ensure!(is_complete, "there is no thread {soft_interrupts}");
        Ok(Self { schedstats })
    }

    /// Their CPU time, ns (`Documentation/scheduler/sched-stats.rst`).
    ///
    /// # Errors
    /// The kernel does not account for it (`CONFIG_SCHED_INFO`).
    pub fn ns(&self) -> Result<u64> {
        self.schedstats.iter().map(|path| ns(path)).sum()
    }
}

fn ns(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    let first = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    first.with_context(|| format!("{} holds no time", path.display()))
}
