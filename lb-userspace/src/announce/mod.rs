//! VIPs of load-balancer pools on the local network: of the nodes that may answer for a VIP one does, elected by a Lease.
//!
//! VIPs that all nodes may answer for are dealt to a few groups, so that their number costs the API server nothing; one
//! with `externalTrafficPolicy: Local` has a group of its own. Each group has a Lease. Its holder renews it two or three
//! times a second; the first nodes by rendezvous hashing watch it, and the next one takes it when it is not renewed
//! ([`election`]: pure, with the arithmetic). Whoever holds it answers ARP requests and neighbour solicitations and tells
//! all neighbours on taking over ([`Responder`]). It answers from sockets: when the agent is killed, nothing of it is left.
mod arp;
mod election;
mod groups;
mod leases;
mod ndp;
mod packet_socket;
mod responder;
mod vips;

pub use election::{Act, Election, GIVES_UP_MS, HOLDS_MS, RANK_WAIT_MS, RENEW_MS, TICK_MS, WRITE_MAX_MS};
pub use groups::{CANDIDATES, Group, Part, Wanted, wanted};
pub use leases::{Announced, run};
pub use responder::Responder;
pub use vips::{Nodes, Reach, vips};

/// An Ethernet address.
type Mac = [u8; 6];

/// Length of an Ethernet header, bytes.
const ETHERNET_BYTES: usize = 14;

/// The Ethernet header of a frame.
fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}
