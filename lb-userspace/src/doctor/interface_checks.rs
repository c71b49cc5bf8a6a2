//! Checks of the interfaces that are served, or would be.
use crate::attach::{AttachedXdp, Bond, HookPoint, HookProgram};

use super::facts::{Interface, Role};
use super::{Facts, Said};

/// What every link must carry for IPv6, bytes (RFC 8200 §5).
const IPV6_MTU_MIN_BYTES: u32 = 1_280;
/// What the encapsulation of direct server return adds at most, bytes: an IPv6, a UDP and a Geneve header with one
/// option.
const DSR_OVERHEAD_BYTES: u32 = 80;
/// `rp_filter`: a packet's way back must lead by the interface that it came by (RFC 3704 §2.2).
const STRICT: u32 = 1;
/// Modes of a bond in which the kernel takes XDP programs (`bond_xdp_check`): round-robin, active-backup, xor and
/// 802.3ad.
const BOND_MODES_WITH_XDP: [u8; 4] = [0, 1, 2, 4];
/// `BOND_XMIT_POLICY_VLAN_SRCMAC`, with which it takes none.
const BOND_POLICY_WITHOUT_XDP: u8 = 5;

fn uplinks_of(facts: &Facts) -> impl Iterator<Item = &Interface> {
    facts.interfaces.iter().filter(|interface| interface.role == Some(Role::Uplink))
}

fn pods_of(facts: &Facts) -> impl Iterator<Item = &Interface> {
    facts.interfaces.iter().filter(|interface| interface.role == Some(Role::Pod))
}

/// The one finding of a check that has found nothing else.
fn or_ok(said: Vec<Said>, seen: impl FnOnce() -> String) -> Vec<Said> {
    if said.is_empty() { vec![Said::ok(seen())] } else { said }
}

pub(super) fn uplinks(facts: &Facts) -> Vec<Said> {
    let mut said: Vec<Said> = facts
        .missing_uplinks
        .iter()
        .map(|name| {
            Said::fail("there is no such interface", "name an interface that exists with --uplink").of(name)
        })
        .collect();
    let down = uplinks_of(facts).filter(|uplink| !uplink.facts.is_up);
    said.extend(down.map(|uplink| {
        let name = &uplink.facts.name;
        Said::fail("it is down", format!("ip link set {name} up")).of(name)
    }));
    let names: Vec<&str> = uplinks_of(facts).map(|uplink| uplink.facts.name.as_str()).collect();
    if names.is_empty() && said.is_empty() {
        said.push(Said::fail(
            "no interface leads out of the node: there is no default route",
            "name the uplinks with --uplink",
        ));
    }
    or_ok(said, || format!("{} with {} interfaces of pods", names.join(", "), pods_of(facts).count()))
}

/// Bonds, VLANs, and interfaces whose frames are another one's.
pub(super) fn device(facts: &Facts) -> Vec<Said> {
    let name_of = |index: u32| {
        facts
            .interfaces
            .iter()
            .find(|other| other.facts.index == index)
            .map_or("?", |other| other.facts.name.as_str())
    };
    let mut said = Vec::new();
    for Interface { facts: uplink, .. } in uplinks_of(facts) {
        if let Some(master) = uplink.master {
            let master = name_of(master);
            said.push(
                Said::warn(
                    format!("it belongs to {master}: the stack sees its frames there"),
                    format!("give {master} as the uplink"),
                )
                .of(&uplink.name),
            );
        }
        if uplink.kind.as_deref() == Some("vlan") {
            let lower = uplink.lower.map_or("another interface", name_of);
            said.push(
                Said::warn(
                    format!("it is a VLAN on {lower}, and has no XDP of its own in a driver"),
                    "none is needed: generic XDP and tc serve it; native XDP needs an untagged interface",
                )
                .of(&uplink.name),
            );
        }
        if let Some(bond) = uplink.bond {
            said.push(bonded(bond).of(&uplink.name));
        }
    }
    or_ok(said, || "no uplink is a bond, a VLAN or a part of another interface".into())
}

fn bonded(Bond { mode, hash_policy }: Bond) -> Said {
    const MODES: [&str; 7] =
        ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
    let name = MODES.get(usize::from(mode)).unwrap_or(&"unknown");
    if !BOND_MODES_WITH_XDP.contains(&mode) {
        return Said::warn(
            format!("a bond of mode {name} takes no XDP program in its drivers"),
            "use balance-rr, active-backup, balance-xor or 802.3ad",
        );
    }
    if hash_policy == BOND_POLICY_WITHOUT_XDP {
        return Said::warn(
            format!(
                "a bond of mode {name} with the hash policy vlan+srcmac takes no XDP program in its drivers"
            ),
            "use the policy layer3+4",
        );
    }
    Said::ok(format!("a bond of mode {name} takes XDP programs where all its members do"))
}

/// The mode that is attached, or the one to expect, and why none better.
pub(super) fn xdp_mode(facts: &Facts) -> Vec<Said> {
    let said = uplinks_of(facts).map(|uplink| mode_of(facts, uplink).of(&uplink.facts.name)).collect();
    or_ok(said, || "there is no uplink".into())
}

