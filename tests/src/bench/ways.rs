//! The ways in which a node forwards, each on a node of its own.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use lb_common::interface::{self, Interface};
use lb_common::maps;
use crate::bench::services::{ENDPOINT_PORT, LOCAL, REMOTE_UDP, endpoint_address, other_service, tables};
use crate::bench::transit::Transit;
use crate::kernel::{Kernel, XDP};
use crate::kube_proxy::{iptables, nftables};
use crate::manifests::{Endpoint, Families, Service};
use crate::uplink::now_s;
use crate::world;
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

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody: the node discards what it gets, in XDP.
    Discard,
    /// An XDP program that looks nothing up.
    Redirect,
    /// The kernel, without any Service: the client dials the endpoint.
    Routing,
    /// Podway, to an endpoint on the node or on another one.
    Podway {
        /// Where it is attached.
        hook: Hook,
        /// Whether its endpoints are on the node.
        is_local: bool,
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

impl Way {
    /// As tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discard => "floor: XDP, discard",
            Self::Redirect => "floor: XDP, redirect",
            Self::Routing => "kernel routing, no Service",
            Self::Podway { hook: Hook::Native, is_local: false, .. } => "Podway, native XDP, to another node",
            Self::Podway { hook: Hook::Native, is_local: true, .. } => "Podway, native XDP, to a local pod",
            Self::Podway { hook: Hook::Generic, is_local: false, .. } => {
                "Podway, generic XDP, to another node"
            }
            Self::Podway { hook: Hook::Generic, is_local: true, .. } => "Podway, generic XDP, to a local pod",
            Self::Podway { hook: Hook::Tc, is_local: false, .. } => "Podway, tc, to another node",
            Self::Podway { hook: Hook::Tc, is_local: true, .. } => "Podway, tc, to a local pod",
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
        !matches!(self, Self::Discard | Self::Redirect | Self::Routing)
    }

    /// Where the client dials.
    #[must_use]
    pub fn destination(self) -> SocketAddr {
        match self {
            Self::Routing | Self::Discard | Self::Redirect => {
                (endpoint_address(REMOTE_UDP, 0, true), ENDPOINT_PORT).into()
            }
            Self::Podway { is_local: true, .. } => (world::VIP_V4, LOCAL).into(),
            _ => (world::VIP_V4, REMOTE_UDP).into(),
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
        let attached = match way {
            Way::Routing => Attached::Nothing,
            Way::Discard => floor(&transit, "sink")?,
            Way::Redirect => floor(&transit, "floor_redirect")?,
            Way::Podway { hook, services, .. } => podway(&transit, hook, services)?,
            Way::Nftables { services } => {
                nftables::load(transit.node(), &manifests(services).iter().collect::<Vec<_>>())?;
                Attached::Nothing
            }
            Way::Iptables { services } => {
                iptables::load(transit.node(), &manifests(services).iter().collect::<Vec<_>>())?;
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

fn podway(transit: &Transit, hook: Hook, services: u32) -> Result<Attached> {
    let mut kernel = Kernel::load(CONNTRACK_MAX)?;
    kernel.fill(&tables(now_s(), services))?;
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
                ebpf.program_mut("tc_uplink_in").context("no tc")?.try_into()?;
            program.attach("eth0", TcAttachType::Ingress).context("cannot attach to tc")?;
            return Ok(());
        }
    };
    let program: &mut Xdp = ebpf.program_mut(XDP).context("no XDP")?.try_into()?;
    program.attach("eth0", mode).context("cannot attach XDP")?;
    Ok(())
}

/// Where all endpoints are.
const OTHER_NODE: &str = "another";

/// The same Services as kube-proxy sees them.
fn manifests(services: u32) -> Vec<Service> {
    let on = |vip: IpAddr, port: u16, protocol| {
        let mut service = Service::new("dialled", 1).port("main", protocol, port, ENDPOINT_PORT);
        service.families = Families::V4;
        service.cluster_ips[0] = vip;
        service
    };
    let mut first = on(world::VIP_V4, REMOTE_UDP, Protocol::Udp);
    let endpoint = |index| {
        let addresses = [endpoint_address(REMOTE_UDP, index, true), world::NODE_V6];
        Endpoint::ready(&format!("dialled-{index}"), OTHER_NODE, addresses)
    };
    first.endpoints = (0..ENDPOINTS).map(endpoint).collect();
    let like = on(world::VIP_V4, 80, Protocol::Tcp);
    let others = (0..services - 1).map(|number| other_service(&like, number, OTHER_NODE));
    // In the iptables mode a new flow meets the rules of all others first: the worst place, as the best one
    // would be that of a cluster with one Service.
    others.chain([first]).collect()
}
