//! What the checks look at. All I/O of `podway doctor` is here; what cannot be read is `None` or empty, since the
//! checks of the rest shall be seen all the same.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_common::config::flags as config_flags;
use lb_common::frontend::flags as frontend_flags;
use lb_common::interface::flags as interface_flags;

use crate::admin;
use crate::attach::{self, HookProgram, InterfaceFacts, Pattern, PortRange, ServedInterface};
use crate::kube_proxy::leftovers;
use crate::maps::{Maps, Pins, missing_capabilities};

/// Where a diagnosis looks: what an agent of this node was started with, or would be.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// `--pin-path`.
    pub pins: &'a Pins,
    /// `--run-dir`.
    pub run_dir: &'a Path,
    /// `--cgroup`; none means the root of the hierarchy.
    pub cgroup: Option<&'a Path>,
    /// `--uplink`; none means those of the running agent, else those with a default route.
    pub uplinks: &'a [String],
    /// `--pod-interface`; none means those of the running agent.
    pub pod_interfaces: &'a [Pattern],
}

/// All facts of a node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// As `uname -r` has it.
    pub kernel_release: String,
    /// Whether the kernel describes its types.
    pub has_btf: bool,
    /// What an agent needs and this process has not.
    pub missing_capabilities: Vec<&'static str>,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// The pins.
    pub pins: PinFacts,
    /// The cgroup of the socket hooks.
    pub cgroup: Option<PathBuf>,
    /// The agent.
    pub agent: AgentFacts,
    /// All interfaces of this network namespace.
    pub interfaces: Vec<Interface>,
    /// Uplinks that were named and are not there.
    pub missing_uplinks: Vec<String>,
    /// The programs at the hooks of uplinks, pods and the cgroup, at each hook in the order in which they run.
    pub programs: Vec<HookProgram>,
    /// The ids of Podway's own.
    pub own_programs: BTreeSet<u32>,
    /// Sysctls of the whole namespace.
    pub sysctls: Sysctls,
    /// What a former or running agent was told of the node; `None` where no maps are pinned.
    pub config: Option<ConfigFacts>,
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: Option<PortRange>,
    /// What there is of kube-proxy.
    pub kube_proxy: KubeProxyFacts,
    /// How full the maps are.
    pub maps: Vec<MapFacts>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
pub struct MapFacts {
    /// Its name.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// The bound.
    pub entries_max: u64,
}

/// The pins.
#[derive(Clone, Debug, Default)]
pub struct PinFacts {
    /// Where they are, or would be.
    pub root: PathBuf,
    /// Whether that is a place for pins.
    pub is_on_bpf_file_system: bool,
    /// Whether maps of this version's layout are there.
    pub has_maps: bool,
    /// Other versions' layouts that are there.
    pub other_layouts: Vec<u32>,
}

/// The agent.
#[derive(Clone, Debug, Default)]
pub struct AgentFacts {
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Whether it answers.
    pub is_there: bool,
    /// How many objects it cannot use in full.
    pub problems: usize,
}

/// What an interface is to Podway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads out of the node.
    Uplink,
    /// It leads to a pod.
    Pod,
}

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// What it is made of.
    pub facts: InterfaceFacts,
    /// What it is to Podway, if anything.
    pub role: Option<Role>,
    /// `net.ipv4.conf.NAME.rp_filter`.
    pub rp_filter: Option<u32>,
    /// Whether an agent serves it.
    pub is_served: bool,
    /// Why the agent attached XDP in no better mode.
    pub xdp_reason: Option<String>,
}

/// Sysctls of a network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sysctls {
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<u32>,
    /// `net.ipv6.conf.all.forwarding`.
    pub ipv6_forwarding: Option<u32>,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_all: Option<u32>,
    /// Packets that a strict filter has dropped (`TcpExt`, `IPReversePathFilter`).
    pub reverse_path_drops: Option<u64>,
}

/// What an agent was told of its node.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigFacts {
    /// Whether the node has an IPv6 address.
    pub has_v6: bool,
    /// Whether another proxy serves some of the Services.
    pub is_beside_proxy: bool,
    /// Ports of source NAT.
    pub snat_ports: PortRange,
    /// Whether a frontend uses direct server return.
    pub uses_dsr: bool,
}

/// What there is of kube-proxy.
#[derive(Clone, Debug, Default)]
pub struct KubeProxyFacts {
    /// Its processes, as far as this process namespace shows them.
    pub processes: Vec<u32>,
    /// Its rules: tables, chains and interfaces.
    pub rules: Vec<String>,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel does not list this process's capabilities or the interfaces.
    pub fn read(place: &Place<'_>) -> Result<Self> {
        let uname = rustix::system::uname();
        let maps = Maps::open(place.pins).ok();
        let served = admin::interfaces(place.run_dir);
        let mut facts = Self {
            kernel_release: uname.release().to_string_lossy().into_owned(),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            missing_capabilities: missing_capabilities()?,
            jit: sysctl("net/core/bpf_jit_enable"),
            pins: PinFacts {
                root: place.pins.root().to_owned(),
                is_on_bpf_file_system: place.pins.is_on_bpf_file_system(),
                has_maps: place.pins.maps().exists(),
                other_layouts: place.pins.other_layouts().unwrap_or_default(),
            },
            cgroup: match place.cgroup {
                Some(path) => Some(path.to_owned()),
                None => attach::cgroup_mount_point().unwrap_or_default(),
            },
            agent: AgentFacts {
                run_dir: place.run_dir.to_owned(),
                is_there: served.is_ok(),
                problems: problems(place.run_dir),
            },
            sysctls: Sysctls {
                ip_forward: sysctl("net/ipv4/ip_forward"),
                ipv6_forwarding: sysctl("net/ipv6/conf/all/forwarding"),
                rp_filter_all: sysctl("net/ipv4/conf/all/rp_filter"),
                reverse_path_drops: read("/proc/net/netstat").and_then(|text| reverse_path_drops(&text)),
            },
            local_ports: attach::local_ports().ok(),
            kube_proxy: KubeProxyFacts { processes: leftovers::processes(), rules: leftovers::rules() },
            ..Self::default()
        };
        facts.take_interfaces(place, maps.as_ref(), &served.unwrap_or_default())?;
        facts.take_programs(place);
        if let Some(mut maps) = maps {
            facts.config = config(&maps).ok();
            facts.maps = map_facts(&mut maps).unwrap_or_default();
        }
        Ok(facts)
    }

