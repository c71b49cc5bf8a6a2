//! What the network interfaces are made of: what a diagnosis looks at and attaching does not. As in `netlink`,
//! answers are laid out as the kernel's headers `linux/rtnetlink.h` and `if_link.h` say.
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::netlink::{
    AttachedXdp, Attributes, IFINFO_BYTES, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_XDP,
    IFLA_XDP_ATTACHED, RTM_GETLINK, RTM_NEWLINK, attached_xdp, dump, text, u32_at, xdp_features,
};

/// An interface of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Kind of a virtual interface, for instance `veth`, `bond` or `vlan`.
    pub kind: Option<String>,
    /// Whether it is set up.
    pub is_up: bool,
    /// The largest packet that it sends, from the IP header on, bytes.
    pub mtu_bytes: u32,
    /// Index of the bond or bridge that it belongs to.
    pub master: Option<u32>,
    /// Index of the interface below, in this namespace: a VLAN's.
    pub lower: Option<u32>,
    /// The driver of the device behind it.
    pub driver: Option<String>,
    /// How a bond spreads its packets.
    pub bond: Option<Bond>,
    /// How an XDP program is attached, where one is.
    pub xdp: Option<AttachedXdp>,
    /// The kernel's ids of the XDP programs that are attached.
    pub xdp_programs: Vec<u32>,
    /// The driver's XDP features, bits of `linux/netdev.h`; `None` where it says none (before Linux 6.3).
    pub xdp_features: Option<u64>,
}

/// How a bond spreads its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bond {
    /// Number of the mode, as in `linux/if_bonding.h`.
    pub mode: u8,
    /// Number of the transmit hash policy.
    pub hash_policy: u8,
}

impl InterfaceFacts {
    /// `NETDEV_XDP_ACT_BASIC`: the driver runs XDP programs itself. `None` where it does not say.
    #[must_use]
    pub fn has_native_xdp(&self) -> Option<bool> {
        self.xdp_features.map(|bits| bits & 1 != 0)
    }
}

const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_XMIT_HASH_POLICY: u16 = 14;
/// `IFLA_XDP_PROG_ID` and, where programs are attached in several modes, those of each.
const IFLA_XDP_PROGRAMS: std::ops::RangeInclusive<u16> = 4..=7;

/// The interfaces, by index.
///
/// # Errors
/// Netlink does not answer.
pub fn interface_facts() -> io::Result<Vec<InterfaceFacts>> {
    let features = xdp_features();
    let mut all = Vec::new();
    for message in dump(None, RTM_GETLINK, &[0; IFINFO_BYTES])? {
        if message.kind == RTM_NEWLINK && message.payload.len() >= IFINFO_BYTES {
            all.push(facts(&message.payload, &features));
        }
    }
    all.sort_by_key(|interface: &InterfaceFacts| interface.index);
    Ok(all)
}

/// `struct ifinfomsg`, then attributes.
fn facts(payload: &[u8], features: &BTreeMap<u32, u64>) -> InterfaceFacts {
    let index = u32_at(payload, 4).unwrap_or(0);
    let mut found = InterfaceFacts {
        index,
        is_up: u32_at(payload, 8).unwrap_or(0) & IFF_UP != 0,
        xdp_features: features.get(&index).copied(),
        ..InterfaceFacts::default()
    };
    let (mut parent, mut bus, mut is_lower_elsewhere) = (None, None, false);
    for (kind, value) in Attributes(&payload[IFINFO_BYTES..]) {
        match kind {
            IFLA_IFNAME => found.name = text(value),
            IFLA_MTU => found.mtu_bytes = u32_at(value, 0).unwrap_or(0),
            IFLA_MASTER => found.master = u32_at(value, 0),
            IFLA_LINK => found.lower = u32_at(value, 0).filter(|lower| ![0, index].contains(lower)),
            IFLA_LINK_NETNSID => is_lower_elsewhere = true,
            IFLA_PARENT_DEV_NAME => parent = Some(text(value)),
            IFLA_PARENT_DEV_BUS_NAME => bus = Some(text(value)),
            IFLA_LINKINFO => take_kind(&mut found, value),
            IFLA_XDP => take_xdp(&mut found, value),
            _ => {}
        }
    }
    // The other end of a veth has a number of its own namespace.
    if is_lower_elsewhere || found.kind.as_deref() == Some("veth") {
        found.lower = None;
    }
    found.driver = parent.zip(bus).and_then(|(device, bus)| driver(&device, &bus));
    found
}

