//! The little of netlink that is needed: dump the interfaces, ask which of them take XDP frames, and
//! hear that something changed. Requests and answers are bytes in host order, laid out as the kernel's
//! headers `linux/netlink.h`, `rtnetlink.h`, `if_link.h`, `genetlink.h` and `netdev.h` say.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// Kind of a virtual interface, for instance `veth`.
    pub kind: Option<String>,
    /// Index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
    /// How an XDP program is attached to it, where one is.
    pub xdp: Option<AttachedXdp>,
    /// Whether it sends frames that XDP programs redirect to it. Drivers say so from Linux 6.3 on; a
    /// veth does where the other end can receive them.
    pub takes_xdp_frames: bool,
}

/// Where an attached XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedXdp {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// In the device, or in several places.
    Other,
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// What was dumped changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Type bits of an attribute that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
const RTNLGRP_LINK: u32 = 1;
/// `RTNLGRP_LINK`, `NEIGH`, `IPV4_IFADDR`, `IPV4_ROUTE`, `IPV4_RULE`, `IPV6_IFADDR`, `IPV6_ROUTE`, `IPV6_RULE` and
/// `NEXTHOP`.
const ROUTE_GROUPS: [u32; 9] = [RTNLGRP_LINK, 3, 5, 7, 8, 9, 11, 19, 32];
pub(super) const IFINFO_BYTES: usize = 16;
const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_XDP: u16 = 43;
pub(super) const IFLA_XDP_ATTACHED: u16 = 2;

const GENL_ID_CTRL: u16 = 16;
const GENL_HEADER_BYTES: usize = 4;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

/// Most bytes of one answer; the kernel fills at most 32 KiB at once.
const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// Times that an interrupted dump is begun again; the last one counts as it is.
const DUMP_TRIES: u32 = 5;

/// The interfaces, by index.
///
/// # Errors
/// Netlink does not answer.
pub fn links() -> io::Result<Vec<Link>> {
    let features = xdp_features();
    let mut links = Vec::new();
    for message in dump(None, RTM_GETLINK, &[0; IFINFO_BYTES])? {
        if message.kind != RTM_NEWLINK || message.payload.len() < IFINFO_BYTES {
            continue;
        }
        let Some(index) = u32_at(&message.payload, 4) else { continue };
        links.push(link(index, &message.payload[IFINFO_BYTES..], &features));
    }
    links.sort_by_key(|link: &Link| link.index);
    Ok(links)
}

fn link(index: u32, attributes: &[u8], features: &BTreeMap<u32, u64>) -> Link {
    let takes = features.get(&index).is_some_and(|bits| bits & NETDEV_XDP_ACT_NDO_XMIT != 0);
    let mut link = Link {
        index,
        name: String::new(),
        mac: None,
        kind: None,
        master: None,
        xdp: None,
        takes_xdp_frames: takes,
    };
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value));
            }
            IFLA_XDP => {
                let attached = Attributes(value).find(|(kind, _)| *kind == IFLA_XDP_ATTACHED);
                link.xdp = attached.and_then(|(_, value)| attached_xdp(value));
            }
            _ => {}
        }
    }
    link
}

/// XDP_ATTACHED_NONE, _DRV, _SKB of if_link.h.
pub(super) fn attached_xdp(value: &[u8]) -> Option<AttachedXdp> {
    match value.first() {
        None | Some(0) => None,
        Some(1) => Some(AttachedXdp::Native),
        Some(2) => Some(AttachedXdp::Generic),
        Some(_) => Some(AttachedXdp::Other),
    }
}

