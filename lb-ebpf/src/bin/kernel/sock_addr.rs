//! The socket hooks: programs on a cgroup that see addresses instead of packets.
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use lb_common::{Address, Be16};
use lb_ebpf::socket::{self, Caller, Peer, SocketVerdict};
use lb_ebpf::tables::Tables;

use crate::maps::KernelTables;
use crate::route::Hook;

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails with `EPERM`.
const DENY: i32 = 0;

/// A `bpf_sock_addr` of one family. IPv6 sockets that dial an IPv4-mapped address need no case of
/// their own: a mapped address is how every IPv4 address looks here.
struct SockAddr {
    ctx: *mut bpf_sock_addr,
}

impl SockAddr {
    #[inline(always)]
    fn caller(&self) -> Caller {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            Caller {
                protocol: (*self.ctx).protocol as u8,
                cookie: bpf_get_socket_cookie(self.ctx.cast()),
                namespace_cookie: bpf_get_netns_cookie(self.ctx.cast()),
            }
        }
    }

    #[inline(always)]
    fn tables(&self) -> KernelTables {
        KernelTables::new(self.ctx.cast(), Hook::Socket, 0)
    }

    #[inline(always)]
    fn port(&self) -> Be16 {
        // SAFETY: the context is valid while the program runs. The port is in the first two bytes.
        Be16::from_raw(unsafe { (*self.ctx).user_port } as u16)
    }

    #[inline(always)]
    fn peer_v4(&self) -> Peer {
        // SAFETY: the context is valid while the program runs.
        let word = unsafe { (*self.ctx).user_ip4 };
        Peer { address: Address::v4(word.to_ne_bytes()), port: self.port() }
    }

    #[inline(always)]
    fn peer_v6(&self) -> Peer {
        // SAFETY: the context is valid while the program runs. Volatile, since the verifier takes
        // single aligned words and the compiler would join them.
        let words = unsafe {
            let field = &raw const (*self.ctx).user_ip6;
            let word = field.cast::<u32>();
            [
                word.read_volatile(),
                word.add(1).read_volatile(),
                word.add(2).read_volatile(),
                word.add(3).read_volatile(),
            ]
        };
        let [a, b, c, d] = words.map(u64::from);
        // Little-endian: the first word is the low one.
        Peer { address: Address::from_halves([a | b << 32, c | d << 32]), port: self.port() }
    }

    #[inline(always)]
    fn set_peer_v4(&self, peer: &Peer) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            (*self.ctx).user_ip4 = u32::from_ne_bytes(peer.address.v4_bytes());
            (*self.ctx).user_port = u32::from(peer.port.raw());
        }
    }

    #[inline(always)]
    fn set_peer_v6(&self, peer: &Peer) {
        let [first, last] = peer.address.halves();
        // SAFETY: as in `peer_v6`.
        unsafe {
            let word = (&raw mut (*self.ctx).user_ip6).cast::<u32>();
            word.write_volatile(first as u32);
            word.add(1).write_volatile((first >> 32) as u32);
            word.add(2).write_volatile(last as u32);
            word.add(3).write_volatile((last >> 32) as u32);
            (*self.ctx).user_port = u32::from(peer.port.raw());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Connect,
    Sendmsg,
}

#[inline(always)]
fn choose(ctx: &SockAddrContext, family: Family, call: Call) -> i32 {
    let sock_addr = SockAddr { ctx: ctx.as_ptr().cast() };
    let peer = match family {
        Family::V4 => sock_addr.peer_v4(),
        Family::V6 => sock_addr.peer_v6(),
    };
    let mut tables = sock_addr.tables();
    let caller = sock_addr.caller();
    let verdict = match call {
        Call::Connect => socket::connect(&mut tables, &caller, &peer),
        Call::Sendmsg => socket::sendmsg(&mut tables, &caller, &peer),
    };
    match verdict {
        SocketVerdict::Pass(_) => ALLOW,
        SocketVerdict::Refuse(reason) => {
            tables.count(reason);
            DENY
        }
        SocketVerdict::Peer(reason, chosen) => {
            tables.count(reason);
            match family {
                Family::V4 => sock_addr.set_peer_v4(&chosen),
                Family::V6 => sock_addr.set_peer_v6(&chosen),
            }
            ALLOW
        }
    }
}

#[inline(always)]
fn name(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock_addr = SockAddr { ctx: ctx.as_ptr().cast() };
    let peer = match family {
        Family::V4 => sock_addr.peer_v4(),
        Family::V6 => sock_addr.peer_v6(),
    };
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(sock_addr.ctx.cast()) };
    if let Some(vip) = socket::name(&mut sock_addr.tables(), cookie, &peer) {
        match family {
            Family::V4 => sock_addr.set_peer_v4(&vip),
            Family::V6 => sock_addr.set_peer_v6(&vip),
        }
    }
    ALLOW
}

/// `connect()` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    choose(&ctx, Family::V4, Call::Connect)
}

/// `connect()` of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    choose(&ctx, Family::V6, Call::Connect)
}

/// `sendmsg()` of an unconnected IPv4 UDP socket.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    choose(&ctx, Family::V4, Call::Sendmsg)
}

/// `sendmsg()` of an unconnected IPv6 UDP socket.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    choose(&ctx, Family::V6, Call::Sendmsg)
}

/// `recvmsg()` of an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    name(&ctx, Family::V4)
}

/// `recvmsg()` of an IPv6 UDP socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    name(&ctx, Family::V6)
}

/// `getpeername()` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    name(&ctx, Family::V4)
}

/// `getpeername()` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    name(&ctx, Family::V6)
}
