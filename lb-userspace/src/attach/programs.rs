//! The programs of the loaded object, and their links. A link is pinned and then let go, so it lives on
//! when the agent ends; a link that is pinned already gets the new program in one step.
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, LinkOrder, Program, ProgramError, SchedClassifier, Xdp, XdpMode,
};

use super::clsact;
use super::hook::{self, Hook, SOCKET_PROGRAMS};
use super::reentry::{self, Reentry};
use crate::maps::remove_pin;

/// Lines of the verifier's log in a message: the refused instruction, the state before it, and the
/// verifier's counts. The whole log may have a hundred thousand.
const VERIFIER_LOG_LINES_MAX: usize = 24;

/// Times that a program is given to the verifier where signals interrupt it; libbpf tries as often.
const LOAD_TRIES_MAX: u32 = 5;

/// The programs, loaded.
#[derive(Debug)]
pub struct Programs(Ebpf);

impl Programs {
    /// Loads all programs into the kernel, as many at a time as there are CPUs: the verifier takes its time.
    /// More at a time would take the CPU from those who read the facts meanwhile.
    ///
    /// # Errors
    /// The object lacks one, or the kernel refuses one: the message has the end of the verifier's log.
    pub fn load(mut ebpf: Ebpf) -> Result<Self> {
        let hooks = Hook::ALL.iter().map(|hook| hook.program());
        let names: Vec<&str> = hooks.chain(SOCKET_PROGRAMS).chain([reentry::PROGRAM]).collect();
        for name in &names {
            ebpf.program(name).with_context(|| {
                format!("the eBPF object has no program {name}; build it again with `cargo xtask build-ebpf`")
            })?;
        }
        let programs = Mutex::new(ebpf.programs_mut().filter(|(name, _)| names.contains(name)));
        let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let load_some = || std::iter::from_fn(next).try_for_each(|(name, program)| load(name, program));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let loads: Vec<_> = (0..threads).map(|_| scope.spawn(load_some)).collect();
            loads.into_iter().try_for_each(|load| load.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        drop(programs);
        Ok(Self(ebpf))
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self.0.program_mut(Hook::Xdp.program()).context("no XDP program")?.try_into()?)
    }

    fn classifier(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        Ok(self.0.program_mut(hook.program()).context("no tc program")?.try_into()?)
    }

    /// A handle of its own on the program that brings held frames in again, by way of a pin that is gone
    /// when this returns: by a program's number only CAP_SYS_ADMIN gets one.
    pub(super) fn reentry(&mut self, pin: &Path) -> Result<Reentry> {
        let program: &mut SchedClassifier =
            self.0.program_mut(reentry::PROGRAM).context("no such program")?.try_into()?;
        remove_pin(pin)?;
        program.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        let own = SchedClassifier::from_pin(pin);
        remove_pin(pin)?;
        Ok(Reentry(own.with_context(|| format!("cannot open the pin {}", pin.display()))?))
    }

    /// Puts the XDP program into a pinned link.
    pub(super) fn replace_xdp(&mut self, pin: &Path) -> Result<()> {
        let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program = self.xdp()?;
        let id = program.attach_to_link(link)?;
        drop(program.take_link(id)?);
        Ok(())
    }

    /// Attaches the XDP program for as long as the link, which is not pinned yet. The error says in a few
    /// words why it cannot be.
    pub(super) fn attach_xdp(&mut self, interface: u32, mode: XdpMode) -> Result<FdLink> {
        let program = self.xdp()?;
        let id = program.attach_to_if_index(interface, mode).map_err(|error| anyhow!(cause(&error)))?;
        let link = program.take_link(id)?;
        FdLink::try_from(link).context("the kernel makes no XDP links (before Linux 5.9)")
    }

    /// Puts a tc program into a pinned link.
    pub(super) fn replace_tc(&mut self, hook: Hook, pin: &Path) -> Result<()> {
        let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program = self.classifier(hook)?;
        let id = program.attach_to_link(link)?;
        drop(program.take_link(id)?);
        Ok(())
    }

    /// Attaches a tc program, before the programs of others, and pins the link; where the kernel has no tcx links, a
    /// filter of clsact.
    pub(super) fn attach_tc(&mut self, hook: Hook, interface: &str, pin: &Path) -> Result<()> {
        let side = hook.side().context("the XDP program is not for tc")?;
        let program = self.classifier(hook)?;
        let attached =
            program.attach_with_options(interface, side, TcAttachOptions::TcxOrder(LinkOrder::first()));
        match attached {
            Ok(id) => keep(FdLink::try_from(program.take_link(id)?).context("tcx gave no link")?, pin),
            Err(error) if is_unknown(&error) => clsact::attach(program, interface, side, pin),
            Err(error) => Err(anyhow!(cause(&error))),
        }
    }

