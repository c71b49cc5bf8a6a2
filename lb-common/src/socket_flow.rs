//! SOCKET_FLOWS: what the socket hooks must answer when an application asks who its peer is.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16};

/// Key of SOCKET_FLOWS: a socket and the endpoint that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SocketFlowKey {
    /// `bpf_get_socket_cookie`, unique while the host runs.
    pub cookie: u64,
    /// The endpoint's address.
    pub address: Address,
    /// The endpoint's port.
    pub port: Be16,
    /// Zero.
    pub padding: u16,
    /// Zero.
    pub padding_end: u32,
}

const _: () = assert!(size_of::<SocketFlowKey>() == 32);

/// Value of SOCKET_FLOWS: the frontend that the application dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SocketFlow {
    /// The VIP.
    pub address: Address,
    /// The endpoint's id when it was chosen.
    pub endpoint: u32,
    /// The endpoint's generation when it was chosen.
    pub endpoint_generation: u32,
    /// `bpf_get_netns_cookie` of the socket: where the agent finds it.
    pub namespace_cookie: u64,
    /// The port that was dialled.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u16,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<SocketFlow>() == 40);
