//! Ctrl-C, and the signals that ask for an end.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

/// Whether an end was asked for. Clones share it.
#[derive(Clone)]
pub(crate) struct Interrupt {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    is_raised: bool,
    /// The cgroup of all processes of the stage.
    cgroup: Option<PathBuf>,
}

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// The handler cannot be set.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Self { shared: Arc::default() };
        let raised = interrupt.clone();
        ctrlc::set_handler(move || raised.raise()).context("cannot take signals")?;
        Ok(interrupt)
    }

    /// Kills the processes of `cgroup` when an end is asked for, so that no step waits for them.
    pub(crate) fn kill_on_raise(&self, cgroup: &Path) {
        self.state().cgroup = Some(cgroup.to_path_buf());
    }

    /// Whether an end was asked for.
    pub(crate) fn is_raised(&self) -> bool {
        self.state().is_raised
    }

    /// # Errors
    /// An end was asked for.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_raised() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Returns when an end is asked for.
    pub(crate) fn wait(&self) {
        let raised = self.shared.1.wait_while(self.state(), |state| !state.is_raised);
        drop(raised.unwrap_or_else(PoisonError::into_inner));
    }

    fn raise(&self) {
        let mut state = self.state();
        state.is_raised = true;
        if let Some(cgroup) = &state.cgroup {
            // It is gone if the stage is being taken down already.
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        self.shared.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
