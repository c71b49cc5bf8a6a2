//! Sockets that a socket hook connected to an endpoint which is no longer there. No packet of theirs meets a
//! program, so the agent moves them: it borrows the descriptor from the process that has it
//! (`pidfd_getfd`) and calls `connect()` to the VIP again, where the hook of the socket's own cgroup chooses
//! anew. A TCP connection cannot move; it is reset.
//!
//! Unconnected sockets need no help: the hook chooses for each of their datagrams.
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Result;
use lb_common::protocol::{TCP, UDP};
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use rustix::net::sockopt::{socket_cookie, socket_domain};
use rustix::net::{AddressFamily, connect, connect_unspec, getpeername};
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::maps::{Maps, Place};

/// Entries that are read at once.
const BATCH_ENTRIES_MAX: usize = 4_096;

/// What became of sockets whose endpoint was gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// UDP sockets that are connected anew.
    pub moved: u32,
    /// UDP sockets for which no endpoint is left, and TCP sockets.
    pub ended: u32,
    /// Entries whose socket is closed, is unconnected, or is in no process that this one may look into.
    pub not_found: u32,
}

/// The sockets to look for, by cookie: the endpoints that they leave.
type Wanted = BTreeMap<u64, Vec<(SocketFlowKey, SocketFlow)>>;

/// Looks for sockets that are connected to endpoints which are given up or, for UDP, take no new flows; and
/// moves or ends them. Costs a walk through SOCKET_FLOWS and, where there are such sockets, one through the
/// descriptors of all processes.
///
/// # Errors
/// The maps or `/proc` cannot be read.
pub fn leave_gone_endpoints(maps: &mut Maps) -> Result<Moved> {
    let mut wanted = wanted(maps)?;
    let mut moved = Moved::default();
    if wanted.is_empty() {
        return Ok(moved);
    }
    let all: Vec<(SocketFlowKey, SocketFlow)> = wanted.values().flatten().copied().collect();
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) {
            sockets_of(pid, &path, &mut wanted, &mut moved);
        }
        if wanted.is_empty() {
            break;
        }
    }
    moved.not_found = wanted.values().map(|flows| flows.len() as u32).sum();
    // What was looked for once is not looked for again; a socket that is connected anew has a new entry.
    let gone: Vec<SocketFlowKey> =
        all.iter().filter(|(_, flow)| is_gone(maps, flow)).map(|(key, _)| *key).collect();
    maps.remove_entries(&gone)?;
    Ok(moved)
}

fn is_gone(maps: &Maps, flow: &SocketFlow) -> bool {
    let endpoint = maps.endpoint(flow.endpoint);
    !endpoint.is_present() || endpoint.generation != flow.endpoint_generation
}

fn wanted(maps: &mut Maps) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    let mut place = Some(Place::default());
    while let Some(from) = place {
        let batch = maps.some_entries::<SocketFlowKey>(from, BATCH_ENTRIES_MAX)?;
        for (key, flow) in batch.entries {
            let endpoint = maps.endpoint(flow.endpoint);
            let leaves = flow.protocol == u16::from(UDP) && !endpoint.takes_new_flows();
            if leaves || is_gone(maps, &flow) {
                wanted.entry(key.cookie).or_default().push((key, flow));
            }
        }
        place = batch.next;
    }
    Ok(wanted)
}

/// A process may end, or close a descriptor, while it is looked at: then there is nothing to do.
fn sockets_of(pid: Pid, path: &Path, wanted: &mut Wanted, moved: &mut Moved) {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let Ok(descriptors) = std::fs::read_dir(path.join("fd")) else { return };
    for descriptor in descriptors.flatten() {
        let is_socket = std::fs::read_link(descriptor.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:["));
        let number = descriptor.file_name().to_str().and_then(|name| name.parse::<ForeignRawFd>().ok());
        let Some(number) = number.filter(|_| is_socket) else { continue };
        let Ok(socket) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else { continue };
        let Ok(cookie) = socket_cookie(&socket) else { continue };
        let Some(flows) = wanted.remove(&cookie) else { continue };
        for (key, flow) in flows {
            match leave(&socket, &key, &flow) {
                Some(Left::Moved) => moved.moved += 1,
                Some(Left::Ended) => moved.ended += 1,
                None => moved.not_found += 1,
            }
        }
        if wanted.is_empty() {
            return;
        }
    }
}

enum Left {
    Moved,
    Ended,
}

/// `None`: the socket is not connected by way of this entry, or any more.
fn leave(socket: &OwnedFd, key: &SocketFlowKey, flow: &SocketFlow) -> Option<Left> {
    let vip = SocketAddr::new(flow.address.into(), flow.port.get());
    let endpoint = SocketAddr::new(key.address.into(), key.port.get());
    // The name that the hook gives is the VIP; without the hook it is the endpoint.
    let peer = SocketAddr::try_from(getpeername(socket).ok()??).ok()?;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if peer != vip && peer != endpoint {
        return None;
    }
    if flow.protocol != u16::from(TCP) && connect(socket, &dialled(socket, vip).ok()?).is_ok() {
        return Some(Left::Moved);
    }
    // No endpoint is left; or TCP, which the kernel resets (`tcp_disconnect`).
    connect_unspec(socket).ok().map(|()| Left::Ended)
}

/// The VIP as the socket's family writes it.
fn dialled(socket: &OwnedFd, vip: SocketAddr) -> io::Result<SocketAddr> {
    Ok(match vip.ip() {
        IpAddr::V4(ip) if socket_domain(socket)? == AddressFamily::INET6 => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), vip.port())
        }
        _ => vip,
    })
}
