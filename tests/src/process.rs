//! A child process that is read line by line and never outlives its handle.
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// How much of a process's standard error is kept, from its end.
const LOG_BYTES_MAX: usize = 256 * 1024;

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts `command`; `what` names it in messages.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, what: &str) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {what} ({:?})", command.get_program()))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output?).lines().map_while(Result::ok) {
                // Nobody reads any more: the handle is gone.
                sender.send(line).ok()?;
            }
            Some(())
        });
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || collect(errors?, &written));
        Ok(Self { what: what.to_owned(), input: child.stdin.take(), child, lines, log })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// None came before the deadline, or the process ended; the message holds its standard error.
    pub fn line(&self, deadline: Duration) -> Result<String> {
        self.lines.recv_timeout(deadline).map_err(|error| {
            let event = match error {
                RecvTimeoutError::Timeout => format!("said nothing for {} ms", deadline.as_millis()),
                RecvTimeoutError::Disconnected => "ended".to_owned(),
            };
            anyhow!("{} {event}; its log:\n{}", self.what, self.log())
        })
    }

    /// All lines that it has written and nobody has read.
    #[must_use]
    pub fn pending_lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// What it has written to standard error, at most the last 256 KiB.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no process id", self.what))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let what = format!("the end of {}", self.what);
        wait_until(deadline, &what, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })
        .with_context(|| format!("its log:\n{}", self.log()))?;
        status.context("a process that ended has a status")
    }

    /// Waits for its end and returns the lines that nobody has read.
    ///
    /// # Errors
    /// It still runs at the deadline, or failed.
    pub fn finish(mut self, deadline: Duration) -> Result<Vec<String>> {
        self.close_input();
        let status = self.wait(deadline)?;
        if !status.success() {
            bail!("{} failed ({status}); its log:\n{}", self.what, self.log());
        }
        // The channel ends when the pipe does, which is soon: its writer is gone.
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline) {
            lines.push(line);
        }
        Ok(lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads `errors` to its end, keeping the last [`LOG_BYTES_MAX`] bytes in `log`.
fn collect(mut errors: impl Read, log: &Mutex<Vec<u8>>) -> Option<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = errors.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(&buffer[..count]);
        let surplus = log.len().saturating_sub(LOG_BYTES_MAX);
        log.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, "the script").unwrap()
    }

    #[test]
    fn lines_come_one_by_one_and_the_rest_at_the_end() {
        let process = shell("echo first; read end; echo second; echo third");
        assert_eq!(process.line(DEADLINE).unwrap(), "first");
        assert_eq!(process.finish(DEADLINE).unwrap(), ["second", "third"]);
    }

    #[test]
    fn failure_shows_the_log() {
        let error = shell("echo because >&2; exit 3").finish(DEADLINE).unwrap_err().to_string();
        assert!(error.starts_with("the script failed (exit status: 3); its log:\n"), "{error}");
        assert!(error.contains("because"), "{error}");
    }

    #[test]
    fn dropped_process_is_dead() {
        let process = shell("read end");
        let proc = std::path::PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }
}
