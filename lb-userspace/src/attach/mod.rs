//! Programs on interfaces and on the cgroup. [`Attachments::reconcile`] looks at the interfaces as they
//! are and makes hooks and INTERFACES agree; that something changed only marks that it is to be called.
//!
//! Links are pinned. An agent that starts puts its programs into the links that it finds, one step each,
//! and so takes over without a packet meeting no program.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use lb_common::interface::{Interface, flags};
use tracing::{debug, info, warn};

use crate::maps::{Maps, Pins, remove_pin};

mod addresses;
mod cgroup;
mod clsact;
mod hook;
mod hook_programs;
mod inspect;
mod instance;
mod interface_facts;
mod namespace;
pub(crate) mod netlink;
mod node_config;
mod pattern;
mod pods;
mod programs;
mod reentry;
mod routes;
mod served;
mod xdp;

pub use addresses::{AddressFault, HostedAddresses, Life};
pub use cgroup::mount_point as cgroup_mount_point;
pub use hook::{Hook, Place, SOCKET_PROGRAMS, parse_pin};
pub use hook_programs::{HookPoint, HookProgram, hook_programs};
pub use inspect::{AttachedProgram, Mode, inspect};
pub use instance::Instance;
pub use interface_facts::{Bond, InterfaceFacts, interface_facts};
pub use namespace::namespace_cookie;
pub use netlink::{AttachedXdp, Link, Monitor, links};
pub use node_config::{Cidr, NodeConfig, PortRange, check_snat_ports, config, local_ports};
pub use pattern::Pattern;
pub use pods::PodInterface;
pub use programs::Programs;
pub use reentry::Reentry;
pub use routes::{RouteFault, RouteTable, remove_routes};
pub use served::ServedInterface;
pub use xdp::XdpChoice;

use cgroup::Cgroup;

/// What is to be attached where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the uplinks; none means the interfaces with a default route.
    pub uplinks: Vec<String>,
    /// What the pods' interfaces are told by.
    pub pod_interfaces: Vec<PodInterface>,
    /// How XDP is attached to the uplinks.
    pub xdp: XdpChoice,
    /// Whether sockets are served.
    pub sockets: SocketHooks,
}

/// Whether and where socket hooks are attached.
#[derive(Clone, Debug)]
pub enum SocketHooks {
    /// At a cgroup; none means the root of the hierarchy.
    At(Option<PathBuf>),
    /// Nowhere.
    Off,
}

/// What an interface is to Podway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Uplink,
    Pod,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Pod => "pod",
        }
    }
}

/// The attached programs of one node.
#[derive(Debug)]
pub struct Attachments {
    programs: Programs,
    pins: Pins,
    settings: Settings,
    cgroup: Option<Cgroup>,
    /// By interface index.
    attached: BTreeMap<u32, Attached>,
    /// What is wrong now, by subject.
    faults: BTreeMap<String, String>,
}

/// What was attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    name: String,
    role: Role,
    flags: u32,
    /// The tried modes of XDP and what came of them; also for the log.
    xdp: xdp::Outcome,
}

impl Attachments {
    /// Attaches the socket hooks. Interfaces come with the first [`Attachments::reconcile`].
    ///
    /// # Errors
    /// The cgroup refuses a program, or the pins cannot be read.
    pub fn new(mut programs: Programs, pins: &Pins, settings: Settings) -> Result<Self> {
        pins.adopt_links()?;
        let cgroup = match &settings.sockets {
            SocketHooks::At(path) => Some(Cgroup::open(path.as_deref())?),
            SocketHooks::Off => None,
        };
        if let Some(cgroup) = &cgroup {
            for name in SOCKET_PROGRAMS {
                let pin = hook::socket_pin(pins, name, cgroup.inode);
                programs
                    .attach_socket(name, &cgroup.dir, &pin)
                    .with_context(|| format!("cannot attach {name} to cgroup {}", cgroup.path.display()))?;
            }
            info!(cgroup = %cgroup.path.display(), programs = SOCKET_PROGRAMS.len(), "attached socket hooks");
        }
        let mut attachments = Self {
            programs,
            pins: pins.clone(),
            settings,
            cgroup,
            attached: BTreeMap::new(),
            faults: BTreeMap::new(),
        };
        attachments.remove_stale_socket_pins()?;
        Ok(attachments)
    }

    /// The programs, for attachments elsewhere. What is attached stays: its links have pins.
    #[must_use]
    pub fn into_programs(self) -> Programs {
        self.programs
    }

    /// A handle on the program that brings held frames in again.
    ///
    /// # Errors
    /// The pins take no more.
    pub fn reentry(&mut self) -> Result<Reentry> {
        self.programs.reentry(&self.pins.links().join(reentry::PROGRAM))
    }

    /// What is wrong with which interface, in one line each.
    pub fn faults(&self) -> impl Iterator<Item = (&str, &str)> {
        self.faults.iter().map(|(subject, message)| (subject.as_str(), message.as_str()))
    }

