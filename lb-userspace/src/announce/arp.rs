//! ARP (RFC 826), as far as it is needed to answer for an address. Pure.
//!
//! | bytes after the Ethernet header | field |
//! | --- | --- |
//! | 0..8 | hardware 1, protocol 0x0800, lengths 6 and 4, operation |
//! | 8..14, 14..18 | sender: Ethernet and IPv4 address |
//! | 18..24, 24..28 | target: Ethernet and IPv4 address |
use std::net::Ipv4Addr;

use super::{ETHERNET_BYTES, Mac, ethernet};

/// EtherType.
pub(super) const ETHERTYPE: u16 = 0x0806;
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Who asks for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) sender: (Mac, Ipv4Addr),
    pub(super) target: Ipv4Addr,
}

/// The request of a frame. A host that tells its own address (RFC 5227 §3) asks nobody.
pub(super) fn request(frame: &[u8]) -> Option<Request> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    if !packet.starts_with(&FIXED) || packet.get(6..8)? != REQUEST.to_be_bytes() {
        return None;
    }
    let mac = *packet.get(8..)?.first_chunk::<6>()?;
    let sender = Ipv4Addr::from(*packet.get(14..)?.first_chunk::<4>()?);
    let target = Ipv4Addr::from(*packet.get(24..)?.first_chunk::<4>()?);
    (sender != target).then_some(Request { sender: (mac, sender), target })
}

/// Who a frame says has an address.
pub(super) fn owner(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let packet = frame.get(ETHERNET_BYTES..)?.strip_prefix(&FIXED)?;
    let mac = *packet.get(2..)?.first_chunk::<6>()?;
    Some((mac, Ipv4Addr::from(*packet.get(8..)?.first_chunk::<4>()?)))
}

/// The answer to a request, by the host with this Ethernet address.
pub(super) fn reply(own: Mac, request: &Request) -> Vec<u8> {
    frame(request.sender.0, REPLY, (own, request.target), request.sender)
}

/// Tells all neighbours who has an address now. A request: hosts take it where some take no reply that they did not ask
/// for (RFC 5227 §3).
pub(super) fn announcement(own: Mac, address: Ipv4Addr) -> Vec<u8> {
    frame([0xff; 6], REQUEST, (own, address), ([0; 6], address))
}

fn frame(to: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, sender.0, ETHERTYPE);
    frame.extend(FIXED);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = [2, 0, 0, 0, 0, 9];
    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
    const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    /// As a host sends it that looks for the VIP.
    fn asked() -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(CLIENT);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(CLIENT);
        frame.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 80]);
        frame
    }

    #[test]
    fn a_request_is_answered_to_its_sender() {
        let found = request(&asked()).expect("a request");
        assert_eq!(found, Request { sender: (CLIENT, CLIENT_IP), target: VIP });
        let expected = [
            &CLIENT[..],
            &OWN,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &OWN,
            &[192, 0, 2, 80],
            &CLIENT,
            &[192, 0, 2, 9],
        ];
        assert_eq!(reply(OWN, &found), expected.concat());
    }

    #[test]
    fn a_reply_an_announcement_and_a_frame_cut_short_ask_nothing() {
        let mut replies = asked();
        replies[21] = 2;
        assert_eq!(request(&replies), None);
        assert_eq!(request(&announcement(OWN, VIP)), None);
        assert!((0..asked().len()).all(|length| request(&asked()[..length]).is_none()));
    }

    #[test]
    fn an_announcement_goes_to_all_and_names_the_address_twice() {
        let expected = [
            &[0xff; 6][..],
            &OWN,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &OWN,
            &[192, 0, 2, 80],
            &[0; 6],
            &[192, 0, 2, 80],
        ];
        assert_eq!(announcement(OWN, VIP), expected.concat());
        assert_eq!(owner(&announcement(OWN, VIP)), Some((OWN, VIP)));
    }
}
