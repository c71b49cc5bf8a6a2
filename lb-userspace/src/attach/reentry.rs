//! The program that is attached nowhere: it lets a held frame enter or leave again.
use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lb_common::fragment::HeldWay;

use super::programs::cause;

/// Its name in the object.
pub(super) const PROGRAM: &str = "tc_again";

/// Words of `struct __sk_buff`, and where those are that are given here.
const CONTEXT_WORDS: usize = 48;
const RECEIVED_BY_WORD: usize = 9;
const INTERFACE_WORD: usize = 10;
const FLAGS_WORD: usize = 12;
/// `BPF_F_INGRESS`.
const INGRESS: u32 = 1;

/// A handle on the program, for a thread of its own.
#[derive(Debug)]
pub struct Reentry(pub(super) SchedClassifier);

impl Reentry {
    /// Sends a frame on its way once more, in front of the tc programs of an interface of this network
    /// namespace.
    ///
    /// # Errors
    /// The interface is gone or down, or the kernel has no memory.
    pub fn send(&self, interface: u32, way: HeldWay, frame: &[u8]) -> Result<()> {
        let mut context = [0_u32; CONTEXT_WORDS];
        context[INTERFACE_WORD] = interface;
        match way {
            HeldWay::Entering => context[FLAGS_WORD] = INGRESS,
            HeldWay::LeavingNode => {}
            // By which one it came is not known any more, only that it did.
            HeldWay::LeavingForwarded => context[RECEIVED_BY_WORD] = interface,
        }
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
