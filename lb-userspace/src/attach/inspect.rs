//! What is attached, from the pins alone: no agent is asked.
use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, LinkError, LinkType, PinnedLink};
use serde::{Deserialize, Serialize};

use super::hook::{Hook, Place, parse_pin};
use super::netlink::{AttachedXdp, Link, links};
use crate::maps::Pins;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the network stack.
    XdpGeneric,
    /// XDP on an interface of which nothing is known here: it is gone, or in another network namespace.
    Xdp,
    /// What comes in by an interface.
    TcxIngress,
    /// What leaves by an interface.
    TcxEgress,
    /// What comes in by an interface, by a filter (before Linux 6.6).
    ClsactIngress,
    /// What leaves by an interface, by a filter.
    ClsactEgress,
    /// Socket calls of the processes in a cgroup.
    Cgroup,
}

impl Mode {
    /// The name for output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Xdp => "xdp",
            Self::TcxIngress => "tcx-ingress",
            Self::TcxEgress => "tcx-egress",
            Self::ClsactIngress => "clsact-ingress",
            Self::ClsactEgress => "clsact-egress",
            Self::Cgroup => "cgroup",
        }
    }
}

/// One program at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedProgram {
    /// Its name in the eBPF object.
    pub program: String,
    /// Where it is attached.
    pub place: Place,
    /// Name of the interface; none for a cgroup, and where this network namespace has no such interface.
    pub interface: Option<String>,
    /// How it is attached.
    pub mode: Mode,
    /// The kernel's id of the link; a filter has none. A link on an interface keeps it when an agent takes over.
    pub link_id: Option<u32>,
    /// The kernel's id of the program.
    pub program_id: u32,
}

/// The pinned attachments, by place and program; none where nothing was ever pinned.
///
/// # Errors
/// The pins or the interfaces cannot be read.
pub fn inspect(pins: &Pins) -> Result<Vec<AttachedProgram>> {
    let dir = pins.links();
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let cannot = || format!("cannot read the pinned links in {}", dir.display());
    let interfaces = links().context("cannot list the network interfaces")?;
    let mut attached = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        let Some((program, place)) = name.to_str().and_then(parse_pin) else { continue };
        let link = match PinnedLink::from_pin(entry.path()) {
            Ok(link) => FdLink::from(link),
            // An agent removed it meanwhile.
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            Err(error) => return Err(error).with_context(cannot),
        };
        let info = link.info().with_context(cannot)?;
        let is_of_tc = Hook::ALL.iter().any(|hook| hook.program() == program && *hook != Hook::Xdp);
        // The pin may be a filter's program, of which the kernel answers the same question otherwise.
        let is_filter = is_of_tc && !matches!(info.link_type(), Ok(LinkType::Tcx));
        let (link_id, program_id) = match is_filter {
            false => (Some(info.id()), info.program_id()),
            true => (None, SchedClassifier::from_pin(entry.path())?.info()?.id()),
        };
        let interface = interfaces.iter().find(|interface| place == Place::Interface(interface.index));
        attached.push(AttachedProgram {
            program: program.to_owned(),
            mode: mode(program, &place, interface, link_id),
            interface: interface.map(|interface| interface.name.clone()),
            place,
            link_id,
            program_id,
        });
    }
    attached.sort_by(|left, right| (&left.place, &left.program).cmp(&(&right.place, &right.program)));
    Ok(attached)
}

fn mode(program: &str, place: &Place, interface: Option<&Link>, link_id: Option<u32>) -> Mode {
    if matches!(place, Place::Cgroup(_)) {
        return Mode::Cgroup;
    }
    if program == Hook::Egress.program() {
        return if link_id.is_some() { Mode::TcxEgress } else { Mode::ClsactEgress };
    }
    if program != Hook::Xdp.program() {
        return if link_id.is_some() { Mode::TcxIngress } else { Mode::ClsactIngress };
    }
    match interface.and_then(|interface| interface.xdp) {
        Some(AttachedXdp::Native) => Mode::XdpNative,
        Some(AttachedXdp::Generic) => Mode::XdpGeneric,
        Some(AttachedXdp::Other) | None => Mode::Xdp,
    }
}
