//! Programs that are not Podway's, at the hooks of an interface: a CNI's, or what somebody has left behind.
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp};

use crate::netns::Namespace;
use crate::xdp_pass::object_file;

/// The name of the program at tcx.
pub const CLASSIFIER: &str = "foreign_tc";
/// The name of the program at XDP.
pub const XDP: &str = "foreign_xdp";

/// `r0 = -1; exit`: `TCX_NEXT`, the packet goes on to the next program.
const GO_ON: [u8; 16] = [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// `r0 = 2; exit`: `XDP_PASS`.
const PASS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Attaches a program to what comes in by an interface, before all others, until the link is dropped.
///
/// # Errors
/// No right to load or attach programs; no such interface; no tcx (before Linux 6.6).
pub fn attach_tcx(namespace: &Namespace, interface: &str) -> Result<SchedClassifierLink> {
    let object = object_file("classifier", CLASSIFIER, &GO_ON)?;
    let mut ebpf = Ebpf::load(&object).context("cannot read a program for tcx")?;
    let program: &mut SchedClassifier =
        ebpf.program_mut(CLASSIFIER).context("no program in the object")?.try_into()?;
    program.load().context("cannot load a program for tcx")?;
    namespace.run(|| {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
        let id = attached.with_context(|| format!("cannot attach a program to {interface}"))?;
        Ok(program.take_link(id)?)
    })?
}

/// Attaches a program in the network stack's place for XDP, until the link is dropped.
///
/// # Errors
/// No right to load or attach programs; no such interface; the place is taken.
pub fn attach_xdp(namespace: &Namespace, interface: &str) -> Result<XdpLink> {
    let mut ebpf = Ebpf::load(&object_file("xdp", XDP, &PASS)?).context("cannot read a program for XDP")?;
    let program: &mut Xdp = ebpf.program_mut(XDP).context("no program in the object")?.try_into()?;
    program.load().context("cannot load a program for XDP")?;
    namespace.run(|| {
        let attached = program.attach(interface, XdpMode::Skb);
        let id = attached.with_context(|| format!("cannot attach XDP to {interface}"))?;
        Ok(program.take_link(id)?)
    })?
}