fn mode_of(facts: &Facts, uplink: &Interface) -> Said {
    let driver = uplink.facts.driver.as_ref().or(uplink.facts.kind.as_ref());
    let driver = driver.map_or("driver unknown", String::as_str);
    let remedy =
        "none is needed; for native XDP use a driver that has it, and for a veth `ethtool -K PEER gro on`";
    let is_ours = |program: &&HookProgram| {
        program.point == HookPoint::Xdp
            && program.interface.as_deref() == Some(&uplink.facts.name)
            && facts.own_programs.contains(&program.program_id)
    };
    let has_ours = facts.programs.iter().any(|program| is_ours(&program));
    let reason = uplink.xdp_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match (has_ours, uplink.facts.xdp) {
        (true, Some(AttachedXdp::Native)) => Said::ok(format!("native ({driver})")),
        (true, _) => Said::warn(format!("generic ({driver}){reason}"), remedy),
        (false, _) if uplink.is_served => Said::warn(format!("off, tc does all ({driver}){reason}"), remedy),
        (false, _) => match uplink.facts.has_native_xdp() {
            Some(true) => Said::ok(format!("native is possible ({driver})")),
            Some(false) => {
                Said::warn(format!("the driver has no native XDP ({driver}): generic, or tc"), remedy)
            }
            None => Said::ok(format!("the driver does not say whether it has native XDP ({driver})")),
        },
    }
}

pub(super) fn mtu(facts: &Facts) -> Vec<Said> {
    let has_v6 = facts.config.as_ref().is_none_or(|config| config.has_v6);
    let overhead = match facts.config.as_ref().is_some_and(|config| config.uses_dsr) {
        true => DSR_OVERHEAD_BYTES,
        false => 0,
    };
    let pods = pods_of(facts).map(|pod| pod.facts.mtu_bytes).max().unwrap_or(0);
    let mut said = Vec::new();
    for Interface { facts: uplink, .. } in uplinks_of(facts) {
        let mtu = uplink.mtu_bytes;
        let needed = pods + if pods > 0 { overhead } else { 0 };
        if has_v6 && mtu < IPV6_MTU_MIN_BYTES {
            said.push(
                Said::fail(
                    format!("{mtu} bytes, and IPv6 needs {IPV6_MTU_MIN_BYTES}"),
                    format!("ip link set {} mtu 1500", uplink.name),
                )
                .of(&uplink.name),
            );
        } else if mtu < needed {
            let with = if overhead > 0 { " with direct server return" } else { "" };
            said.push(
                Said::warn(
                    format!("{mtu} bytes, and packets of pods may have {needed}{with}: larger ones are refused (too-big)"),
                    format!("raise it to {needed}, or lower the pods' to {}", mtu.saturating_sub(needed - pods)),
                )
                .of(&uplink.name),
            );
        }
    }
    or_ok(said, || "every uplink takes what pods send".into())
}

pub(super) fn rp_filter(facts: &Facts) -> Vec<Said> {
    let dropped = match facts.sysctls.reverse_path_drops {
        None | Some(0) => String::new(),
        Some(count) => format!("; {count} packets have been dropped so since the start"),
    };
    // The kernel takes the larger of the two values.
    let all = facts.sysctls.rp_filter_all.unwrap_or(0);
    let strict = uplinks_of(facts).filter(|uplink| uplink.rp_filter.unwrap_or(0).max(all) == STRICT);
    let said = strict
        .map(|uplink| {
            let name = &uplink.facts.name;
            Said::warn(
                format!("strict: packets whose way back leads by another interface are dropped unseen{dropped}"),
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2 (loose), the same for all, and a file in /etc/sysctl.d"),
            )
            .of(name)
        })
        .collect();
    or_ok(said, || "no uplink is strict".into())
}

/// Whose programs stand at the hooks beside ours. Where none of ours is, they say what ours would meet.
pub(super) fn other_programs(facts: &Facts) -> Vec<Said> {
    let is_ours = |program: &HookProgram| facts.own_programs.contains(&program.program_id);
    let mut said = Vec::new();
    for (position, program) in facts.programs.iter().enumerate().filter(|(_, program)| !is_ours(program)) {
        let name = if program.name.is_empty() { "without a name" } else { program.name.as_str() };
        let what = format!("program {name} (id {}) at {}", program.program_id, program.point.name());
        let is_same_hook =
            |other: &&HookProgram| other.interface == program.interface && other.point == program.point;
        let is_behind_ours = facts.programs[..position].iter().filter(is_same_hook).any(is_ours);
        let found = match program.point {
            HookPoint::Xdp => Said::warn(
                format!("{what}: the hook takes one program, so tc does all of Podway's work here"),
                format!(
                    "if nobody needs it: ip link set {} xdp off",
                    program.interface.as_deref().unwrap_or("?")
                ),
            ),
            _ if is_behind_ours => Said::ok(format!("{what}, behind Podway's: it sees translated packets")),
            HookPoint::ClsactIngress | HookPoint::ClsactEgress => {
                Said::ok(format!("{what}, behind programs of tcx: it sees translated packets"))
            }
            _ => Said::warn(
                format!("{what}, before Podway's: what it takes or sends elsewhere Podway does not see"),
                "see that it lets packets to VIPs go on (TCX_NEXT), or start the agent after it",
            ),
        };
        said.push(found.of(program.interface.clone().unwrap_or_else(|| "cgroup".into())));
    }
    or_ok(said, || "none at the hooks of uplinks and pods".into())
}

/// Cilium's own service load balancing does what Podway does, at the same hooks.
pub(super) fn cilium(facts: &Facts) -> Vec<Said> {
    let is_its = |program: &&HookProgram| {
        ["cil_sock", "cil_from_netdev", "cil_xdp"].iter().any(|start| program.name.starts_with(start))
    };
    vec![match facts.programs.iter().find(is_its) {
        Some(program) => Said::warn(
            format!("its program {} is attached: it may translate Services before Podway does", program.name),
            "set kubeProxyReplacement=false in Cilium where Podway serves",
        ),
        None => Said::ok("none of its programs that translate Services"),
    }]
}
