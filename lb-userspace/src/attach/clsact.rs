//! tc programs on kernels without tcx links (before Linux 6.6): filters of the qdisc `clsact`.
//!
//! A filter is no link: it lives until it or its interface is removed, and has no pin. So its program is pinned where
//! a link would be, which says that the filter is there; a filter is replaced in one step as a link's program is.
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{SchedClassifier, TcAttachType};

use super::programs::cause;

/// Before the filters of others, which are looked at as long as a program ends with `TC_ACT_UNSPEC`.
const PRIORITY: u16 = 1;
/// Ours among filters of that priority.
const HANDLE: TcHandle = TcHandle::new(0, 0x70);

/// Attaches a program, in the place of a former agent's, and pins it.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    side: TcAttachType,
    pin: &Path,
) -> Result<()> {
    // It is there where a CNI uses it, or a former agent made it; what is wrong otherwise the filter meets too.
    let _ = qdisc_add_clsact(interface);
    let former = SchedClassifierLink::attached(interface, side, PRIORITY, HANDLE, None)?;
    let id = program.attach_to_link(former).or_else(|_| {
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program.attach_with_options(interface, side, TcAttachOptions::Netlink(options))
    });
    let id = id.map_err(|error| anyhow!("a filter of clsact: {}", cause(&error)))?;
    // Dropped, it would take the filter with it.
    std::mem::forget(program.take_link(id)?);
    program.pin(pin).with_context(|| format!("cannot pin the program {}", pin.display()))
}

/// Removes a filter, if there is one.
pub(super) fn detach(interface: &str, side: TcAttachType, program: &str) -> Result<()> {
    match qdisc_detach_program(interface, side, program) {
        Err(TcError::IoError(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Without the qdisc there is no filter.
        Err(TcError::NetlinkError(_)) | Ok(()) => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot remove {program} from interface {interface}"))
        }
    }
}
