//! Which interfaces lead to pods: those that are named, and with `auto` those that have the names and the kind that the
//! usual CNIs give them.
use std::collections::BTreeSet;
use std::str::FromStr;

use super::netlink::Link;
use super::pattern::Pattern;

/// Names of the node's ends of veth pairs that lead to pods: Calico and Canal, the AWS VPC CNI, GKE, Azure's CNI, and the
/// CNI project's own plugins `bridge` and `ptp`, which Flannel, kubenet, kind and k3s use.
const PREFIXES: [&str; 5] = ["cali", "eni", "gke", "azv", "veth"];

/// Beginnings of the names of bridges whose ports lead to pods: the `bridge` plugin's and kubenet's, Weave's and
/// kube-router's. Ports of others, as Docker's `docker0` and `br-*`, are no pods'.
const BRIDGES: [&str; 4] = ["cni", "cbr", "weave", "kube-bridge"];

/// Interfaces of CNIs with programs of their own in the way: these send a pod's packet on before the hooks of the node's
/// other interfaces see it, or keep pods behind a switch of their own.
const FOREIGN: [(&str, &str); 4] =
    [("lxc", "Cilium"), ("cilium_host", "Cilium"), ("antrea-gw", "Antrea"), ("ovn-k8s-mp", "OVN-Kubernetes")];

/// A value of `--pod-interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodInterface {
    /// `auto`: all that a usual CNI has made.
    Found,
    /// Those whose names a pattern covers.
    Named(Pattern),
}

impl FromStr for PodInterface {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Found),
            text => text.parse().map(Self::Named),
        }
    }
}

/// The pods' interfaces among others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pods {
    /// Their indices.
    pub(super) indices: BTreeSet<u32>,
    /// Why none is looked for, though it is asked for.
    pub(super) fault: Option<String>,
}

/// Tells the pods' interfaces.
pub(super) fn pods(links: &[Link], wanted: &[PodInterface]) -> Pods {
    let mut pods = Pods::default();
    for wanted in wanted {
        let found: Result<Vec<&Link>, String> = match wanted {
            PodInterface::Named(pattern) => {
                Ok(links.iter().filter(|link| pattern.matches(&link.name)).collect())
            }
            PodInterface::Found => found(links),
        };
        match found {
            Ok(found) => pods.indices.extend(found.into_iter().map(|link| link.index)),
            Err(fault) => pods.fault = Some(fault),
        }
    }
    pods
}

fn found(links: &[Link]) -> Result<Vec<&Link>, String> {
    let foreign = links.iter().find_map(|link| {
        let cni = FOREIGN.iter().find(|(prefix, _)| link.name.starts_with(prefix));
        cni.map(|(_, cni)| (&link.name, cni))
    });
    if let Some((name, cni)) = foreign {
        return Err(format!(
            "cannot tell the pods' interfaces: {name} is one of {cni}, whose own programs or switch take pods' packets \
             first; name them with --pod-interface if {cni} does not serve Services"
        ));
    }
    Ok(links.iter().filter(|link| is_a_pods(link, links)).collect())
}

