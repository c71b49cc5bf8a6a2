//! The ways in which a node forwards, each on a node of its own.
use std::net::{IpAddr, SocketAddr};

use crate::bench::services::{
    DSR, ENDPOINT_PORT, LOCAL, REMOTE_UDP, endpoint_address, other_service, tables,
};
use crate::bench::transit::Transit;
use crate::kernel::{Kernel, XDP};
use crate::kube_proxy::{iptables, nftables};
use crate::manifests::{Endpoint, Families, Service};
use crate::uplink::now_s;
use crate::world;
use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::tc::qdisc_add_clsact;
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use lb_common::interface::{self, Interface};
use lb_common::maps;
use lb_ebpf::parse::Family;
use lb_userspace::model::Protocol;

/// Entries of CONNTRACK, more than all flows of a round.
const CONNTRACK_MAX: u32 = 1 << 18;
/// Endpoints of the Service that is dialled.
const ENDPOINTS: u32 = 10;

/// Where Podway's program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver.
    Native,
    /// XDP behind the driver.
    Generic,
    /// tc ingress.
    Tc,
}

impl Hook {
    const fn program(self) -> &'static str {
        match self {
            Self::Native | Self::Generic => XDP,
            Self::Tc => "tc_uplink_in",
        }
    }
}

/// Where Podway's endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node, to whose network stack packets are left.
    Here,
    /// On this node; packets are handed to their interface (`--local-delivery direct`), which tc can do.
    HereHandedOver,
    /// On another node; replies pass this one.
    Elsewhere,
    /// On another node, which answers the client itself.
    ElsewhereDirect,
}

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Nobody: the node discards what it gets, in XDP.
    Discard,
    /// An XDP program that looks nothing up.
    Redirect,
    /// The kernel, without any Service: the client dials the endpoint.
    Routing,
    /// Podway.
    Podway {
        /// Where it is attached.
        hook: Hook,
        /// Where its endpoints are.
        place: Place,
        /// How many Services there are.
        services: u32,
    },
    /// Rules of kube-proxy's nftables mode.
    Nftables {
        /// How many Services there are.
        services: u32,
    },
    /// Rules of kube-proxy's iptables mode.
    Iptables {
        /// How many Services there are.
        services: u32,
    },
}

/// Who forwards what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The packets' family.
    pub family: Family,
    /// Who forwards them.
    pub by: By,
}

impl By {
    /// Over IPv4.
    #[must_use]
    pub const fn v4(self) -> Way {
        Way { family: Family::V4, by: self }
    }

    /// Over IPv6.
    #[must_use]
    pub const fn v6(self) -> Way {
        Way { family: Family::V6, by: self }
    }

    /// As tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discard => "floor: XDP, discard",
            Self::Redirect => "floor: XDP, redirect",
            Self::Routing => "kernel routing, no Service",
            Self::Podway { hook, place, .. } => match (hook, place) {
                (Hook::Native, Place::Elsewhere) => "Podway, native XDP, to another node",
                (Hook::Native, Place::ElsewhereDirect) => "Podway, native XDP, direct server return",
                (Hook::Native, Place::Here) => "Podway, native XDP, to a local pod",
                (Hook::Native, Place::HereHandedOver) => "Podway, native XDP, handed to a local pod",
                (Hook::Generic, Place::Elsewhere) => "Podway, generic XDP, to another node",
                (Hook::Generic, Place::ElsewhereDirect) => "Podway, generic XDP, direct server return",
                (Hook::Generic, Place::Here) => "Podway, generic XDP, to a local pod",
                (Hook::Generic, Place::HereHandedOver) => "Podway, generic XDP, handed to a local pod",
                (Hook::Tc, Place::Elsewhere) => "Podway, tc, to another node",
                (Hook::Tc, Place::ElsewhereDirect) => "Podway, tc, direct server return",
                (Hook::Tc, Place::Here) => "Podway, tc, to a local pod",
                (Hook::Tc, Place::HereHandedOver) => "Podway, tc, handed to a local pod",
            },
            Self::Nftables { .. } => "kube-proxy rules, nftables",
            Self::Iptables { .. } => "kube-proxy rules, iptables",
        }
    }

    /// How many Services there are.
    #[must_use]
    pub const fn services(self) -> Option<u32> {
        match self {
            Self::Discard | Self::Redirect | Self::Routing => None,
            Self::Podway { services, .. } | Self::Nftables { services } | Self::Iptables { services } => {
                Some(services)
            }
        }
    }

    /// Whether a new flow means anything to it.
    #[must_use]
    pub const fn has_flows(self) -> bool {
        self.services().is_some()
    }
}

impl Way {
    /// The family's name.
    #[must_use]
    pub const fn family_name(self) -> &'static str {
        match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Where the client dials.
    #[must_use]
    pub fn destination(self) -> SocketAddr {
        let is_v4 = self.family == Family::V4;
        let vip = if is_v4 { world::VIP_V4 } else { world::VIP_V6 };
        match self.by {
            By::Routing | By::Discard | By::Redirect => {
                (endpoint_address(REMOTE_UDP, 0, is_v4), ENDPOINT_PORT).into()
            }
            By::Podway { place: Place::Here | Place::HereHandedOver, .. } => (vip, LOCAL).into(),
            By::Podway { place: Place::ElsewhereDirect, .. } => (vip, DSR).into(),
            _ => (vip, REMOTE_UDP).into(),
        }
    }
}

/// A node that forwards in one way.
pub struct Forwarder {
    /// In which way.
    pub way: Way,
    /// What is attached; dropped before the namespaces.
    attached: Attached,
    /// The node and its cables.
    pub transit: Transit,
}

