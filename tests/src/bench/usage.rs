//! What a process costs, from `/proc`.
use std::fs::{read_dir, read_to_string};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// `USER_HZ`, which is this on all architectures that Podway runs on (`asm-generic/param.h`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process.
pub struct Usage(PathBuf);

impl Usage {
    /// A process by its id.
    #[must_use]
    pub fn of(process_id: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{process_id}")))
    }

    /// CPU time so far, ms in steps of ten, with that of threads that have ended.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu_ms(&self) -> Result<f64> {
        let text = read_to_string(self.0.join("stat")).context("cannot read the process's times")?;
        // After the name in brackets, which may hold anything: `utime` and `stime` (proc_pid_stat(5)).
        let (_, fields) = text.rsplit_once(')').context("the process's times have no name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? * 1e3 / TICKS_PER_SECOND)
    }

    /// CPU time so far of the threads that it has, ms, to the ns: for short times, of a process whose threads stay
    /// (`Documentation/scheduler/sched-stats.rst`). A thread that ends meanwhile is one that it has not.
    ///
    /// # Errors
    /// The process has ended, or the kernel does not account for it (`CONFIG_SCHED_INFO`).
    pub fn threads_cpu_ms(&self) -> Result<f64> {
        let mut sum_ns = 0.0;
        for thread in read_dir(self.0.join("task")).context("cannot list the process's threads")? {
            let thread = thread?.path();
            let path = thread.join("schedstat");
            let text = match read_to_string(&path) {
                Err(_) if !thread.exists() => continue,
                read => read.with_context(|| format!("cannot read {}", path.display()))?,
            };
            let first = text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
            sum_ns += first.with_context(|| format!("{} holds no time", path.display()))?;
        }
        Ok(sum_ns / 1e6)
    }

    /// Resident memory now, MiB, with the pages of maps that it has touched.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resident_mib(&self) -> Result<f64> {
        self.status_mib("VmRSS:")
    }

    /// The most that it ever was.
    ///
    /// # Errors
    /// The process has ended.
    pub fn peak_mib(&self) -> Result<f64> {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, field: &str) -> Result<f64> {
        let text = read_to_string(self.0.join("status")).context("cannot read the process's status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("the process's status has no {field}"))? / 1024.0)
    }

    /// Memory of the BPF maps that it has open, MiB, as the kernel accounts for them.
    ///
    /// # Errors
    /// The process has ended.
    pub fn maps_mib(&self) -> Result<f64> {
        let mut maps = std::collections::BTreeMap::new();
        for file in read_dir(self.0.join("fdinfo")).context("cannot list the open files")? {
            let Ok(text) = read_to_string(file?.path()) else { continue };
            let number = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
                maps.insert(id, bytes);
            }
        }
        Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set for a process that runs [`time_of_threads_has_that_of_each`] and nothing else.
    const ALONE: &str = "PODWAY_TEST_ALONE";

    /// In a process of its own: threads of other tests that end would take their time out of the sum.
    #[test]
    fn time_of_threads_has_that_of_each() {
        if std::env::var_os(ALONE).is_none() {
            let name = std::thread::current().name().expect("tests are threads with names").to_owned();
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", &name]).env(ALONE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let usage = Usage::of(std::process::id());
        let before_ms = usage.threads_cpu_ms().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while super::super::cpu::thread_ns() < 20_000_000 {}
            tell.send(()).unwrap();
            // It stays: what has ended is not counted.
            ended.recv().unwrap_err();
        });
        told.recv().unwrap();
        let spent_ms = usage.threads_cpu_ms().unwrap() - before_ms;
        drop(end);
        thread.join().unwrap();
        assert!(spent_ms >= 19.0, "{spent_ms} ms");
    }

    #[test]
    fn threads_that_end_meanwhile_are_passed_over() {
        let usage = Usage::of(std::process::id());
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let starter = std::thread::spawn(move || {
            while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                std::thread::spawn(|| ()).join().unwrap();
            }
        });
        let failed = (0..2_000).find_map(|_| usage.threads_cpu_ms().err());
        drop(end);
        starter.join().unwrap();
        assert!(failed.is_none(), "{failed:?}");
    }
}
