//! A node between two cables, for traffic that passes it as fast as it can:
//!
//! ```text
//!     client eth0 ──────── eth0 node eth1 ──────── eth0 far
//!     192.0.2.100     192.0.2.11  203.0.113.11     203.0.113.2
//!     2001:db8:0:1::100    ::11   2001:db8:113::11   ::2
//! ```
//!
//! The node leads every endpoint to the far end, and knows both neighbours. Frames are made at
//! the client's end by XDP and counted and discarded by XDP at the far one, and at the client's if they
//! come back.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::bench::{DATAGRAM_BYTES, DATAGRAM_V6_BYTES};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::cpu::{self, KernelThreads};
use crate::footprint::Footprint;
use crate::kernel::bench_object;
use crate::netns::{self, Namespace};
use crate::packet::PacketBuilder;
use crate::pktgen::{self, Load, Mode};
use crate::topology::Node;
use crate::wait::wait_until;
use crate::wiring;

/// What the client sends from; flows beyond the first address's go on from there.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// The same over IPv6.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x128, 0, 0, 0, 0, 0);

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NODE_FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x12];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Frames that the kernel makes at a time.
const BATCH: u32 = 64;
/// How long frames may take to arrive after the last one was sent; those that did not are lost.
const ARRIVAL: Duration = Duration::from_secs(1);

/// The three namespaces. Dropping it removes them.
pub struct Transit {
    client: Namespace,
    node: Node,
    /// At the far end, and at the client's.
    sinks: [Ebpf; 2],
    _footprint: Footprint,
}

/// What became of some frames.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// How many were sent.
    pub sent: u32,
    /// How many arrived at the far end.
    pub arrived: u64,
    /// CPU time of all that was done about them, ns.
    pub cpu_ns: u64,
    /// From the first to the last one's end.
    pub wall: Duration,
}

