//! Which programs stand at the hooks of an interface and of a cgroup, whosever they are.
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};

use super::InterfaceFacts;
use super::netlink::{Attributes, dump, text, u32_at};
use crate::maps::programs_on_cgroup;

/// A place where programs of several makers meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// XDP, which one program alone can have.
    Xdp,
    /// What comes in, before the filters of clsact.
    TcxIngress,
    /// What leaves, likewise.
    TcxEgress,
    /// Filters of clsact on what comes in.
    ClsactIngress,
    /// Filters of clsact on what leaves.
    ClsactEgress,
    /// `connect()` by IPv4 in a cgroup.
    Connect4,
    /// `connect()` by IPv6 in a cgroup.
    Connect6,
}

impl HookPoint {
    /// The name for output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcxIngress => "tcx-ingress",
            Self::TcxEgress => "tcx-egress",
            Self::ClsactIngress => "clsact-ingress",
            Self::ClsactEgress => "clsact-egress",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookProgram {
    /// Name of the interface; `None` at a cgroup.
    pub interface: Option<String>,
    /// Where.
    pub point: HookPoint,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Its name; empty where the kernel does not tell it.
    pub name: String,
}

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// Bytes of `struct tcmsg`.
const TCMSG_BYTES: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `…_EGRESS`.
const CLSACT_PARENTS: [(HookPoint, u32); 2] =
    [(HookPoint::ClsactIngress, 0xffff_fff2), (HookPoint::ClsactEgress, 0xffff_fff3)];

/// The programs at the hooks of these interfaces and of a cgroup, at each hook in the order in which they run.
///
/// # Errors
/// The cgroup cannot be read, or the process may not ask.
pub fn hook_programs(interfaces: &[&InterfaceFacts], cgroup: Option<&Path>) -> Result<Vec<HookProgram>> {
    let mut found = Vec::new();
    for interface in interfaces {
        let at = |point, program_id, name: &str| HookProgram {
            interface: Some(interface.name.clone()),
            point,
            program_id,
            name: name.to_owned(),
        };
        found.extend(interface.xdp_programs.iter().map(|id| at(HookPoint::Xdp, *id, "")));
        for (point, side) in
            [(HookPoint::TcxIngress, TcAttachType::Ingress), (HookPoint::TcxEgress, TcAttachType::Egress)]
        {
            // Before Linux 6.6 there is no such hook.
            let programs = SchedClassifier::query_tcx(&interface.name, side).map(|(_, programs)| programs);
            let programs = programs.unwrap_or_default();
            found.extend(programs.iter().map(|info| at(point, info.id(), info.name_as_str().unwrap_or(""))));
        }
        for (point, parent) in CLSACT_PARENTS {
            found.extend(filters(interface.index, parent).into_iter().map(|(id, name)| at(point, id, &name)));
        }
    }
    if let Some(path) = cgroup {
        found.extend(at_cgroup(path)?);
    }
    name_all(&mut found);
    Ok(found)
}

/// The BPF filters on one side of an interface, by priority; none without the qdisc.
fn filters(interface: u32, parent: u32) -> Vec<(u32, String)> {
    let mut request = [0; TCMSG_BYTES];
    request[4..8].copy_from_slice(&interface.to_ne_bytes());
    request[12..16].copy_from_slice(&parent.to_ne_bytes());
    let messages = dump(None, RTM_GETTFILTER, &request).unwrap_or_default();
    let filters = messages.iter().filter(|message| message.kind == RTM_NEWTFILTER);
    filters.filter_map(|message| filter(message.payload.get(TCMSG_BYTES..)?)).collect()
}

/// Program and name of a filter of kind `bpf`.
fn filter(attributes: &[u8]) -> Option<(u32, String)> {
    let find = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let options = (text(find(TCA_KIND)?) == "bpf").then(|| find(TCA_OPTIONS))??;
    let (mut id, mut name) = (None, String::new());
    for (kind, value) in Attributes(options) {
        match kind {
            TCA_BPF_ID => id = u32_at(value, 0),
            TCA_BPF_NAME => name = text(value),
            _ => {}
        }
    }
    Some((id?, name))
}

fn at_cgroup(path: &Path) -> Result<Vec<HookProgram>> {
    /// `BPF_CGROUP_INET4_CONNECT` and `…6_CONNECT`.
    const ATTACH_TYPES: [(HookPoint, u32); 2] = [(HookPoint::Connect4, 10), (HookPoint::Connect6, 11)];
    let cannot = || format!("cannot read the programs of cgroup {}", path.display());
    let cgroup = File::open(path).with_context(cannot)?;
    let mut found = Vec::new();
    for (point, attach_type) in ATTACH_TYPES {
        let ids = programs_on_cgroup(&cgroup, attach_type).with_context(cannot)?;
        let at = |program_id| HookProgram { interface: None, point, program_id, name: String::new() };
        found.extend(ids.into_iter().map(at));
    }
    Ok(found)
}

/// Fills in the names that the hooks do not tell. Without the right to ask they stay empty.
fn name_all(found: &mut [HookProgram]) {
    if found.iter().all(|program| !program.name.is_empty()) {
        return;
    }
    for info in loaded_programs().filter_map(Result::ok) {
        let unnamed = found.iter_mut().filter(|program| program.name.is_empty());
        for program in unnamed.filter(|program| program.program_id == info.id()) {
            program.name = info.name_as_str().unwrap_or_default().to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::netlink::put_attribute;

    #[test]
    fn a_bpf_filter_is_read_with_program_and_name_and_others_are_none() {
        let mut options = Vec::new();
        put_attribute(&mut options, TCA_BPF_NAME, b"limit\0");
        put_attribute(&mut options, TCA_BPF_ID, &12u32.to_ne_bytes());
        let of_kind = |kind: &[u8]| {
            let mut attributes = Vec::new();
            put_attribute(&mut attributes, TCA_KIND, kind);
            put_attribute(&mut attributes, TCA_OPTIONS, &options);
            filter(&attributes)
        };
        assert_eq!(of_kind(b"bpf\0"), Some((12, "limit".to_owned())));
        assert_eq!(of_kind(b"u32\0"), None);
    }
}
