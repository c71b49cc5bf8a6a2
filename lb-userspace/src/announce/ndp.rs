//! Neighbour Discovery (RFC 4861), as far as it is needed to answer for an address. Pure.
//!
//! | bytes after the IPv6 header | solicitation (§4.3) | advertisement (§4.4) |
//! | --- | --- | --- |
//! | 0..4 | type 135, code 0, checksum | type 136, code 0, checksum |
//! | 4..8 | reserved | flags: router, solicited, override |
//! | 8..24 | target | target |
//! | 24.. | options | option 2: length 1, the target's Ethernet address |
use std::net::Ipv6Addr;

use super::{ETHERNET_BYTES, Mac, ethernet};

/// EtherType of IPv6.
pub(super) const ETHERTYPE: u16 = 0x86dd;
/// Next header of ICMPv6.
pub(super) const ICMPV6: u8 = 58;
/// Type of an advertisement.
pub(super) const ADVERTISEMENT: u8 = 136;
/// Type of a solicitation.
pub(super) const SOLICITATION: u8 = 135;
/// From the begin of a frame: the next header, the type.
pub(super) const NEXT_HEADER_AT: usize = ETHERNET_BYTES + 6;
pub(super) const TYPE_AT: usize = ETHERNET_BYTES + IPV6_BYTES;
const IPV6_BYTES: usize = 40;
const ADVERTISEMENT_BYTES: u8 = 32;
/// A message that came through a router has less (§7.1.1).
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Who looks for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Solicitation {
    /// An address that is not specified looks for duplicates (RFC 4862 §5.4).
    pub(super) sender: (Mac, Ipv6Addr),
    pub(super) target: Ipv6Addr,
}

/// The group that a host joins in order to be found at an address (RFC 4291 §2.7.1).
pub(super) fn solicited_group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

/// The solicitation of a frame, if it is valid (§7.1.1).
pub(super) fn solicitation(frame: &[u8]) -> Option<Solicitation> {
    let (sender, target) = valid(frame, SOLICITATION)?;
    Some(Solicitation { sender, target })
}

/// Who a frame says has an address, if it is a valid advertisement (§7.1.2).
pub(super) fn owner(frame: &[u8]) -> Option<(Mac, Ipv6Addr)> {
    let ((mac, _), target) = valid(frame, ADVERTISEMENT)?;
    Some((mac, target))
}

/// The sender and the target of a valid message of a type.
fn valid(frame: &[u8], kind: u8) -> Option<((Mac, Ipv6Addr), Ipv6Addr)> {
    let ip = frame.get(ETHERNET_BYTES..)?;
    let message = ip.get(IPV6_BYTES..)?;
    let length = usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
    let message = message.get(..length)?;
    if ip[6] != ICMPV6 || ip[7] != HOP_LIMIT || message.get(..2)? != [kind, 0] || length < 24 {
        return None;
    }
    let source = Ipv6Addr::from(*ip.get(8..)?.first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*ip.get(24..)?.first_chunk::<16>()?);
    // The sum with the checksum in it is zero.
    if checksum(source, destination, message) != 0 {
        return None;
    }
    let mac = *frame.get(6..)?.first_chunk::<6>()?;
    let target = Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?);
    (!target.is_multicast()).then_some(((mac, source), target))
}

/// The answer to a solicitation, by the host with this Ethernet address.
pub(super) fn advertisement(own: Mac, asked: &Solicitation) -> Vec<u8> {
    let (mac, source) = asked.sender;
    match source.is_unspecified() {
        true => frame((group_mac(ALL_NODES), ALL_NODES), own, asked.target, OVERRIDE),
        false => frame((mac, source), own, asked.target, SOLICITED | OVERRIDE),
    }
}

/// Tells all neighbours who has an address now (§7.2.6).
pub(super) fn announcement(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    frame((group_mac(ALL_NODES), ALL_NODES), own, address, OVERRIDE)
}

/// The Ethernet address of a group (RFC 2464 §7).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn frame((mac, to): (Mac, Ipv6Addr), own: Mac, target: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(own);
    let sum = checksum(target, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(mac, own, ETHERTYPE);
    frame.extend([0x60, 0, 0, 0, 0, ADVERTISEMENT_BYTES, ICMPV6, HOP_LIMIT]);
    frame.extend(target.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// With the pseudo-header of RFC 8200 §8.1.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
            .sum()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = [2, 0, 0, 0, 0, 9];
    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    /// As a host sends it that looks for the VIP; the checksum is of another hand.
    fn asked() -> Vec<u8> {
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 0x80];
        frame.extend(CLIENT);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(ip("2001:db8::9").octets());
        frame.extend(ip("ff02::1:ff00:80").octets());
        frame.extend([135, 0, 0x1b, 0x1b, 0, 0, 0, 0]);
        frame.extend(ip("2001:db8::80").octets());
        frame.extend([1, 1]);
        frame.extend(CLIENT);
        frame
    }

    #[test]
    fn a_solicitation_is_answered_to_its_sender() {
        let found = solicitation(&asked()).expect("a solicitation");
        assert_eq!(found, Solicitation { sender: (CLIENT, ip("2001:db8::9")), target: ip("2001:db8::80") });
        let answer = advertisement(OWN, &found);
        assert_eq!(answer[..14], [&CLIENT[..], &OWN, &[0x86, 0xdd]].concat());
        assert_eq!(answer[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(answer[22..38], ip("2001:db8::80").octets());
        assert_eq!(answer[38..54], ip("2001:db8::9").octets());
        assert_eq!((&answer[54..56], answer[58]), (&[136, 0][..], 0x60));
        assert_eq!(answer[78..], [&[2, 1][..], &OWN].concat());
        assert_eq!(checksum(ip("2001:db8::80"), ip("2001:db8::9"), &answer[54..]), 0);
    }

    #[test]
    fn a_search_for_duplicates_is_answered_to_all() {
        let found = Solicitation { sender: (CLIENT, Ipv6Addr::UNSPECIFIED), target: ip("2001:db8::80") };
        let answer = advertisement(OWN, &found);
        assert_eq!(answer, announcement(OWN, ip("2001:db8::80")));
        assert_eq!(owner(&answer), Some((OWN, ip("2001:db8::80"))));
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!((&answer[38..54], answer[58]), (&ip("ff02::1").octets()[..], 0x20));
    }

    #[test]
    fn what_is_damaged_came_through_a_router_or_is_cut_short_asks_nothing() {
        for (at, value) in [(21, 254), (56, 0), (54, 136), (20, 17), (77, 0x81)] {
            let mut frame = asked();
            frame[at] = value;
            assert_eq!(solicitation(&frame), None, "byte {at}");
        }
        assert!((0..asked().len()).all(|length| solicitation(&asked()[..length]).is_none()));
    }

    #[test]
    fn a_host_is_found_in_the_group_of_the_last_three_bytes() {
        assert_eq!(solicited_group(ip("2001:db8::1:aabb:ccdd")), ip("ff02::1:ffbb:ccdd"));
    }
}
