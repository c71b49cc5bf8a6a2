//! Rules as kube-proxy leaves them on a node (Kubernetes 1.36), for the Services of the manifests. They really
//! forward: a node with them serves as one with kube-proxy does.
pub mod iptables;
pub mod nftables;
pub mod process;

/// Prefixes of all pods, as `--cluster-cidr` has them, by family.
const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "2001:db8:244::/48"];