/// A veth with a name of a CNI's that stands alone or is a port of a CNI's bridge.
fn is_a_pods(link: &Link, links: &[Link]) -> bool {
    let has_name = PREFIXES.iter().any(|prefix| link.name.starts_with(prefix));
    let is_ours_to_take = match link.master {
        None => true,
        Some(master) => {
            let bridge = links.iter().find(|link| link.index == master);
            bridge.is_some_and(|bridge| BRIDGES.iter().any(|prefix| bridge.name.starts_with(prefix)))
        }
    };
    link.kind.as_deref() == Some("veth") && has_name && is_ours_to_take
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is, its links, and the names of those that are found.
    type Case =
        (&'static str, &'static [(&'static str, &'static str, &'static str)], &'static [&'static str]);

    /// Links given as name, kind and, for a port, the name of its bridge; a physical one has no kind.
    fn links(given: &[(&str, &str, &str)]) -> Vec<Link> {
        let index = |name: &str| given.iter().position(|(of, ..)| *of == name).map(|at| at as u32 + 1);
        let link = |(name, kind, master): &(&str, &str, &str)| Link {
            index: index(name).unwrap(),
            name: (*name).to_owned(),
            kind: Some((*kind).to_owned()).filter(|kind| !kind.is_empty()),
            master: index(master),
            xdp: None,
            mac: None,
            takes_xdp_frames: false,
        };
        given.iter().map(link).collect()
    }

    /// Names of what `auto` finds.
    fn found_names(given: &[(&str, &str, &str)]) -> Vec<String> {
        let links = links(given);
        let pods = pods(&links, &[PodInterface::Found]);
        assert_eq!(pods.fault, None);
        links.iter().filter(|link| pods.indices.contains(&link.index)).map(|link| link.name.clone()).collect()
    }

    #[test]
    fn pods_of_the_usual_cnis_are_found_among_the_other_interfaces() {
        let outside = [("lo", "", ""), ("eth0", "", ""), ("ens5", "", "")];
        let cases: [Case; 8] = [
            (
                "Calico by BGP, in IP-in-IP or VXLAN",
                &[("tunl0", "ipip", ""), ("vxlan.calico", "vxlan", ""), ("cali0a1b2c3d4e5", "veth", "")],
                &["cali0a1b2c3d4e5"],
            ),
            (
                "Flannel",
                &[("flannel.1", "vxlan", ""), ("cni0", "bridge", ""), ("veth1f2e3d4c", "veth", "cni0")],
                &["veth1f2e3d4c"],
            ),
            ("kubenet", &[("cbr0", "bridge", ""), ("vethabcdef01", "veth", "cbr0")], &["vethabcdef01"]),
            ("kind's ptp", &[("veth9a8b7c6d", "veth", "")], &["veth9a8b7c6d"]),
            (
                "AWS VPC",
                &[("ens6", "", ""), ("eni4a5b6c7d8e9", "veth", ""), ("vlan.eth.1", "vlan", "")],
                &["eni4a5b6c7d8e9"],
            ),
            ("GKE", &[("gke52d9c8a1b2c", "veth", ""), ("nodelocaldns", "dummy", "")], &["gke52d9c8a1b2c"]),
            ("Azure", &[("azure0", "bridge", ""), ("azv3c4d5e6f7a8", "veth", "")], &["azv3c4d5e6f7a8"]),
            (
                "Docker beside a CNI",
                &[
                    ("docker0", "bridge", ""),
                    ("veth0000001", "veth", "docker0"),
                    ("br-1a2b3c", "bridge", ""),
                    ("veth0000002", "veth", "br-1a2b3c"),
                    ("cni0", "bridge", ""),
                    ("veth0000003", "veth", "cni0"),
                ],
                &["veth0000003"],
            ),
        ];
        for (cni, given, expected) in cases {
            assert_eq!(found_names(&[&outside[..], given].concat()), expected, "{cni}");
        }
    }

    #[test]
    fn a_physical_interface_of_such_a_name_is_no_pods() {
        assert_eq!(found_names(&[("eni0", "", ""), ("veth-trunk", "bond", "")]), [""; 0]);
    }

    #[test]
    fn pods_behind_programs_of_another_are_named_as_such_and_not_taken() {
        for (name, cni) in
            [("lxc1a2b3c", "Cilium"), ("antrea-gw0", "Antrea"), ("ovn-k8s-mp0", "OVN-Kubernetes")]
        {
            let links = links(&[("eth0", "", ""), (name, "veth", ""), ("veth0000001", "veth", "")]);
            let pods = pods(&links, &[PodInterface::Found]);
            assert_eq!(pods.indices, BTreeSet::new());
            let fault = pods.fault.unwrap();
            assert!(
                fault.starts_with(&format!("cannot tell the pods' interfaces: {name} is one of {cni}")),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_pattern_names_what_auto_would_not_take() {
        let links = links(&[("lxc1a2b3c", "veth", ""), ("eth0", "", "")]);
        let pods = pods(&links, &["lxc*".parse().unwrap()]);
        assert_eq!(pods, Pods { indices: [1].into(), fault: None });
    }
}