    /// Attaches a socket program to a cgroup. Where it has a pinned link already, the new link takes the
    /// pin's name over and the former one goes with it: for a moment both are there, which does no harm,
    /// since the second finds a pod's address and no VIP.
    pub(super) fn attach_socket(&mut self, name: &str, cgroup: impl AsFd, pin: &Path) -> Result<()> {
        let program: &mut CgroupSockAddr = self.0.program_mut(name).context("no such program")?.try_into()?;
        // Links always let other programs be beside them, and the kernel takes no flags for them.
        let attached = program.attach(cgroup, CgroupAttachMode::Single);
        let id = attached.map_err(|error| anyhow!(cause(&error)))?;
        let link = FdLink::try_from(program.take_link(id)?).context("the cgroup gave no link")?;
        if pin.is_dir() {
            remove_pin(pin)?;
        }
        if !pin.exists() {
            return keep(link, pin);
        }
        let aside = hook::aside(pin);
        remove_pin(&aside)?;
        keep(link, &aside)?;
        std::fs::rename(&aside, pin).with_context(|| format!("cannot replace the pin {}", pin.display()))
    }
}

/// Whether the kernel does not know what it was asked for.
fn is_unknown(error: &ProgramError) -> bool {
    io_error(error).and_then(std::io::Error::raw_os_error) == Some(libc::EINVAL)
}

/// Pins a link and lets it go.
pub(super) fn keep(link: FdLink, pin: &Path) -> Result<()> {
    link.pin(pin).with_context(|| format!("cannot pin the link {}", pin.display()))?;
    Ok(())
}

fn load(name: &str, program: &mut Program) -> Result<()> {
    for _ in 1..LOAD_TRIES_MAX {
        match load_once(name, program)? {
            Err(error) if is_interrupted(&error) => {}
            loaded => return loaded.map_err(|error| refusal(name, error)),
        }
    }
    load_once(name, program)?.map_err(|error| refusal(name, error))
}

fn load_once(name: &str, program: &mut Program) -> Result<Result<(), ProgramError>> {
    Ok(match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => bail!("program {name} of the eBPF object is of an unexpected type"),
    })
}

/// Whether a signal came while the verifier was at work, which ends that (`bpf_check`: EAGAIN).
fn is_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}

/// The message for a program that does not load.
fn refusal(program: &str, error: ProgramError) -> anyhow::Error {
    let (error, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (io_error, verifier_log.to_string()),
        other => return anyhow::Error::new(other).context(format!("cannot load program {program}")),
    };
    anyhow!("cannot load program {program}: {}", kernel_refusal(&error, &log))
}

fn kernel_refusal(error: &std::io::Error, log: &str) -> String {
    // The verifier refuses with EACCES too, but never without a word.
    if log.trim().is_empty() && error.kind() == std::io::ErrorKind::PermissionDenied {
        return format!("{error}; the process needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    let lines: Vec<&str> = log.trim_end().lines().collect();
    let end = lines[lines.len().saturating_sub(VERIFIER_LOG_LINES_MAX)..].join("\n");
    format!("{error}; the verifier's log ends with:\n{end}")
}

/// The kernel's cause in one line.
pub(super) fn cause(error: &ProgramError) -> String {
    match io_error(error) {
        Some(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "the driver does not support it".into(),
            Some(libc::EBUSY | libc::EEXIST) => "another program is attached there".into(),
            Some(libc::ENODEV) => "the interface is gone".into(),
            Some(libc::EPERM) => "not permitted; the process needs CAP_NET_ADMIN and CAP_BPF".into(),
            _ => error.to_string(),
        },
        None => error.to_string(),
    }
}

fn io_error(error: &ProgramError) -> Option<&std::io::Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn missing_capability_is_named() {
        assert_eq!(
            kernel_refusal(&Error::from_raw_os_error(libc::EPERM), ""),
            "Operation not permitted (os error 1); the process needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        );
    }

    #[test]
    fn verifier_log_is_cut_to_its_end() {
        let log: String = (1..=100).map(|line| format!("{line}\n")).collect();
        let message = kernel_refusal(&Error::from_raw_os_error(libc::EACCES), &log);
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines.len(), 25);
        assert_eq!(lines[0], "Permission denied (os error 13); the verifier's log ends with:");
        assert_eq!((lines[1], lines[24]), ("77", "100"));
    }
}
