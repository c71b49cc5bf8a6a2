//! Load-balancer addresses: the pools that they come from, and what a Service asks of them.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `spec.loadBalancerClass` of the Services that get addresses of a pool, beside those without a class.
pub const LOAD_BALANCER_CLASS: &str = "podway.io/lb";

/// Addresses of one family from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// The address after one of it; `None` after the last.
    #[must_use]
    pub fn after(&self, address: IpAddr) -> Option<IpAddr> {
        let next = match address {
            IpAddr::V4(address) => u32::from(address).checked_add(1).map(|bits| Ipv4Addr::from(bits).into()),
            IpAddr::V6(address) => u128::from(address).checked_add(1).map(|bits| Ipv6Addr::from(bits).into()),
        };
        next.filter(|next: &IpAddr| *next <= self.last)
    }
}

/// A prefix, `FIRST-LAST`, or a single address.
impl std::str::FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "{text:?} is no range of addresses; write for instance 192.0.2.0/28 or 192.0.2.10-192.0.2.20"
            )
        };
        let range = match (text.split_once('/'), text.split_once('-')) {
            (Some((address, bits)), _) => of_prefix(address.trim(), bits.trim()),
            (None, Some((first, last))) => both(first.trim(), last.trim()),
            (None, None) => both(text.trim(), text.trim()),
        };
        let range = range.ok_or_else(wanted)?;
        let is_unusable =
            |address: IpAddr| address.is_loopback() || address.is_multicast() || address.is_unspecified();
        if is_unusable(range.first) || is_unusable(range.last) {
            return Err(format!("{text:?} has addresses that no client can dial; give others"));
        }
        Ok(range)
    }
}

fn both(first: &str, last: &str) -> Option<AddressRange> {
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(AddressRange { first, last })
}

fn of_prefix(address: &str, bits: &str) -> Option<AddressRange> {
    let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
    let (first, last): (IpAddr, IpAddr) = match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(bits).unwrap_or(0);
            let network = u32::from(address) & !host;
            (bits <= 32).then_some((Ipv4Addr::from(network).into(), Ipv4Addr::from(network | host).into()))?
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(bits).unwrap_or(0);
            let network = u128::from(address) & !host;
            (bits <= 128)
                .then_some((Ipv6Addr::from(network).into(), Ipv6Addr::from(network | host).into()))?
        }
    };
    Some(AddressRange { first, last })
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A `LoadBalancerPool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerPool {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `spec.addresses`, in their order.
    pub ranges: Vec<AddressRange>,
    /// `spec.serviceSelector` as kubectl writes one: the Services that it is for. Without one it is for all, and for
    /// Ingresses.
    pub service_selector: Option<Arc<str>>,
    /// `spec.autoAssign`: whether an object that asks for no address gets one of it.
    pub is_auto_assigned: bool,
}

/// What a Service of type LoadBalancer asks for, where its class leaves it to Podway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerRequest {
    /// `spec.loadBalancerIP` or the annotation `podway.io/load-balancer-ips`.
    pub wanted: Vec<IpAddr>,
    /// Annotation `podway.io/allow-shared-ip`.
    pub sharing_key: Option<Arc<str>>,
}

/// Whose load balancer a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balancer {
    /// None: it is of another type.
    #[default]
    None,
    /// Podway's.
    Podway(BalancerRequest),
    /// Another one: by its class, or since its status has an entry that Podway never writes (a host name, an address
    /// with `ipMode: Proxy`).
    Other,
}

impl Balancer {
    /// What is asked of Podway.
    #[must_use]
    pub const fn request(&self) -> Option<&BalancerRequest> {
        match self {
            Self::Podway(request) => Some(request),
            Self::None | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<String, String> {
        text.parse::<AddressRange>().map(|range| range.to_string())
    }

    #[test]
    fn a_range_is_a_prefix_two_ends_or_one_address() {
        assert_eq!(range("192.0.2.9/30"), Ok("192.0.2.8-192.0.2.11".into()));
        assert_eq!(range("192.0.2.9 - 192.0.2.20"), Ok("192.0.2.9-192.0.2.20".into()));
        assert_eq!(range("2001:db8::10"), Ok("2001:db8::10-2001:db8::10".into()));
        assert_eq!(range("2001:db8::/126"), Ok("2001:db8::-2001:db8::3".into()));
        assert_eq!(range("2001:db8::1/128"), Ok("2001:db8::1-2001:db8::1".into()));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "192.0.2.0/33", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "x/24", "0.0.0.0/0"]
        {
            assert!(range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_follow_each_other_up_to_the_last() {
        let range: AddressRange = "192.0.2.254-192.0.3.0".parse().expect("a range");
        let mut found = vec![range.first];
        while let Some(next) = range.after(found[found.len() - 1]) {
            found.push(next);
        }
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.254", "192.0.2.255", "192.0.3.0"]
        );
        assert!(range.contains(found[1]) && !range.contains("192.0.3.1".parse().expect("an address")));
        assert!(!range.contains("2001:db8::1".parse().expect("an address")));
    }
}