    /// Which interfaces there are, and what they are to Podway: as the flags say, else as the agent has it, else by
    /// the default routes.
    fn take_interfaces(
        &mut self,
        place: &Place<'_>,
        maps: Option<&Maps>,
        served: &[ServedInterface],
    ) -> Result<()> {
        let in_maps = maps.and_then(|maps| maps.interfaces().ok()).unwrap_or_default();
        let has_bit =
            |index: u32, bit: u32| in_maps.iter().any(|(at, found)| *at == index && found.flags & bit != 0);
        let has_agents = in_maps.iter().any(|(_, found)| found.flags & interface_flags::UPLINK != 0);
        let defaults = match place.uplinks.is_empty() && !has_agents {
            true => attach::default_uplinks().unwrap_or_default(),
            false => place.uplinks.iter().cloned().collect(),
        };
        let all = attach::interface_facts().context("cannot list the network interfaces")?;
        self.missing_uplinks = place.uplinks.to_vec();
        self.missing_uplinks.retain(|name| !all.iter().any(|facts| facts.name == *name));
        self.interfaces = all
            .into_iter()
            .map(|facts| {
                let is_uplink = defaults.contains(&facts.name)
                    || place.uplinks.is_empty() && has_bit(facts.index, interface_flags::UPLINK);
                let is_pod = place.pod_interfaces.iter().any(|pattern| pattern.matches(&facts.name))
                    || place.pod_interfaces.is_empty() && has_bit(facts.index, interface_flags::POD);
                let role = match (is_uplink, is_pod) {
                    (true, _) => Some(Role::Uplink),
                    (false, true) => Some(Role::Pod),
                    (false, false) => None,
                };
                let known = served.iter().find(|served| served.index == facts.index);
                Interface {
                    role,
                    rp_filter: sysctl(&format!("net/ipv4/conf/{}/rp_filter", facts.name)),
                    is_served: known.is_some(),
                    xdp_reason: known.and_then(|known| known.reason.clone()),
                    facts,
                }
            })
            .collect();
        Ok(())
    }

    fn take_programs(&mut self, place: &Place<'_>) {
        let served = self.interfaces.iter().filter(|interface| interface.role.is_some());
        let served: Vec<&InterfaceFacts> = served.map(|interface| &interface.facts).collect();
        let found = attach::hook_programs(&served, self.cgroup.as_deref());
        self.programs = found.unwrap_or_default();
        let own = attach::inspect(place.pins).unwrap_or_default();
        self.own_programs = own.iter().map(|program| program.program_id).collect();
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// A number below `/proc/sys`; `None` where it is not there or none.
fn sysctl(key: &str) -> Option<u32> {
    read(Path::new("/proc/sys").join(key))?.trim().parse().ok()
}

/// A counter of `/proc/net/netstat`, where a line of names comes before each line of numbers.
pub(super) fn reverse_path_drops(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "IPReversePathFilter")?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

/// The objects in an agent's lists of problems.
fn problems(run_dir: &Path) -> usize {
    let files = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let is_list = |name: &str| name.starts_with("problems-") && name.ends_with(".json");
    files
        .filter(|file| file.file_name().to_str().is_some_and(is_list))
        .filter_map(|file| serde_json::from_str::<Vec<serde_json::Value>>(&read(file.path())?).ok())
        .map(|problems| problems.len())
        .sum()
}

fn config(maps: &Maps) -> Result<ConfigFacts> {
    let config = maps.config()?;
    let last = config.snat_port_first.saturating_add(config.snat_ports.saturating_sub(1));
    Ok(ConfigFacts {
        has_v6: config.flags & config_flags::NODE_V6 != 0,
        is_beside_proxy: config.is_beside_proxy(),
        snat_ports: PortRange { first: config.snat_port_first, last },
        uses_dsr: maps
            .dump()?
            .frontends
            .iter()
            .any(|(_, frontend)| frontend.flags & frontend_flags::DSR != 0),
    })
}

fn map_facts(maps: &mut Maps) -> Result<Vec<MapFacts>> {
    let occupancy = maps.all_occupancy()?;
    let facts = occupancy.into_iter().map(|(map, found)| MapFacts {
        map,
        entries: found.entries,
        entries_max: found.entries_max,
    });
    Ok(facts.collect())
}
