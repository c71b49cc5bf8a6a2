//! The kernel's programs beside the host's tables: fresh maps in a namespace whose uplink has an XDP
//! program and a next hop with a known Ethernet address.
use anyhow::{Context as _, Result};
use aya::programs::{Xdp, XdpMode};
use lb_common::fragment::HeldFrame;
use lb_common::interface::{self, Interface};
use lb_common::maps;
use lb_ebpf::host::HostTables;
use lb_ebpf::verdict::Verdict;
use rustix::time::{ClockId, clock_gettime};

use crate::footprint::Footprint;
use crate::kernel::{Kernel, XDP};
use crate::netns::{self, Namespace};
use crate::world;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
/// `TC_ACT_UNSPEC`: on to the next program.
pub const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// The uplink's MTU, a veth's default.
pub const UPLINK_MTU_BYTES: u16 = 1_500;

/// A namespace whose uplink has an XDP program and a next hop with a known Ethernet address.
struct Bench {
    namespace: Namespace,
    _footprint: Footprint,
}

impl Bench {
    fn new() -> Self {
        let footprint = Footprint::new().unwrap();
        let name = footprint.namespace("path");
        netns::ip_batch(&[], &format!("netns add {name}\n")).unwrap();
        let namespace = Namespace::open(&name).unwrap();
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        let (own, next) = (mac(world::UPLINK_MAC), mac(world::NEXT_HOP_MAC));
        let commands = format!(
            "link set lo up\n\
             link add eth0 address {own} type veth peer name eth1\n\
             addr add 192.0.2.11/24 dev eth0\n\
             link set eth0 up\nlink set eth1 up\n\
             addr add 2001:db8:0:1::11/64 dev eth0 nodad\n\
             neigh add 192.0.2.1 lladdr {next} dev eth0 nud permanent\n\
             neigh add 2001:db8:0:1::1 lladdr {next} dev eth0 nud permanent\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:0:1::1\n"
        );
        namespace.ip_batch(&commands).unwrap();
        namespace.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        Self { namespace, _footprint: footprint }
    }
}

fn interface_index(name: &str) -> u32 {
    let family = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None).unwrap();
    rustix::net::netdevice::name_to_index(&socket, name).unwrap()
}

/// Seconds of the programs' clock.
///
/// # Panics
/// The clock is beyond 32 bits.
#[must_use]
pub fn now_s() -> u32 {
    u32::try_from(clock_gettime(ClockId::MonotonicCoarse).tv_sec).unwrap()
}

fn host_tables(uplink: u32) -> HostTables {
    let mtu_bytes = Some(UPLINK_MTU_BYTES);
    // Each record has a header of eight bytes, and the last byte of the ring stays free (`bpf_ringbuf.rst`).
    let held_max = Some((maps::HELD_FRAMES_BYTES as usize - 1) / (size_of::<HeldFrame>() + 8));
    HostTables { default_route: Some(world::route(uplink)), mtu_bytes, held_max, ..world::tables(now_s()) }
}

/// What the XDP program returns for a verdict, where every way leads back by its own interface.
#[must_use]
pub fn xdp_code(verdict: &Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => XDP_PASS,
        Verdict::Drop(_) | Verdict::Hold(_) | Verdict::ToNeighbour { .. } | Verdict::ToSelf(_) => XDP_DROP,
        Verdict::Answer(_) | Verdict::ToLink { .. } => XDP_TX,
    }
}

/// What a tc program returns for a verdict.
#[must_use]
pub fn tc_code(verdict: &Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => TC_NEXT,
        Verdict::Drop(_) | Verdict::Hold(_) => TC_SHOT,
        Verdict::Answer(_) | Verdict::ToSelf(_) | Verdict::ToLink { .. } | Verdict::ToNeighbour { .. } => {
            TC_REDIRECT
        }
    }
}

/// Fresh programs and maps in a fresh namespace, host tables that say the same, and the uplink's index.
///
/// # Panics
/// Something cannot be set up; or `work` panics.
pub fn with_both(work: impl FnOnce(&mut Kernel, &mut HostTables, u32) + Send) {
    with_uplink(|uplink| {
        let mut kernel = Kernel::load(1 << 16).unwrap();
        let mut tables = host_tables(uplink);
        fill_at(&mut kernel, &tables, uplink).unwrap();
        attach(&mut kernel).unwrap();
        work(&mut kernel, &mut tables, uplink);
    });
}

/// Runs `work` in a fresh namespace with an uplink, whose index it gets; kernels that are made there can be
/// [filled](fill_at) for it.
///
/// # Panics
/// The namespace cannot be set up; or `work` panics.
pub fn with_uplink<T: Send>(work: impl FnOnce(u32) -> T + Send) -> T {
    let bench = Bench::new();
    bench.namespace.run(|| work(interface_index("eth0"))).unwrap()
}

/// Writes tables, and the uplink, into a kernel's maps.
///
/// # Errors
/// A map that refuses an entry.
pub fn fill_at(kernel: &mut Kernel, tables: &HostTables, uplink: u32) -> Result<()> {
    kernel.fill(tables)?;
    let entry = Interface { flags: interface::flags::UPLINK | interface::flags::XDP_TRANSMIT };
    kernel.put_hash::<4, 4>(maps::INTERFACES, &uplink, &entry)
}

/// Attaches a kernel's XDP program to the uplink: a test run takes an interface only with a registered
/// receive queue, one with XDP.
///
/// # Errors
/// The uplink has one already.
pub fn attach(kernel: &mut Kernel) -> Result<()> {
    let xdp: &mut Xdp = kernel.ebpf_mut().program_mut(XDP).context("no program")?.try_into()?;
    xdp.attach("eth0", XdpMode::Driver).context("cannot attach to the uplink")?;
    Ok(())
}
