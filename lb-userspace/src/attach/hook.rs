//! Where programs are attached, and the names of the pins of their links.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use serde::{Deserialize, Serialize};

use crate::maps::Pins;

/// A place for one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// XDP on an uplink.
    Xdp,
    /// tcx ingress of an uplink.
    UplinkIn,
    /// tcx ingress of a pod's interface.
    PodIn,
    /// tcx egress of either.
    Egress,
}

impl Hook {
    /// All of them, in the order in which they are attached: the way back first, so that no flow begins
    /// whose replies are not undone.
    pub const ALL: [Self; 4] = [Self::Egress, Self::UplinkIn, Self::PodIn, Self::Xdp];

    /// The program for it.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "xdp_uplink",
            Self::UplinkIn => "tc_uplink_in",
            Self::PodIn => "tc_pod_in",
            Self::Egress => "tc_egress",
        }
    }

    /// The side of the interface, at tc.
    #[must_use]
    pub(super) const fn side(self) -> Option<TcAttachType> {
        match self {
            Self::UplinkIn | Self::PodIn => Some(TcAttachType::Ingress),
            Self::Egress => Some(TcAttachType::Egress),
            Self::Xdp => None,
        }
    }

    /// The pin of its link on an interface.
    #[must_use]
    pub fn pin(self, pins: &Pins, interface: u32) -> PathBuf {
        pins.links().join(format!("{}-{interface}", self.program()))
    }
}

/// The programs on a cgroup's socket calls.
pub const SOCKET_PROGRAMS: [&str; 8] =
    ["recvmsg4", "recvmsg6", "getpeername4", "getpeername6", "sendmsg4", "sendmsg6", "connect4", "connect6"];

/// The pin of a program's link on a cgroup, which is known by its inode.
#[must_use]
pub(super) fn socket_pin(pins: &Pins, program: &str, cgroup_inode: u64) -> PathBuf {
    pins.links().join(format!("{program}-cgroup-{cgroup_inode}"))
}

/// The name that a new link has beside a pin until it takes the pin's own. A BPF file system takes no
/// name with a dot in it (`bpf_lookup`: EPERM, even for looking).
#[must_use]
pub(super) fn aside(pin: &Path) -> PathBuf {
    let mut name = OsString::from("new-");
    name.push(pin.file_name().unwrap_or_default());
    pin.with_file_name(name)
}

/// What a link is on, from the name of its pin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// An interface, by index.
    Interface(u32),
    /// A cgroup, by inode.
    Cgroup(u64),
}

/// Program and place of a link, from the name of its pin.
#[must_use]
pub fn parse_pin(name: &str) -> Option<(&str, Place)> {
    if let Some((program, inode)) = name.split_once("-cgroup-") {
        return Some((program, Place::Cgroup(inode.parse().ok()?)));
    }
    let (program, index) = name.rsplit_once('-')?;
    Some((program, Place::Interface(index.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_come_back_as_program_and_place() {
        let pins = Pins::new("/sys/fs/bpf/x".as_ref());
        let path = Hook::Xdp.pin(&pins, 7);
        assert_eq!(path.to_str(), Some("/sys/fs/bpf/x/v3/links/xdp_uplink-7"));
        assert_eq!(parse_pin("xdp_uplink-7"), Some(("xdp_uplink", Place::Interface(7))));
        let path = socket_pin(&pins, "connect4", 12);
        assert_eq!(path.to_str(), Some("/sys/fs/bpf/x/v3/links/connect4-cgroup-12"));
        assert_eq!(parse_pin("connect4-cgroup-12"), Some(("connect4", Place::Cgroup(12))));
        assert_eq!(aside(&path).to_str(), Some("/sys/fs/bpf/x/v3/links/new-connect4-cgroup-12"));
        assert_eq!(parse_pin("something"), None);
    }
}