    /// Makes hooks and INTERFACES agree with the interfaces that there are. One interface's fault leaves
    /// the others alone and is tried again with the next call.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub fn reconcile(&mut self, maps: &mut Maps) -> Result<()> {
        let links = links().context("cannot list the network interfaces")?;
        let uplinks = uplink_names(&self.settings)?;
        let mut faults = BTreeMap::new();
        for name in uplinks.iter().filter(|name| !links.iter().any(|link| link.name == **name)) {
            faults
                .insert(name.clone(), format!("cannot attach to uplink {name}: there is no such interface"));
        }
        let pods = pods::pods(&links, &self.settings.pod_interfaces);
        faults.extend(pods.fault.map(|fault| ("pod interfaces".to_owned(), fault)));
        let mut wanted: BTreeMap<u32, Role> =
            pods.indices.into_iter().map(|index| (index, Role::Pod)).collect();
        let named = links.iter().filter(|link| uplinks.contains(&link.name));
        wanted.extend(named.map(|link| (link.index, Role::Uplink)));
        self.remove_unwanted(&wanted, maps, &mut faults);
        for link in links.iter().filter(|link| wanted.contains_key(&link.index)) {
            if let Err(error) = self.attach(link, wanted[&link.index], maps) {
                faults.insert(link.name.clone(), format!("{error:#}"));
            }
        }
        for (subject, message) in &faults {
            if self.faults.get(subject) != Some(message) {
                warn!(interface = subject, error = message, "interface is not served as it should be");
            }
        }
        self.faults = faults;
        Ok(())
    }

    fn attach(&mut self, link: &Link, role: Role, maps: &mut Maps) -> Result<()> {
        let is_known = |known: &&Attached| known.role == role && known.name == link.name;
        let known = self.attached.get(&link.index).filter(is_known).cloned();
        let (xdp, takes_xdp_frames) = match &known {
            Some(known) => (known.xdp.clone(), link.takes_xdp_frames),
            None => {
                let outcome = self.attach_hooks(link, role)?;
                // Asked again: some drivers can send XDP frames only while they have a program.
                (outcome, links()?.iter().any(|now| now.index == link.index && now.takes_xdp_frames))
            }
        };
        let transmit = if takes_xdp_frames { flags::XDP_TRANSMIT } else { 0 };
        let bits = transmit
            | match role {
                Role::Uplink => flags::UPLINK,
                Role::Pod => flags::POD,
            };
        let now = Attached { name: link.name.clone(), role, flags: bits, xdp };
        if known.as_ref() != Some(&now) {
            maps.put_interface(link.index, Interface { flags: bits })?;
        }
        if known.is_none() {
            log_attached(link, &now);
        }
        self.attached.insert(link.index, now);
        Ok(())
    }

    fn attach_hooks(&mut self, link: &Link, role: Role) -> Result<xdp::Outcome> {
        let mut outcome = xdp::Outcome::NotForPods;
        for hook in hooks(role) {
            let pin = hook.pin(&self.pins, link.index);
            if *hook == Hook::Xdp {
                outcome = xdp::attach(&mut self.programs, link, self.settings.xdp, &pin)?;
                continue;
            }
            if pin.exists() {
                match self.programs.replace_tc(*hook, &pin) {
                    Ok(()) => continue,
                    // The link of an interface that is gone, whose index another one has got.
                    Err(error) => debug!(pin = %pin.display(), error = %error, "a dead link is made again"),
                }
                remove_pin(&pin)?;
            }
            let attached = self.programs.attach_tc(*hook, &link.name, &pin);
            attached.map_err(|error| {
                anyhow!("cannot attach {} to interface {}: {error:#}", hook.program(), link.name)
            })?;
        }
        Ok(outcome)
    }

    /// Removes pins and entries of interfaces that are gone or no longer ours. A gone interface has taken
    /// its hooks with it.
    fn remove_unwanted(
        &mut self,
        wanted: &BTreeMap<u32, Role>,
        maps: &mut Maps,
        faults: &mut BTreeMap<String, String>,
    ) {
        let mut gone: BTreeSet<u32> =
            self.attached.keys().copied().filter(|index| !wanted.contains_key(index)).collect();
        match maps.interfaces() {
            Ok(known) => {
                gone.extend(known.iter().map(|(index, _)| *index).filter(|i| !wanted.contains_key(i)));
            }
            Err(error) => drop(faults.insert("INTERFACES".into(), format!("{error:#}"))),
        }
        for index in gone {
            if let Some(before) = self.attached.remove(&index) {
                info!(interface = before.name, index, role = before.role.name(), "interface is gone");
            }
            if let Err(error) = maps.remove_interface(index) {
                faults.insert(format!("interface {index}"), format!("{error:#}"));
            }
        }
        let is_kept = |name: &str| match parse_pin(name) {
            Some((program, Place::Interface(index))) => wanted
                .get(&index)
                .is_some_and(|role| hooks(*role).iter().any(|hook| hook.program() == program)),
            Some((_, Place::Cgroup(_))) | None => true,
        };
        if let Err(error) = remove_pins(&self.pins, is_kept) {
            faults.insert("links".into(), format!("{error:#}"));
        }
    }

    /// Removes the socket hooks of a cgroup that is not the chosen one.
    fn remove_stale_socket_pins(&mut self) -> Result<()> {
        let inode = self.cgroup.as_ref().map(|cgroup| cgroup.inode);
        remove_pins(&self.pins, |name| match parse_pin(name) {
            Some((program, Place::Cgroup(found))) => {
                Some(found) == inode && SOCKET_PROGRAMS.contains(&program)
            }
            Some((_, Place::Interface(_))) | None => true,
        })
    }
}

