//! The best mode of XDP that an uplink has.
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::programs::XdpMode;

use super::netlink::{AttachedXdp, Link, links};
use super::programs::{Programs, keep};
use crate::maps::remove_pin;

/// How long a removed link may stay on its interface; then attaching goes on and fails or not.
const DETACH_MAX: Duration = Duration::from_millis(500);
/// Time between two looks at an interface that is to lose its program.
const DETACH_POLL: Duration = Duration::from_millis(1);

/// How XDP is attached (`--xdp-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// The best that works: in the driver, else in the network stack, else not at all.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the network stack or not at all.
    Generic,
    /// Not at all: tc does everything.
    Off,
}

impl XdpChoice {
    fn allows(self, attached: AttachedXdp) -> bool {
        match self {
            Self::Auto => attached != AttachedXdp::Other,
            Self::Native => attached == AttachedXdp::Native,
            Self::Generic => attached == AttachedXdp::Generic,
            Self::Off => false,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// In the driver.
    Native,
    /// In the network stack, and why not in the driver.
    Generic(String),
    /// tc does everything, and why.
    TcOnly(String),
    /// Pods' interfaces have no XDP.
    NotForPods,
}

impl Outcome {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic(_) => "generic",
            Self::TcOnly(_) | Self::NotForPods => "off",
        }
    }

    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Generic(reason) | Self::TcOnly(reason) => Some(reason),
            Self::Native | Self::NotForPods => None,
        }
    }
}

const CHOSEN: &str = "chosen with --xdp-mode";

/// Attaches the XDP program to an uplink, or replaces the one in its pinned link.
///
/// # Errors
/// A link that is not wanted any more cannot be removed. That no mode works is no error: tc does the
/// work then.
pub(super) fn attach(programs: &mut Programs, link: &Link, choice: XdpChoice, pin: &Path) -> Result<Outcome> {
    if pin.exists() {
        if let Some(attached) = link.xdp.filter(|attached| choice.allows(*attached))
            && programs.replace_xdp(pin).is_ok()
        {
            return Ok(match attached {
                AttachedXdp::Native => Outcome::Native,
                AttachedXdp::Generic | AttachedXdp::Other => Outcome::Generic("attached so before".into()),
            });
        }
        detach(link.index, pin)?;
    }
    let native = match choice {
        XdpChoice::Off => return Ok(Outcome::TcOnly(CHOSEN.into())),
        XdpChoice::Generic => CHOSEN.into(),
        XdpChoice::Auto | XdpChoice::Native => match attach_native(programs, link, pin)? {
            Ok(()) => return Ok(Outcome::Native),
            Err(reason) => reason,
        },
    };
    if choice == XdpChoice::Native {
        return Ok(Outcome::TcOnly(format!("native: {native}")));
    }
    match programs.attach_xdp(link.index, XdpMode::Skb) {
        Ok(attached) => keep(attached, pin).map(|()| Outcome::Generic(native)),
        Err(error) => Ok(Outcome::TcOnly(format!("native: {native}; generic: {error:#}"))),
    }
}

/// In the driver; the inner error says why not.
fn attach_native(programs: &mut Programs, link: &Link, pin: &Path) -> Result<Result<(), String>> {
    let attached = match programs.attach_xdp(link.index, XdpMode::Driver) {
        Ok(attached) => attached,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    // A veth whose other end has no NAPI takes the frames that a program sends back and drops them
    // unseen (`veth_xdp_xmit`). Its features say so.
    let now = links().context("cannot list the network interfaces")?;
    let sends = now.iter().any(|now| now.index == link.index && now.takes_xdp_frames);
    if link.kind.as_deref() == Some("veth") && !sends {
        // Not pinned yet: closing it detaches at once, and generic XDP can follow.
        drop(attached);
        return Ok(Err(
            "the veth's other end has no NAPI (ethtool -K PEER gro on), so frames would be lost".into()
        ));
    }
    keep(attached, pin).map(Ok)
}

/// Removes a pinned link and waits until its program is off the interface: the kernel frees the file of
/// a pin later (after an RCU grace period), and two modes of XDP exclude each other.
fn detach(interface: u32, pin: &Path) -> Result<()> {
    remove_pin(pin)?;
    let start = Instant::now();
    loop {
        let now = links().context("cannot list the network interfaces")?;
        let has_xdp = now.iter().any(|link| link.index == interface && link.xdp.is_some());
        if !has_xdp || start.elapsed() > DETACH_MAX {
            return Ok(());
        }
        std::thread::sleep(DETACH_POLL);
    }
}