fn take_kind(found: &mut InterfaceFacts, nested: &[u8]) {
    let mut data: &[u8] = &[];
    for (kind, value) in Attributes(nested) {
        match kind {
            IFLA_INFO_KIND => found.kind = Some(text(value)),
            IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    if found.kind.as_deref() == Some("bond") {
        let byte =
            |wanted| Attributes(data).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| value.first());
        let mode = byte(IFLA_BOND_MODE).copied();
        let hash_policy = byte(IFLA_BOND_XMIT_HASH_POLICY).copied().unwrap_or(0);
        found.bond = mode.map(|mode| Bond { mode, hash_policy });
    }
}

fn take_xdp(found: &mut InterfaceFacts, nested: &[u8]) {
    for (kind, value) in Attributes(nested) {
        match kind {
            IFLA_XDP_ATTACHED => found.xdp = attached_xdp(value),
            kind if IFLA_XDP_PROGRAMS.contains(&kind) => {
                found.xdp_programs.extend(u32_at(value, 0).filter(|id| *id != 0));
            }
            _ => {}
        }
    }
    found.xdp_programs.sort_unstable();
    found.xdp_programs.dedup();
}

/// The driver's name, from sysfs: a device's place there depends on no network namespace.
fn driver(device: &str, bus: &str) -> Option<String> {
    let link = Path::new("/sys/bus").join(bus).join("devices").join(device).join("driver");
    Some(std::fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::netlink::put_attribute;

    /// What the kernel says of an up interface with index 7.
    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![0; IFINFO_BYTES];
        payload[4..8].copy_from_slice(&7u32.to_ne_bytes());
        payload[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        attributes.iter().for_each(|(kind, value)| put_attribute(&mut payload, *kind, value));
        payload
    }

    fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut value = Vec::new();
        attributes.iter().for_each(|(kind, inner)| put_attribute(&mut value, *kind, inner));
        value
    }

    #[test]
    fn a_bond_is_read_with_its_mode_and_programs() {
        let data = nested(&[(IFLA_BOND_MODE, &[4]), (IFLA_BOND_XMIT_HASH_POLICY, &[1])]);
        let info = nested(&[(IFLA_INFO_KIND, b"bond\0"), (IFLA_INFO_DATA, &data)]);
        let xdp = nested(&[(IFLA_XDP_ATTACHED, &[1]), (4, &9u32.to_ne_bytes()), (5, &9u32.to_ne_bytes())]);
        let payload = message(&[
            (IFLA_IFNAME, b"bond0\0"),
            (IFLA_MTU, &9000u32.to_ne_bytes()),
            (IFLA_LINKINFO, &info),
            (IFLA_XDP, &xdp),
        ]);
        let expected = InterfaceFacts {
            index: 7,
            name: "bond0".into(),
            kind: Some("bond".into()),
            is_up: true,
            mtu_bytes: 9_000,
            bond: Some(Bond { mode: 4, hash_policy: 1 }),
            xdp: Some(AttachedXdp::Native),
            xdp_programs: vec![9],
            xdp_features: Some(3),
            ..InterfaceFacts::default()
        };
        assert_eq!(facts(&payload, &BTreeMap::from([(7, 3)])), expected);
    }

    #[test]
    fn the_other_end_of_a_veth_is_not_below_it_but_a_vlans_device_is() {
        let of_kind = |kind: &[u8]| {
            let info = nested(&[(IFLA_INFO_KIND, kind)]);
            facts(&message(&[(IFLA_LINK, &2u32.to_ne_bytes()), (IFLA_LINKINFO, &info)]), &BTreeMap::new())
        };
        assert_eq!(of_kind(b"veth\0").lower, None);
        assert_eq!(of_kind(b"vlan\0").lower, Some(2));
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let found = interface_facts().unwrap();
        assert!(found.iter().any(|interface| interface.name == "lo" && interface.mtu_bytes > 0), "{found:?}");
    }
}
