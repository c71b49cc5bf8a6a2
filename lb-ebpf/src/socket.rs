//! The choice at `connect()` and `sendmsg()`, and the VIP as the peer's name afterwards: processes and
//! pods of this node talk to endpoints directly, at no cost per packet.
use lb_common::counters::Reason;
use lb_common::frontend::{Frontend, FrontendKey, Kind, flags};
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16, flow_hash};

use crate::select;
use crate::tables::Tables;

/// A socket's peer, as the application names it or as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address.
    pub address: Address,
    /// Port.
    pub port: Be16,
}

/// Who calls: what a socket hook knows of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// IP protocol number.
    pub protocol: u8,
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// `bpf_get_netns_cookie`: stands for the client where affinity needs one, since the source
    /// address is not chosen yet.
    pub namespace_cookie: u64,
}

/// What a socket hook must do.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketVerdict {
    /// Go on with the address as it is.
    Pass(Reason),
    /// Fail with `EPERM`.
    Refuse(Reason),
    /// Go on with this peer.
    Peer(Reason, Peer),
}

/// `connect()`: a new choice each time.
#[inline(always)]
pub fn connect<T: Tables>(tables: &mut T, caller: &Caller, peer: &Peer) -> SocketVerdict {
    let point = tables.random();
    choose(tables, caller, peer, point)
}

/// `sendmsg()` of an unconnected socket: the same socket keeps its endpoint while the ring has it.
#[inline(always)]
pub fn sendmsg<T: Tables>(tables: &mut T, caller: &Caller, peer: &Peer) -> SocketVerdict {
    choose(tables, caller, peer, flow_hash::of_u64(caller.cookie))
}

/// `recvmsg()` and `getpeername()`: the VIP that the application dialled, in place of the endpoint.
#[inline(always)]
pub fn name<T: Tables>(tables: &mut T, cookie: u64, peer: &Peer) -> Option<Peer> {
    let flow = tables.socket_flow(&key(cookie, peer))?;
    Some(Peer { address: flow.address, port: flow.port })
}

#[inline(always)]
fn choose<T: Tables>(tables: &mut T, caller: &Caller, peer: &Peer, point: u32) -> SocketVerdict {
    let Some(frontend) = dialled(tables, caller, peer) else {
        return SocketVerdict::Pass(Reason::PassNotOurs);
    };
    if frontend.flags & flags::CHECK_SOURCE != 0 {
        // A pod's address is not known here: its packet is judged where it enters the node.
        if !is_of_node(tables, caller) {
            return SocketVerdict::Pass(Reason::PassNotOurs);
        }
        if !is_node_allowed(tables, frontend.backend_service, &peer.address) {
            return SocketVerdict::Refuse(Reason::DropSourceRange);
        }
    }
    let client = namespace_address(caller.namespace_cookie);
    let Some(id) = select::choose(tables, frontend.neg_internal, &client, point) else {
        let drops = frontend.flags & flags::INTERNAL_EMPTY_DROPS != 0;
        let reason = if drops { Reason::DropNoLocalEndpoint } else { Reason::RefuseNoEndpoint };
        return SocketVerdict::Refuse(reason);
    };
    let Some(endpoint) = tables.endpoint(id) else {
        return SocketVerdict::Refuse(Reason::DropDangling);
    };
    let chosen = Peer { address: endpoint.address, port: endpoint.port };
    let flow = SocketFlow {
        address: peer.address,
        endpoint: id,
        endpoint_generation: endpoint.generation,
        namespace_cookie: caller.namespace_cookie,
        port: peer.port,
        protocol: u16::from(caller.protocol),
        padding: 0,
    };
    let key = key(caller.cookie, &chosen);
    if tables.socket_flow(&key) == Some(flow) {
        return SocketVerdict::Peer(Reason::ForwardSocket, chosen);
    }
    if tables.put_socket_flow(&key, &flow).is_err() {
        return SocketVerdict::Refuse(Reason::DropConntrackFull);
    }
    tables.count_traffic(frontend.backend_service, id, 0, 0, 1);
    SocketVerdict::Peer(Reason::ForwardSocket, chosen)
}

/// The frontend that a peer's address stands for. On loopback addresses of the node itself its node
/// ports are served as well; loopback of a pod is the pod's own.
#[inline(always)]
fn dialled<T: Tables>(tables: &T, caller: &Caller, peer: &Peer) -> Option<Frontend> {
    let found = tables.frontend(&FrontendKey::new(peer.address, peer.port, caller.protocol));
    if found.is_some() || !peer.address.is_loopback() || !is_of_node(tables, caller) {
        return found;
    }
    let address = tables.config()?.node_address(&peer.address)?;
    let frontend = tables.frontend(&FrontendKey::new(address, peer.port, caller.protocol))?;
    (frontend.kind() == Some(Kind::NodePort)).then_some(frontend)
}

/// Whether the socket is in the node's own network namespace.
#[inline(always)]
fn is_of_node<T: Tables>(tables: &T, caller: &Caller) -> bool {
    tables.config().is_some_and(|config| config.node_namespace_cookie == caller.namespace_cookie)
}

/// Whether a source range covers this node's address in the family of `peer`.
#[inline(never)]
fn is_node_allowed<T: Tables>(tables: &T, backend_service: u32, peer: &Address) -> bool {
    let address = tables.config().and_then(|config| config.node_address(peer));
    address.is_some_and(|address| {
        tables.is_source_allowed(&SourceRangeKey::of_client(backend_service, &address))
    })
}

#[inline(always)]
const fn key(cookie: u64, peer: &Peer) -> SocketFlowKey {
    SocketFlowKey { cookie, address: peer.address, port: peer.port, padding: 0, padding_end: 0 }
}

/// A network namespace as a client of AFFINITY: an address that no packet can have (RFC 4291 §2.5.2
/// reserves `::/8`).
#[inline(always)]
const fn namespace_address(cookie: u64) -> Address {
    Address::from_halves([1, cookie])
}