impl Transit {
    /// Makes it.
    ///
    /// # Errors
    /// Not root; no iproute2 or ethtool; no bench object.
    pub fn new() -> Result<Self> {
        let footprint = Footprint::new()?;
        let hosts = ["client", "node", "far"];
        let names = hosts.map(|host| footprint.namespace(host));
        netns::ip_batch(&[], &names.iter().map(|name| format!("netns add {name}\n")).collect::<String>())?;
        let node = Node::alone(&footprint, "node", 11)?;
        let [client, far] = [&names[0], &names[2]].map(|name| Namespace::open(name));
        let (client, far) = (client?, far?);
        connect(&client, node.host().namespace(), &far)?;
        let sinks = [sink(&far)?, sink(&client)?];
        Ok(Self { client, node, sinks, _footprint: footprint })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The indices of the node's interfaces, the client's first.
    ///
    /// # Errors
    /// They are gone.
    pub fn node_interfaces(&self) -> Result<[u32; 2]> {
        self.node.host().run_in_netns(|| Ok([index("eth0")?, index("eth1")?]))?
    }

    /// The object of the floor programs, for frames that leave the node for the far end: `floor_redirect`,
    /// and `sink`, which forwards nothing.
    ///
    /// # Errors
    /// There is no such object.
    pub fn floor(&self) -> Result<Ebpf> {
        let out = self.node_interfaces()?[1];
        let mut ebpf = EbpfLoader::new().override_global("OUT", &out, true).load(&bench_object()?)?;
        let mut link: [u8; 12] = [0; 12];
        link[..6].copy_from_slice(&FAR_MAC);
        link[6..].copy_from_slice(&NODE_FAR_MAC);
        let mut map: Array<&mut MapData, [u8; 12]> =
            Array::try_from(ebpf.map_mut("LINK").context("no LINK")?)?;
        map.set(0, link, 0)?;
        Ok(ebpf)
    }

    /// Makes a generator at the client of datagrams to `to`, of `flows` flows from the `first`.
    ///
    /// # Errors
    /// There is no bench object.
    pub fn generator(&self, to: SocketAddr, flows: u32, first: u32) -> Result<Generator> {
        let out = self.client.run(|| index("eth0"))??;
        let mut ebpf = EbpfLoader::new()
            .override_global("OUT", &out, true)
            .override_global("TRAFFIC_FLOWS", &flows, true)
            .load(&bench_object()?)?;
        let datagram = datagram(to);
        match to {
            SocketAddr::V4(_) => set_template::<DATAGRAM_BYTES>(&mut ebpf, "DATAGRAM", &datagram)?,
            SocketAddr::V6(_) => set_template::<DATAGRAM_V6_BYTES>(&mut ebpf, "DATAGRAM_V6", &datagram)?,
        }
        let mut next: Array<&mut MapData, u32> = Array::try_from(ebpf.map_mut("NEXT").context("no NEXT")?)?;
        next.set(0, first, 0)?;
        let program = if to.is_ipv4() { "generate" } else { "generate_v6" };
        xdp(&mut ebpf, program)?.load()?;
        Ok(Generator { ebpf, program, datagram })
    }

    /// Sends `count` frames and waits for them.
    ///
    /// # Errors
    /// The kernel refuses live frames.
    pub fn send(&self, generator: &Generator, count: u32) -> Result<Sent> {
        let program = generator.program()?;
        let before = arrived(&self.sinks[0])?;
        let soft_interrupts = KernelThreads::find(None)?;
        self.client.run(|| {
            cpu::pin()?;
            let started = Instant::now();
            let (thread_ns, soft_ns) = (cpu::thread_ns(), soft_interrupts.ns()?);
            program.test_run(TestRunOptions {
                data_in: Some(&generator.datagram),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })?;
            let thread_ns = cpu::thread_ns() - thread_ns;
            let wall = started.elapsed();
            self.wait_for(before, count.into());
            let cpu_ns = thread_ns + soft_interrupts.ns()? - soft_ns;
            Ok(Sent { sent: count, arrived: arrived(&self.sinks[0])? - before, cpu_ns, wall })
        })?
    }

    /// Sends `count` frames of the kernel's own generator to `to` and waits for them: of so many ports of the client
    /// with a number, each of which has its own.
    ///
    /// # Errors
    /// The generator refuses it.
    pub fn send_by_pktgen(
        &self,
        mode: Mode,
        to: SocketAddr,
        client: u32,
        ports: u16,
        count: u32,
    ) -> Result<Sent> {
        let cpu = cpu::measured()?;
        let (from, frame_bytes): (IpAddr, u32) = match to {
            SocketAddr::V4(_) => (Ipv4Addr::from(u32::from(CLIENT) + client).into(), 60),
            SocketAddr::V6(_) => (Ipv6Addr::from(u128::from(CLIENT_V6) + u128::from(client)).into(), 78),
        };
        let namespace = match mode {
            Mode::NetifReceive => self.node.host().namespace(),
            Mode::Xmit => &self.client,
        };
        let load = Load {
            mode,
            interface: "eth0",
            cpu,
            packets: count.into(),
            frame_bytes,
            from: SocketAddr::new(from, lb_common::bench::PORT_FIRST),
            flows: ports,
            to,
            next_hop: &mac(NODE_MAC),
        };
        let before = arrived(&self.sinks[0])?;
        let threads = KernelThreads::find(Some(&pktgen::thread(cpu)))?;
        let ns = threads.ns()?;
        let sent = pktgen::send(namespace, &load)?;
        self.wait_for(before, sent.packets);
        Ok(Sent {
            sent: u32::try_from(sent.packets)?,
            arrived: arrived(&self.sinks[0])? - before,
            cpu_ns: threads.ns()? - ns,
            wall: Duration::from_micros(sent.duration_us),
        })
    }

    /// Waits until so many more than before have arrived. Those that do not are lost, which the caller sees.
    fn wait_for(&self, before: u64, count: u64) {
        let all = || arrived(&self.sinks[0]).is_ok_and(|now| now - before >= count);
        let _ = wait_until(ARRIVAL, "every frame", all);
    }

    /// Frames that came back to the client so far.
    ///
    /// # Errors
    /// The count cannot be read.
    pub fn came_back(&self) -> Result<u64> {
        arrived(&self.sinks[1])
    }
}

/// Makes frames of one kind.
pub struct Generator {
    ebpf: Ebpf,
    program: &'static str,
    datagram: Vec<u8>,
}

impl Generator {
    /// Makes the next flow's frame without sending it.
    ///
    /// # Errors
    /// The kernel refuses the test run.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut frame = vec![0; self.datagram.len()];
        self.program()?.test_run(TestRunOptions {
            data_in: Some(&self.datagram),
            data_out: Some(&mut frame),
            ..TestRunOptions::default()
        })?;
        Ok(frame)
    }

    fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(self.program).context("no such generator")?.try_into()?)
    }
}

