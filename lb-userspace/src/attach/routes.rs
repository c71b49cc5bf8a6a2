//! Routes to VIPs in a table of their own, from which a routing daemon takes what it tells its neighbours. No packet follows
//! them: no rule names the table.
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::netlink::{self, Attributes, NLM_F_ACK, put_attribute, u32_at};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
/// struct rtmsg of linux/rtnetlink.h: family, lengths of both prefixes, TOS, table, protocol, scope, type; flags.
const RTMSG_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_TABLE: u16 = 15;
/// The table is in an attribute, where its number needs no byte only.
const TABLE_IN_ATTRIBUTE: u8 = 0;
/// A daemon takes it without an interface, and nobody would follow it.
const RTN_BLACKHOLE: u8 = 6;
/// `rtm_protocol` of ours, which is nobody's in iproute2's list.
const PROTOCOL: u8 = 0x70;
/// There is no such route.
const ESRCH: i32 = 3;

/// The routes of a table that are the agent's.
#[derive(Debug)]
pub struct RouteTable {
    table: u32,
    vips: BTreeSet<IpAddr>,
}

/// A VIP whose route could not be changed, and why.
pub type RouteFault = (IpAddr, io::Error);

impl RouteTable {
    /// A table, with the routes that a former agent made in it.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn find(table: u32) -> io::Result<Self> {
        let routes = routes()?.into_iter().filter(|(of, _)| *of == table);
        Ok(Self { table, vips: routes.map(|(_, vip)| vip).collect() })
    }

    /// Makes its routes lead to these VIPs and no others. What fails is tried again by the next call.
    pub fn set(&mut self, wanted: &BTreeSet<IpAddr>) -> Vec<RouteFault> {
        let mut faults = Vec::new();
        let gone: Vec<_> = self.vips.difference(wanted).copied().collect();
        let new: Vec<_> = wanted.difference(&self.vips).copied().collect();
        for vip in new {
            match change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, self.table, vip) {
                Ok(()) => drop(self.vips.insert(vip)),
                Err(error) => faults.push((vip, error)),
            }
        }
        for vip in gone {
            match change(RTM_DELROUTE, 0, self.table, vip) {
                Err(error) if error.raw_os_error() != Some(ESRCH) => faults.push((vip, error)),
                _ => drop(self.vips.remove(&vip)),
            }
        }
        faults
    }
}

/// Removes the agent's routes from all tables.
///
/// # Errors
/// The routes cannot be read, or one cannot be removed.
pub fn remove_routes() -> io::Result<()> {
    for (table, vip) in routes()? {
        match change(RTM_DELROUTE, 0, table, vip) {
            Err(error) if error.raw_os_error() != Some(ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn change(kind: u16, flags: u16, table: u32, vip: IpAddr) -> io::Result<()> {
    netlink::ask(None, kind, flags | NLM_F_ACK, &message(table, vip)).map(drop)
}

fn message(table: u32, vip: IpAddr) -> Vec<u8> {
    let (family, bits) = match vip {
        IpAddr::V4(_) => (rustix::net::AddressFamily::INET, 32),
        IpAddr::V6(_) => (rustix::net::AddressFamily::INET6, 128),
    };
    let mut request = vec![family.as_raw() as u8, bits, 0, 0, TABLE_IN_ATTRIBUTE, PROTOCOL, 0, RTN_BLACKHOLE];
    request.extend([0; 4]);
    match vip {
        IpAddr::V4(vip) => put_attribute(&mut request, RTA_DST, &vip.octets()),
        IpAddr::V6(vip) => put_attribute(&mut request, RTA_DST, &vip.octets()),
    }
    put_attribute(&mut request, RTA_TABLE, &table.to_ne_bytes());
    request
}

/// Tables and VIPs of all routes of the agent.
fn routes() -> io::Result<Vec<(u32, IpAddr)>> {
    let answers = netlink::dump(None, RTM_GETROUTE, &[0; RTMSG_BYTES])?;
    let ours = answers.iter().filter(|answer| answer.kind == RTM_NEWROUTE);
    Ok(ours.filter_map(|answer| route(&answer.payload)).collect())
}

/// The table and the VIP of a message, if it is about a route of the agent.
fn route(message: &[u8]) -> Option<(u32, IpAddr)> {
    let attributes = message.get(RTMSG_BYTES..)?;
    if message[5] != PROTOCOL || message[7] != RTN_BLACKHOLE {
        return None;
    }
    let of = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let table = of(RTA_TABLE).and_then(|value| u32_at(value, 0))?;
    let destination = of(RTA_DST)?;
    let vip = match destination.len() {
        4 => IpAddr::from(*destination.first_chunk::<4>()?),
        _ => IpAddr::from(*destination.first_chunk::<16>()?),
    };
    Some((table, vip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_known_by_its_protocol_and_type() {
        let ours = message(4_200, IpAddr::from([203, 0, 113, 8]));
        assert_eq!(route(&ours), Some((4_200, IpAddr::from([203, 0, 113, 8]))));
        let v6 = message(7, "2001:db8::8".parse().expect("an address"));
        assert_eq!(route(&v6), Some((7, "2001:db8::8".parse().expect("an address"))));
        for (at, value) in [(5, 2), (7, 1)] {
            let mut other = ours.clone();
            other[at] = value;
            assert_eq!(route(&other), None, "byte {at}");
        }
        assert_eq!(route(&ours[..RTMSG_BYTES]), None);
    }
}
