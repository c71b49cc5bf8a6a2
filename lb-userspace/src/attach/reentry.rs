//! The program that is attached nowhere: it brings a held frame in again.
use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::programs::cause;

/// Its name in the object.
pub(super) const PROGRAM: &str = "tc_again";

/// Words of `struct __sk_buff`, and the one for the interface, of those that a test run takes.
const CONTEXT_WORDS: usize = 48;
const INTERFACE_WORD: usize = 10;

/// A handle on the program, for a thread of its own.
#[derive(Debug)]
pub struct Reentry(pub(super) SchedClassifier);

impl Reentry {
    /// Brings a frame in by an interface of this network namespace, once, in front of its tc programs.
    ///
    /// # Errors
    /// The interface is gone or down, or the kernel has no memory.
    pub fn bring(&self, interface: u32, frame: &[u8]) -> Result<()> {
        let mut context = [0_u32; CONTEXT_WORDS];
        context[INTERFACE_WORD] = interface;
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let run = self.0.test_run(options).map_err(|error| anyhow::anyhow!(cause(&error)))?;
        let status = run.return_value.cast_signed();
        ensure!(status == 0, "the kernel does not take it (status {status})");
        Ok(())
    }
}
