//! The programs of the loaded object, and their links. A link is pinned and then let go, so it lives on
//! when the agent ends; a link that is pinned already gets the new program in one step.
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp,
    XdpMode,
};

use super::hook::{Hook, SOCKET_PROGRAMS};

/// The programs, loaded.
#[derive(Debug)]
pub(super) struct Programs(Ebpf);

impl Programs {
    /// Loads all programs into the kernel.
    ///
    /// # Errors
    /// The object lacks one, or the kernel refuses one; the verifier's log is in the cause.
    pub(super) fn load(mut ebpf: Ebpf) -> Result<Self> {
        for name in Hook::ALL.iter().map(|hook| hook.program()).chain(SOCKET_PROGRAMS) {
            let program = ebpf.program_mut(name).with_context(|| {
                format!("the eBPF object has no program {name}; build it again with `cargo xtask build-ebpf`")
            })?;
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                _ => bail!("program {name} of the eBPF object is of an unexpected type"),
            };
            loaded.with_context(|| format!("cannot load program {name}: the kernel refuses it"))?;
        }
        Ok(Self(ebpf))
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self.0.program_mut(Hook::Xdp.program()).context("no XDP program")?.try_into()?)
    }

    fn classifier(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        Ok(self.0.program_mut(hook.program()).context("no tc program")?.try_into()?)
    }

    /// Puts the XDP program into a pinned link.
    pub(super) fn replace_xdp(&mut self, pin: &Path) -> Result<()> {
        let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program = self.xdp()?;
        let id = program.attach_to_link(link)?;
        drop(program.take_link(id)?);
        Ok(())
    }

    /// Attaches the XDP program and pins the link. The error says in a few words why it cannot be.
    pub(super) fn attach_xdp(&mut self, interface: u32, mode: XdpMode, pin: &Path) -> Result<()> {
        let program = self.xdp()?;
        let id = program.attach_to_if_index(interface, mode).map_err(|error| anyhow!(cause(&error)))?;
        let link = program.take_link(id)?;
        let link = FdLink::try_from(link).context("the kernel makes no XDP links (before Linux 5.9)")?;
        keep(link, pin)
    }

    /// Puts a tc program into a pinned link.
    pub(super) fn replace_tc(&mut self, hook: Hook, pin: &Path) -> Result<()> {
        let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program = self.classifier(hook)?;
        let id = program.attach_to_link(link)?;
        drop(program.take_link(id)?);
        Ok(())
    }

    /// Attaches a tc program, before the programs of others, and pins the link.
    pub(super) fn attach_tc(&mut self, hook: Hook, interface: &str, pin: &Path) -> Result<()> {
        let side = match hook {
            Hook::UplinkIn | Hook::PodIn => TcAttachType::Ingress,
            Hook::Egress => TcAttachType::Egress,
            Hook::Xdp => bail!("the XDP program is not for tc"),
        };
        let program = self.classifier(hook)?;
        let attached =
            program.attach_with_options(interface, side, TcAttachOptions::TcxOrder(LinkOrder::first()));
        let id = attached.map_err(|error| match io_error(&error).and_then(std::io::Error::raw_os_error) {
            Some(libc::EINVAL) => anyhow!("the kernel has no tcx links; use Linux 6.6 or newer"),
            _ => anyhow!(cause(&error)),
        })?;
        let link = FdLink::try_from(program.take_link(id)?).context("tcx gave no link")?;
        keep(link, pin)
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
        if !pin.exists() {
            return keep(link, pin);
        }
        // No dot in the name: a BPF file system refuses names with one (EPERM).
        let aside = pin.with_file_name(format!("new-{}", pin.file_name().unwrap_or_default().display()));
        // Left by an agent that was killed between the two steps.
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        keep(link, &aside)?;
        std::fs::rename(&aside, pin).with_context(|| format!("cannot replace the pin {}", pin.display()))
    }
}

/// Pins a link and lets it go.
fn keep(link: FdLink, pin: &Path) -> Result<()> {
    link.pin(pin).with_context(|| format!("cannot pin the link {}", pin.display()))?;
    Ok(())
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
