//! Who makes the packets.
use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::bench::transit::{Generator, Sent, Transit};
use lb_tests::bench::ways::{By, Hook, Place, Way};
use lb_tests::pktgen::{self, Mode};

/// Established flows.
pub(crate) const FLOWS: u16 = 1_024;
/// The first of the new flows: none of the established ones is met.
const FIRST_NEW: u32 = 1 << 20;
/// New flows of a round: those of nine rounds, with the kernel's generator's, are fewer than the kernel's conntrack
/// holds, and one round's are less than half of Podway's source NAT ports for ten endpoints.
const NEW_FLOWS: u32 = 20_000;
/// The same of the kernel's generator.
const NEW_FLOWS_OF_PKTGEN: u16 = 2_000;

/// Makes packets of established flows, and of new ones.
pub(crate) enum Maker {
    /// XDP live frames.
    LiveFrames { established: Box<Generator>, new: Box<Generator> },
    /// The kernel's generator, with the number of the client that sends the next new flows.
    Pktgen { mode: Mode, client: u32 },
}

impl Maker {
    /// XDP live frames for a way.
    pub(crate) fn live_frames(transit: &Transit, way: Way) -> Result<Self> {
        let to = way.destination();
        let generator = |flows, first| transit.generator(to, flows, first).map(Box::new);
        Ok(Self::LiveFrames {
            established: generator(FLOWS.into(), 0)?,
            new: generator(u32::MAX, FIRST_NEW)?,
        })
    }

    /// The kernel's generator in a mode, unless that is not sound for a way: see [`Mode::NetifReceive`].
    pub(crate) fn pktgen(mode: Mode, way: Way) -> Option<Self> {
        let is_sound = match (mode, way.by) {
            (Mode::Xmit, _) => true,
            (Mode::NetifReceive, By::Discard | By::Redirect) => false,
            (Mode::NetifReceive, By::Podway { hook, place, .. }) => {
                hook == Hook::Tc && place != Place::ElsewhereDirect
            }
            (Mode::NetifReceive, By::Routing | By::Nftables { .. } | By::Iptables { .. }) => true,
        };
        // Clients that no other generator has.
        let client = if mode == Mode::Xmit { 1_000 } else { 2_000 };
        is_sound.then_some(Self::Pktgen { mode, client })
    }

    /// Whether this machine's kernel has its generator.
    pub(crate) fn has_pktgen() -> bool {
        pktgen::is_there()
    }

    /// What its tables are called by, if it is not the usual one.
    pub(crate) const fn name(&self) -> Option<&'static str> {
        match self {
            Self::LiveFrames { .. } => None,
            Self::Pktgen { mode: Mode::Xmit, .. } => Some("pktgen at the client"),
            Self::Pktgen { mode: Mode::NetifReceive, .. } => Some("pktgen at the node's uplink"),
        }
    }

    /// Sends packets of established flows.
    pub(crate) fn send_established(&self, transit: &Transit, to: SocketAddr, count: u32) -> Result<Sent> {
        match self {
            Self::LiveFrames { established, .. } => transit.send(established, count),
            Self::Pktgen { mode, .. } => transit.send_by_pktgen(*mode, to, 0, FLOWS, count),
        }
    }

    /// Sends a packet each of flows that nobody has seen.
    pub(crate) fn send_new(&mut self, transit: &Transit, to: SocketAddr) -> Result<Sent> {
        match self {
            Self::LiveFrames { new, .. } => transit.send(new, NEW_FLOWS),
            Self::Pktgen { mode, client } => {
                *client += 1;
                let ports = NEW_FLOWS_OF_PKTGEN;
                transit.send_by_pktgen(*mode, to, *client, ports, ports.into())
            }
        }
    }
}
