//! The list of checks. Each is pure: facts in, at least one finding out.
use super::host_checks as host;
use super::interface_checks as interface;
use super::{Facts, Said};

/// A check.
type Check = fn(&Facts) -> Vec<Said>;

/// Every check with its name, which is stable: what an agent needs to start first, then what packets meet.
pub(super) const ALL: [(&str, Check); 20] = [
    ("kernel", host::kernel),
    ("btf", host::btf),
    ("capabilities", host::capabilities),
    ("jit", host::jit),
    ("bpf-file-system", host::bpf_file_system),
    ("cgroup", host::cgroup),
    ("layout", host::layout),
    ("agent", host::agent),
    ("problems", host::problems),
    ("uplinks", interface::uplinks),
    ("device", interface::device),
    ("xdp-mode", interface::xdp_mode),
    ("mtu", interface::mtu),
    ("rp-filter", interface::rp_filter),
    ("ip-forward", host::ip_forward),
    ("source-nat-ports", host::source_nat_ports),
    ("other-programs", interface::other_programs),
    ("cilium", interface::cilium),
    ("kube-proxy", host::kube_proxy),
    ("map-pressure", host::map_pressure),
];
