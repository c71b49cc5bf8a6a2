//! CPU time on one processor: of the thread that makes packets, and of the kernel's thread that handles
//! them when there are too many for the former.
use std::fs;

use anyhow::{Context, Result};
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
fn measured() -> Result<usize> {
    Ok(count()?.saturating_sub(1))
}

/// Keeps the calling thread on the processor that is measured on.
///
/// # Errors
/// The kernel refuses it.
pub fn pin() -> Result<()> {
    let cpu = measured()?;
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

/// The kernel's thread for soft interrupts on the processor that is measured on.
pub struct SoftInterrupts {
    schedstat: String,
}

impl SoftInterrupts {
    /// Finds it.
    ///
    /// # Errors
    /// `/proc` shows none.
    pub fn find() -> Result<Self> {
        let wanted = format!("ksoftirqd/{}", measured()?);
        let is_it = |folder: &fs::DirEntry| {
            fs::read_to_string(folder.path().join("comm")).is_ok_and(|name| name.trim() == wanted)
        };
        let found = fs::read_dir("/proc").context("cannot read /proc")?.flatten().find(is_it);
        let folder = found.with_context(|| format!("there is no thread {wanted}"))?.path();
        Ok(Self { schedstat: folder.join("schedstat").to_string_lossy().into_owned() })
    }

    /// Its CPU time, ns (`Documentation/scheduler/sched-stats.rst`).
    ///
    /// # Errors
    /// The kernel does not account for it (`CONFIG_SCHED_INFO`).
    pub fn ns(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.schedstat).with_context(|| format!("no {}", self.schedstat))?;
        let first = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        first.with_context(|| format!("{} holds no time", self.schedstat))
    }
}