enum Attached {
    /// Nothing: the kernel does it by itself.
    Nothing,
    /// A floor program, which stays attached while it is here.
    Floor {
        _program: Ebpf,
    },
    Podway(Box<Kernel>),
}

impl Forwarder {
    /// Makes the node and what forwards on it.
    ///
    /// # Errors
    /// Something cannot be set up.
    pub fn start(way: Way) -> Result<Self> {
        let transit = Transit::new()?;
        let attached = match way.by {
            By::Routing => Attached::Nothing,
            By::Discard => floor(&transit, "sink")?,
            By::Redirect => floor(&transit, "floor_redirect")?,
            By::Podway { hook, place, services } => podway(&transit, hook, place, services)?,
            By::Nftables { services } => {
                let manifests = manifests(way.family, services);
                nftables::load(transit.node(), &manifests.iter().collect::<Vec<_>>())?;
                Attached::Nothing
            }
            By::Iptables { services } => {
                let manifests = manifests(way.family, services);
                iptables::load(transit.node(), &manifests.iter().collect::<Vec<_>>())?;
                Attached::Nothing
            }
        };
        Ok(Self { way, attached, transit })
    }

    /// Makes room for as many new flows as before. The kernel's own table is large enough for all of them.
    ///
    /// # Errors
    /// The kernel makes no new table.
    pub fn forget_flows(&mut self) -> Result<()> {
        match &mut self.attached {
            Attached::Podway(kernel) => kernel.forget_flows(CONNTRACK_MAX),
            Attached::Nothing | Attached::Floor { .. } => Ok(()),
        }
    }

    /// What Podway has counted, for a figure that cannot be right.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn counts(&self) -> Result<String> {
        let Attached::Podway(kernel) = &self.attached else { return Ok(String::new()) };
        let mut text = String::new();
        for reason in lb_common::counters::Reason::ALL {
            let count = kernel.count_of(reason)?;
            if count > 0 {
                text += &format!(" {}={count}", reason.name());
            }
        }
        Ok(text)
    }
}

fn floor(transit: &Transit, name: &str) -> Result<Attached> {
    let mut ebpf = transit.floor()?;
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no {name}"))?.try_into()?;
    program.load()?;
    let attach = || program.attach("eth0", XdpMode::Driver).context("cannot attach a floor program");
    transit.node().host().run_in_netns(attach)??;
    Ok(Attached::Floor { _program: ebpf })
}

fn podway(transit: &Transit, hook: Hook, place: Place, services: u32) -> Result<Attached> {
    let mut kernel = Kernel::load_only(&[hook.program()], CONNTRACK_MAX)?;
    let mut tables = tables(now_s(), services);
    if let (Place::HereHandedOver, Some(config)) = (place, &mut tables.config) {
        config.flags |= lb_common::config::flags::DELIVER_DIRECTLY;
    }
    kernel.fill(&tables)?;
    for interface in transit.node_interfaces()? {
        let entry = Interface { flags: interface::flags::UPLINK | interface::flags::XDP_TRANSMIT };
        kernel.put_hash::<4, 4>(maps::INTERFACES, &interface, &entry)?;
    }
    transit.node().host().run_in_netns(|| attach(&mut kernel, hook))??;
    Ok(Attached::Podway(Box::new(kernel)))
}

fn attach(kernel: &mut Kernel, hook: Hook) -> Result<()> {
    let ebpf = kernel.ebpf_mut();
    let mode = match hook {
        Hook::Native => XdpMode::Driver,
        Hook::Generic => XdpMode::Skb,
        Hook::Tc => {
            let program: &mut SchedClassifier =
                ebpf.program_mut(hook.program()).context("no tc")?.try_into()?;
            let attached = program.attach("eth0", TcAttachType::Ingress).or_else(|_| {
                // Before Linux 6.6 it is a filter of this qdisc.
                qdisc_add_clsact("eth0")?;
                program.attach("eth0", TcAttachType::Ingress)
            });
            attached.context("cannot attach to tc")?;
            return Ok(());
        }
    };
    let program: &mut Xdp = ebpf.program_mut(hook.program()).context("no XDP")?.try_into()?;
    program.attach("eth0", mode).context("cannot attach XDP")?;
    Ok(())
}

/// Where all endpoints are.
const OTHER_NODE: &str = "another";

/// The same Services as kube-proxy sees them, in one family.
fn manifests(family: Family, services: u32) -> Vec<Service> {
    let is_v4 = family == Family::V4;
    let on = |[v4, v6]: [IpAddr; 2], port: u16, protocol| {
        let mut service = Service::new("dialled", 1).port("main", protocol, port, ENDPOINT_PORT);
        service.families = if is_v4 { Families::V4 } else { Families::V6 };
        service.cluster_ips = [v4, v6];
        service
    };
    let vips = [world::VIP_V4, world::VIP_V6];
    let mut first = on(vips, REMOTE_UDP, Protocol::Udp);
    let endpoint = |index| {
        let addresses = [true, false].map(|is_v4| endpoint_address(REMOTE_UDP, index, is_v4));
        Endpoint::ready(&format!("dialled-{index}"), OTHER_NODE, addresses)
    };
    first.endpoints = (0..ENDPOINTS).map(endpoint).collect();
    let like = on(vips, 80, Protocol::Tcp);
    let others = (0..services - 1).map(|number| other_service(&like, number, OTHER_NODE));
    // In the iptables mode a new flow meets the rules of all others first: the worst place, as the best one
    // would be that of a cluster with one Service.
    others.chain([first]).collect()
}
