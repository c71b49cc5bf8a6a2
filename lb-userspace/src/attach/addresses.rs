//! Addresses that the agent gives the node: VIPs that the front-end serves are addresses of the loopback interface,
//! so that the network stack takes in what is sent to them, by whatever interface it comes.
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::netlink::{self, Attributes, NLM_F_ACK, put_attribute, u32_at};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REPLACE: u16 = 0x100;
/// struct ifaddrmsg of linux/if_addr.h: family, length of the prefix, flags, scope, interface.
const IFADDRMSG_BYTES: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// Who made the address; kernels before 5.18 keep nothing of it.
const IFA_PROTO: u16 = 11;
/// Duplicate address detection is for links with neighbours.
const IFA_F_NODAD: u32 = 0x02;
/// `IFA_PROTO` of ours. The kernel's own end at 3; by this one a later agent finds what a former one made.
const PROTOCOL: u8 = 0x70;
const LOOPBACK_INDEX: u32 = 1;
/// Seconds that a fleeting address outlives its agent: longer than the loop is busy as a rule.
const FLEETING_S: u32 = 4;
/// The kernel's word for ever.
const FOR_EVER_S: u32 = u32::MAX;

/// How long an address stays without its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Until it is taken away.
    Lasting,
    /// For some seconds after [`HostedAddresses::renew`]: another node has it when this one's agent is dead.
    Fleeting,
}

impl Life {
    const fn seconds(self) -> u32 {
        match self {
            Self::Lasting => FOR_EVER_S,
            Self::Fleeting => FLEETING_S,
        }
    }
}

/// The addresses of the loopback interface that are the agent's.
#[derive(Debug, Default)]
pub struct HostedAddresses(BTreeMap<IpAddr, Life>);

/// An address that could not be given or taken away, and why.
pub type AddressFault = (IpAddr, io::Error);

impl HostedAddresses {
    /// Those that a former agent made.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn find() -> io::Result<Self> {
        let answers = netlink::dump(None, RTM_GETADDR, &[0; IFADDRMSG_BYTES])?;
        let ours = answers.iter().filter(|answer| answer.kind == RTM_NEWADDR);
        Ok(Self(ours.filter_map(|answer| hosted(&answer.payload)).collect()))
    }

    /// Makes them these, and no others. What fails is tried again by the next call. An address that somebody else
    /// gave the loopback interface serves as well, and stays when it is not wanted any more.
    pub fn set(&mut self, wanted: &BTreeMap<IpAddr, Life>) -> Vec<AddressFault> {
        let mut faults = Vec::new();
        let gone: Vec<_> = self.0.keys().filter(|known| !wanted.contains_key(*known)).copied().collect();
        for (address, life) in wanted {
            let flags = match self.0.get(address) {
                Some(known) if known == life => continue,
                Some(_) => NLM_F_CREATE | NLM_F_REPLACE,
                None => NLM_F_CREATE | NLM_F_EXCL,
            };
            match change(RTM_NEWADDR, flags, *address, *life) {
                Ok(()) => drop(self.0.insert(*address, *life)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => faults.push((*address, error)),
            }
        }
        for address in gone {
            match change(RTM_DELADDR, 0, address, Life::Lasting) {
                Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => {
                    faults.push((address, error));
                }
                _ => drop(self.0.remove(&address)),
            }
        }
        faults
    }

    /// Lets fleeting addresses stay for some more seconds, and gives back those that are over. To be called every second.
    pub fn renew(&self) -> Vec<AddressFault> {
        let fleeting = self.0.iter().filter(|(_, life)| **life == Life::Fleeting);
        let renewed = fleeting.filter_map(|(address, life)| {
            let renewed = change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, *address, *life);
            renewed.err().map(|error| (*address, error))
        });
        renewed.collect()
    }
}

fn change(kind: u16, flags: u16, address: IpAddr, life: Life) -> io::Result<()> {
    let mut request = Vec::new();
    let (family, bits) = match address {
        IpAddr::V4(_) => (rustix::net::AddressFamily::INET, 32),
        IpAddr::V6(_) => (rustix::net::AddressFamily::INET6, 128),
    };
    // The scope is the widest: the address is one that others dial.
    request.extend([family.as_raw() as u8, bits, 0, 0]);
    request.extend(LOOPBACK_INDEX.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        match address {
            IpAddr::V4(address) => put_attribute(&mut request, attribute, &address.octets()),
            IpAddr::V6(address) => put_attribute(&mut request, attribute, &address.octets()),
        }
    }
    if kind == RTM_NEWADDR {
        put_attribute(&mut request, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        put_attribute(&mut request, IFA_PROTO, &[PROTOCOL]);
        // struct ifa_cacheinfo: preferred and valid for seconds; two times that the kernel keeps.
        let seconds = [life.seconds(), life.seconds(), 0, 0];
        let seconds: Vec<u8> = seconds.iter().flat_map(|word| word.to_ne_bytes()).collect();
        put_attribute(&mut request, IFA_CACHEINFO, &seconds);
    }
    netlink::ask(None, kind, flags | NLM_F_ACK, &request).map(drop)
}

/// The address of a message, if it is one of the agent's.
fn hosted(message: &[u8]) -> Option<(IpAddr, Life)> {
    let attributes = message.get(IFADDRMSG_BYTES..)?;
    if u32_at(message, 4) != Some(LOOPBACK_INDEX) {
        return None;
    }
    let of = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if of(IFA_PROTO) != Some(&[PROTOCOL]) {
        return None;
    }
    // IPv6 has no IFA_LOCAL where it has no peer.
    let address = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?;
    let valid_s = of(IFA_CACHEINFO).and_then(|value| u32_at(value, 4));
    let life =
        if valid_s.is_none_or(|seconds| seconds == FOR_EVER_S) { Life::Lasting } else { Life::Fleeting };
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        _ => IpAddr::from(*address.first_chunk::<16>()?),
    };
    Some((address, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, protocol: Option<u8>) -> Vec<u8> {
        let mut message = vec![2, 32, 0, 0];
        message.extend(index.to_ne_bytes());
        put_attribute(&mut message, IFA_LOCAL, &[192, 0, 2, 10]);
        if let Some(protocol) = protocol {
            put_attribute(&mut message, IFA_PROTO, &[protocol]);
        }
        message
    }

    #[test]
    fn only_what_an_agent_made_on_the_loopback_interface_is_hosted() {
        let vip = IpAddr::from([192, 0, 2, 10]);
        assert_eq!(hosted(&message(1, Some(0x70))), Some((vip, Life::Lasting)));
        let mut fleeting = message(1, Some(0x70));
        let seconds: Vec<u8> = [3u32, 3, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        put_attribute(&mut fleeting, IFA_CACHEINFO, &seconds);
        assert_eq!(hosted(&fleeting), Some((vip, Life::Fleeting)));
        assert_eq!(hosted(&message(2, Some(0x70))), None, "another interface");
        assert_eq!(hosted(&message(1, Some(3))), None, "made by the kernel");
        assert_eq!(hosted(&message(1, None)), None, "made by hand");
    }
}