/// The first flow's frame, as the client sends it to the node.
fn datagram(to: SocketAddr) -> Vec<u8> {
    let from = |client: IpAddr| SocketAddr::new(client, lb_common::bench::PORT_FIRST);
    let packet = match to {
        SocketAddr::V4(_) => PacketBuilder::udp(from(CLIENT.into()), to)
            .payload(&[0; DATAGRAM_BYTES - 42])
            .without_udp_checksum(),
        SocketAddr::V6(_) => {
            PacketBuilder::udp(from(CLIENT_V6.into()), to).payload(&[0; DATAGRAM_V6_BYTES - 62])
        }
    };
    let mut datagram = packet.build();
    datagram[..6].copy_from_slice(&NODE_MAC);
    datagram[6..12].copy_from_slice(&CLIENT_MAC);
    datagram
}

fn set_template<const LENGTH: usize>(ebpf: &mut Ebpf, map: &str, datagram: &[u8]) -> Result<()> {
    let datagram: [u8; LENGTH] = datagram.try_into().context("a datagram has its length")?;
    let map = ebpf.map_mut(map).with_context(|| format!("no {map}"))?;
    let mut template: Array<&mut MapData, [u8; LENGTH]> = Array::try_from(map)?;
    Ok(template.set(0, datagram, 0)?)
}

/// What its `sink` program has counted.
fn arrived(ebpf: &Ebpf) -> Result<u64> {
    let counts = ebpf.map("ARRIVED").context("no ARRIVED")?;
    let counts: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(counts)?;
    Ok(counts.get(&0, 0)?.iter().sum())
}

fn sink(namespace: &Namespace) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&bench_object()?)?;
    xdp(&mut ebpf, "sink")?.load()?;
    namespace.run(|| xdp(&mut ebpf, "sink")?.attach("eth0", XdpMode::Driver).context("cannot attach"))??;
    Ok(ebpf)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no {name}"))?.try_into()?)
}

fn index(interface: &str) -> Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    name_to_index(&socket, interface).with_context(|| format!("no interface {interface}"))
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn connect(client: &Namespace, node: &Namespace, far: &Namespace) -> Result<()> {
    for namespace in [client, node, far] {
        namespace.set_sysctls(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])?;
    }
    node.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for end in [client, far] {
        // Their frames are those of XDP alone.
        end.set_sysctls(&[("ipv6/conf/default/disable_ipv6", "1")])?;
    }
    let pair = |mine: &str, mac_node: [u8; 6], other: &Namespace, mac_other: [u8; 6]| {
        let (node, other) = (node.name(), other.name());
        let (mac_node, mac_other) = (mac(mac_node), mac(mac_other));
        format!(
            "link add {mine} netns {node} address {mac_node} type veth peer name eth0 netns {other} address {mac_other}\n"
        )
    };
    let pairs = pair("eth0", NODE_MAC, client, CLIENT_MAC) + &pair("eth1", NODE_FAR_MAC, far, FAR_MAC);
    netns::ip_batch(&[], &pairs)?;
    let (client_mac, far_mac) = (mac(CLIENT_MAC), mac(FAR_MAC));
    node.ip_batch(&format!(
        "link set lo up\nlink set eth0 up\nlink set eth1 up\n\
         addr add 192.0.2.11/24 dev eth0\naddr add 203.0.113.11/24 dev eth1\n\
         neigh add 192.0.2.100 lladdr {client_mac} dev eth0 nud permanent\n\
         neigh add 203.0.113.2 lladdr {far_mac} dev eth1 nud permanent\n\
         route add default via 192.0.2.100\nroute add 10.244.0.0/16 via 203.0.113.2\n\
         addr add 2001:db8:0:1::11/64 dev eth0 nodad\naddr add 2001:db8:113::11/64 dev eth1 nodad\n\
         neigh add 2001:db8:0:1::100 lladdr {client_mac} dev eth0 nud permanent\n\
         neigh add 2001:db8:113::2 lladdr {far_mac} dev eth1 nud permanent\n\
         route add default via 2001:db8:0:1::100\nroute add 2001:db8:244::/48 via 2001:db8:113::2\n"
    ))?;
    for end in [client, far] {
        end.ip_batch("link set lo up\nlink set eth0 up\n")?;
    }
    // Frames that XDP redirects arrive only where the receiving end has NAPI.
    wiring::set_napi_on(node, "eth0")
}