fn uplink_names(settings: &Settings) -> Result<Vec<String>> {
    if !settings.uplinks.is_empty() {
        return Ok(settings.uplinks.clone());
    }
    let read = |path| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let names = default_routes(&read("/proc/net/route")?, &read("/proc/net/ipv6_route").unwrap_or_default());
    Ok(names.into_iter().collect())
}

/// The uplinks that there are.
///
/// # Errors
/// The interfaces, or their routes, cannot be listed.
pub fn uplinks(settings: &Settings) -> Result<Vec<Link>> {
    let names = uplink_names(settings)?;
    let links = links().context("cannot list the network interfaces")?;
    Ok(links.into_iter().filter(|link| names.contains(&link.name)).collect())
}

/// The hooks of an interface, in the order of attaching.
fn hooks(role: Role) -> &'static [Hook] {
    match role {
        Role::Uplink => &[Hook::Egress, Hook::UplinkIn, Hook::Xdp],
        Role::Pod => &[Hook::Egress, Hook::PodIn],
    }
}

fn log_attached(link: &Link, now: &Attached) {
    let (interface, index, role) = (&*link.name, link.index, now.role.name());
    match (now.role, now.xdp.reason()) {
        (Role::Pod, _) => info!(interface, index, role, "attached"),
        (Role::Uplink, None) => info!(interface, index, role, xdp = now.xdp.name(), "attached"),
        (Role::Uplink, Some(reason)) => {
            info!(interface, index, role, xdp = now.xdp.name(), reason, "attached");
        }
    }
}

fn remove_pins(pins: &Pins, is_kept: impl Fn(&str) -> bool) -> Result<()> {
    let dir = pins.links();
    let cannot = || format!("cannot remove stale links in {}", dir.display());
    for entry in std::fs::read_dir(&dir).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        if !is_kept(&name.to_string_lossy()) {
            remove_filter(&name.to_string_lossy())?;
            remove_pin(&entry.path())?;
            info!(link = %name.to_string_lossy(), "removed a stale link");
        }
    }
    Ok(())
}

/// Removes the filters that stand in for links, whose pins these are: they outlive them.
///
/// # Errors
/// The pins or the interfaces cannot be read, or a filter stays.
pub fn remove_filters(pins: &Pins) -> Result<()> {
    let dir = pins.links();
    if !dir.exists() {
        return Ok(());
    }
    let cannot = || format!("cannot read the pinned links in {}", dir.display());
    for entry in std::fs::read_dir(&dir).with_context(cannot)? {
        remove_filter(&entry.with_context(cannot)?.file_name().to_string_lossy())?;
    }
    Ok(())
}

fn remove_filter(pin: &str) -> Result<()> {
    let Some((program, Place::Interface(index))) = parse_pin(pin) else { return Ok(()) };
    let side = Hook::ALL.iter().find(|hook| hook.program() == program).and_then(|hook| hook.side());
    let links = links().context("cannot list the network interfaces")?;
    match (side, links.iter().find(|link| link.index == index)) {
        (Some(side), Some(link)) => clsact::detach(&link.name, side, program),
        _ => Ok(()),
    }
}

/// The interfaces of this network namespace's default routes.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn default_uplinks() -> Result<BTreeSet<String>> {
    let read = |path| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    Ok(default_routes(&read("/proc/net/route")?, &read("/proc/net/ipv6_route").unwrap_or_default()))
}

/// The interfaces of the default routes, from the kernel's tables (`/proc/net/route`: interface,
/// destination, gateway, flags, three counts, mask; `/proc/net/ipv6_route`: destination, its length …
/// interface last).
fn default_routes(v4: &str, v6: &str) -> BTreeSet<String> {
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"))
            .then(|| fields[0].to_owned())
    });
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00") && fields[0].bytes().all(|byte| byte == b'0');
        // The kernel lists an unreachable default route at the loopback interface.
        is_default.then(|| fields[fields.len() - 1].to_owned()).filter(|name| name != "lo")
    });
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_of_both_families_name_the_uplinks() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth2\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 20010db8000000000000000000000001 00000400 00000001 00000000 00000003 eth1\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let names = default_routes(v4, &v6);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["eth0", "eth1"]);
    }
}
