//! What the bench `scale` does with a binary of kube-proxy: starts it on a node and waits for its rules. The binary
//! here stands in for it: it writes the rules of two Services in kube-proxy's names, and asks no API server.
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use lb_tests::kube_proxy::process::{KubeProxy, Mode, version};
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::wait::wait_until;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

const STAND_IN: &str = r#"#!/bin/sh
set -e
[ "$1" != --version ] || { echo "Kubernetes v1.36.0"; exit; }
echo "$@" > "$(dirname "$0")/arguments"
case "$*" in
*--proxy-mode=nftables*)
    nft -f - <<'RULES'
add table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip kube-proxy endpoint-A-default/a/tcp/http__10.244.1.11/8080
add chain ip kube-proxy service-A-default/a/tcp/http
add rule ip kube-proxy service-A-default/a/tcp/http numgen random mod 1 vmap { 0 : goto endpoint-A-default/a/tcp/http__10.244.1.11/8080 }
add chain ip kube-proxy service-B-default/b/tcp/http
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-A-default/a/tcp/http }
add element ip kube-proxy service-ips { 10.96.0.2 . tcp . 80 : goto service-B-default/b/tcp/http }
RULES
    ;;
*--proxy-mode=iptables*)
    iptables-restore <<'RULES'
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SVC-B - [0:0]
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/a:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.2/32 -p tcp -m comment --comment "default/b:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-B
-A KUBE-SVC-A -m comment --comment "default/a:http -> 10.244.1.11:8080" -j ACCEPT
COMMIT
RULES
    ;;
esac
exec sleep 600
"#;

struct Stage {
    topology: Topology,
    folder: TempDir,
}

impl Stage {
    fn new(script: &str) -> Option<Self> {
        need::netns()?;
        let folder = TempDir::with_prefix("podway-kube-proxy-").unwrap();
        let stage = Self { topology: Topology::two_nodes(1).unwrap(), folder };
        std::fs::write(stage.binary(), script).unwrap();
        std::fs::set_permissions(stage.binary(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(stage)
    }

    fn binary(&self) -> PathBuf {
        self.folder.path().join("kube-proxy")
    }

    fn start(&self, mode: Mode) -> KubeProxy {
        let node = self.topology.node("node-a").host();
        KubeProxy::start(&self.binary(), node, "/the/kubeconfig".as_ref(), mode).unwrap()
    }
}

fn assert_rules_are_seen(mode: Mode, chains: [&str; 2]) {
    let Some(stage) = Stage::new(STAND_IN) else { return };
    let mut proxy = stage.start(mode);
    let mut chain = |address: &str| proxy.wait_for_service(address.parse().unwrap(), 80, DEADLINE).unwrap().0;
    assert_eq!([chain("10.96.0.2"), chain("10.96.0.1")], [chains[1], chains[0]]);
    proxy.wait_for_endpoint(chains[0], "10.244.1.11:8080".parse().unwrap(), true, DEADLINE).unwrap();
    proxy.wait_for_endpoint(chains[0], "10.244.1.1:8080".parse().unwrap(), false, DEADLINE).unwrap();
    proxy.wait_for_endpoint(chains[1], "10.244.1.11:8080".parse().unwrap(), false, DEADLINE).unwrap();
}

#[test]
fn nftables_rules_of_services_and_endpoints_are_seen() {
    let chains = ["service-A-default/a/tcp/http", "service-B-default/b/tcp/http"];
    assert_rules_are_seen(Mode::Nftables, chains);
}

#[test]
fn iptables_rules_of_services_and_endpoints_are_seen() {
    assert_rules_are_seen(Mode::Iptables, ["KUBE-SVC-A", "KUBE-SVC-B"]);
}

#[test]
fn it_is_told_its_node_api_server_and_mode() {
    let Some(stage) = Stage::new(STAND_IN) else { return };
    let mut proxy = stage.start(Mode::Nftables);
    proxy.wait_for_service("10.96.0.1".parse().unwrap(), 80, DEADLINE).unwrap();
    let arguments = std::fs::read_to_string(stage.folder.path().join("arguments")).unwrap();
    assert_eq!(
        arguments,
        "--kubeconfig /the/kubeconfig --hostname-override=node-a --proxy-mode=nftables \
         --cluster-cidr=10.244.0.0/16 --kube-api-content-type=application/json --conntrack-max-per-core=0 \
         --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s\n"
    );
}

#[test]
fn one_that_ends_is_told_with_its_log() {
    let Some(stage) = Stage::new("#!/bin/sh\necho no such server >&2\nexit 1\n") else { return };
    let mut proxy = stage.start(Mode::Nftables);
    let error = proxy.wait_for_service("10.96.0.1".parse().unwrap(), 80, DEADLINE).unwrap_err().to_string();
    let begin = "kube-proxy has ended: Service 10.96.0.1:80 is not in its rules; its log:\n";
    assert!(error.starts_with(begin), "{error}");
}

#[test]
fn its_process_ends_with_its_handle() {
    let Some(stage) = Stage::new(STAND_IN) else { return };
    let mut proxy = stage.start(Mode::Nftables);
    proxy.wait_for_service("10.96.0.1".parse().unwrap(), 80, DEADLINE).unwrap();
    let process = PathBuf::from(format!("/proc/{}", proxy.id()));
    assert!(process.exists());
    drop(proxy);
    wait_until(DEADLINE, "the process is gone", || !process.exists()).unwrap();
}

#[test]
fn its_version_is_what_it_says() {
    let Some(stage) = Stage::new(STAND_IN) else { return };
    assert_eq!(version(&stage.binary()).unwrap(), "Kubernetes v1.36.0");
}