/// XDP features by interface; none where the kernel has no such family (before 6.3).
pub(super) fn xdp_features() -> BTreeMap<u32, u64> {
    let mut request = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    put_attribute(&mut request, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let Ok(answers) = ask(Some(netlink::GENERIC), GENL_ID_CTRL, NLM_F_ACK, &request) else {
        return BTreeMap::new();
    };
    let id = answers.iter().find_map(|answer| {
        let mut attributes = Attributes(answer.payload.get(GENL_HEADER_BYTES..)?);
        let (_, id) = attributes.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
        Some(u16::from_ne_bytes(*id.first_chunk()?))
    });
    let Some(id) = id else { return BTreeMap::new() };
    let Ok(answers) = dump(Some(netlink::GENERIC), id, &[NETDEV_CMD_DEV_GET, 1, 0, 0]) else {
        return BTreeMap::new();
    };
    let feature = |answer: &Message| {
        let attributes = Attributes(answer.payload.get(GENL_HEADER_BYTES..)?);
        let mut index = None;
        let mut bits = 0;
        for (kind, value) in attributes {
            match kind {
                NETDEV_A_DEV_IFINDEX => index = u32_at(value, 0),
                NETDEV_A_DEV_XDP_FEATURES => bits = u64::from_ne_bytes(*value.first_chunk()?),
                _ => {}
            }
        }
        Some((index?, bits))
    };
    answers.iter().filter_map(feature).collect()
}

/// Hears that something changed. What exactly is asked for afterwards: messages can be lost, the state
/// cannot.
#[derive(Debug)]
pub struct Monitor(OwnedFd);

impl Monitor {
    /// Begins to listen for interfaces that come, go or change.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub fn of_links() -> io::Result<Self> {
        Self::new(group(RTNLGRP_LINK))
    }

    /// Begins to listen for all that may lead packets another way: routes, their rules and next hops, neighbours,
    /// addresses and interfaces.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub fn of_routes() -> io::Result<Self> {
        Self::new(ROUTE_GROUPS.into_iter().map(group).sum())
    }

    fn new(groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Takes all messages that are there; lost ones count as well.
    pub fn drain(&self) {
        let mut buffer = [0u8; 4096];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl std::os::fd::AsFd for Monitor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bit of a multicast group: groups are counted from one.
const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// One message of an answer.
pub(crate) struct Message {
    /// Its type.
    pub(crate) kind: u16,
    /// What follows its header.
    pub(crate) payload: Vec<u8>,
}

/// All messages of a dump, begun again while what it shows changes.
pub(crate) fn dump(protocol: Option<Protocol>, kind: u16, payload: &[u8]) -> io::Result<Vec<Message>> {
    let mut answer = Ok(Vec::new());
    for _ in 0..DUMP_TRIES {
        answer = ask(protocol, kind, NLM_F_DUMP, payload);
        if answer.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::Interrupted) {
            break;
        }
    }
    answer
}

pub(super) fn ask(
    protocol: Option<Protocol>,
    kind: u16,
    flags: u16,
    payload: &[u8],
) -> io::Result<Vec<Message>> {
    const HEADER_BYTES: usize = 16;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + payload.len());
    request.extend(((HEADER_BYTES + payload.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: one question per socket needs neither.
    request.extend([0; 8]);
    request.extend(payload);
    send(&socket, &request, SendFlags::empty())?;
    let mut messages = Vec::new();
    let mut buffer = vec![0u8; ANSWER_BYTES_MAX];
    loop {
        let (_, len) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..len];
        while rest.len() >= HEADER_BYTES {
            let total = u32_at(rest, 0).unwrap_or(0) as usize;
            if total < HEADER_BYTES || total > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let message_flags = u16::from_ne_bytes([rest[6], rest[7]]);
            let payload = &rest[HEADER_BYTES..total];
            if message_flags & NLM_F_DUMP_INTR != 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match kind {
                NLMSG_DONE => return Ok(messages),
                NLMSG_ERROR => match u32_at(payload, 0).map_or(0, |code| -(code as i32)) {
                    0 => return Ok(messages),
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ => messages.push(Message { kind, payload: payload.to_vec() }),
            }
            rest = rest.get(total.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A row of attributes: length and type of two bytes each, then the value, padded to four bytes.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    }
}

pub(super) fn put_attribute(request: &mut Vec<u8>, kind: u16, value: &[u8]) {
    request.extend(((4 + value.len()) as u16).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(request.len().next_multiple_of(4), 0);
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let links = links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == 1), "{links:?}");
    }

    #[test]
    fn a_row_of_attributes_ends_at_the_first_that_is_cut_short() {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, 3, b"eth0\0");
        put_attribute(&mut bytes, 4, &7u32.to_ne_bytes());
        assert_eq!(bytes.len(), 20);
        let whole: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(whole, [(3, &b"eth0\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
        assert_eq!(Attributes(&bytes[..18]).count(), 1);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
