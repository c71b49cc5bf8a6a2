//! Sockets for whole frames of an interface that ask for an address. All `unsafe` of this module's parent is here: the
//! address and the filter of such a socket have no safe call.
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{ETHERNET_BYTES, arp, ndp};

/// What a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// ARP requests.
    Arp,
    /// Neighbour solicitations.
    Ndp,
    /// Neighbour advertisements, which ask nothing: somebody may say that a VIP is his.
    Nobody,
}

const BPF_LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const BPF_JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const BPF_RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// The whole frame.
const ALL_BYTES: u32 = 0x4_0000;
/// The low byte of the operation of an ARP packet, and of a request.
const ARP_OPERATION_AT: usize = ETHERNET_BYTES + 7;
const ARP_REQUEST: u8 = 1;

/// A socket that receives what asks on an interface, and sends frames there. Reading does not wait.
///
/// # Errors
/// The interface is gone, or the process lacks CAP_NET_RAW.
pub(super) fn open(interface: u32, asks: Asks) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Without a protocol nothing is received before the filter is there and the address chosen.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let (filter, protocol) = match asks {
        Asks::Arp => (filter(&[(ARP_OPERATION_AT, ARP_REQUEST)]), arp::ETHERTYPE),
        Asks::Ndp => (icmpv6(ndp::SOLICITATION), ndp::ETHERTYPE),
        Asks::Nobody => (icmpv6(ndp::ADVERTISEMENT), ndp::ETHERTYPE),
    };
    attach_filter(&socket, &filter)?;
    bind(&socket, interface, protocol)?;
    Ok(socket)
}

/// A program that takes the ICMPv6 messages of a type.
fn icmpv6(kind: u8) -> Vec<libc::sock_filter> {
    filter(&[(ndp::NEXT_HEADER_AT, ndp::ICMPV6), (ndp::TYPE_AT, kind)])
}

/// A program that takes a frame whose bytes are these, and no other.
fn filter(bytes: &[(usize, u8)]) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for (index, (at, value)) in bytes.iter().enumerate() {
        program.push(libc::sock_filter { code: BPF_LOAD_BYTE, jt: 0, jf: 0, k: *at as u32 });
        // Over the comparisons that follow, two instructions each, and the one that takes it.
        let to_refusal = 2 * (bytes.len() - index - 1) + 1;
        program.push(libc::sock_filter {
            code: BPF_JUMP_IF_EQUAL,
            jt: 0,
            jf: to_refusal as u8,
            k: u32::from(*value),
        });
    }
    program.push(libc::sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: ALL_BYTES });
    program.push(libc::sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: 0 });
    program
}

fn attach_filter(socket: &OwnedFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the option is a `sock_fprog` of its own size, whose instructions live through the call; the kernel copies
    // them and writes to none.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(socket: &OwnedFd, interface: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a `sockaddr_ll` of its own size that lives through the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program makes of a frame: bytes that are taken.
    fn run(program: &[libc::sock_filter], frame: &[u8]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match step.code {
                BPF_LOAD_BYTE => match frame.get(step.k as usize) {
                    Some(byte) => loaded = u32::from(*byte),
                    None => return 0,
                },
                BPF_JUMP_IF_EQUAL => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
                _ => return step.k,
            }
        }
    }

    #[test]
    fn a_filter_takes_frames_with_all_its_bytes() {
        let program = filter(&[(1, 58), (3, 135)]);
        assert_eq!(run(&program, &[0, 58, 0, 135]), ALL_BYTES);
        assert_eq!(run(&program, &[0, 58, 0, 136]), 0);
        assert_eq!(run(&program, &[0, 17, 0, 135]), 0);
        assert_eq!(run(&program, &[0, 58]), 0);
    }
}
