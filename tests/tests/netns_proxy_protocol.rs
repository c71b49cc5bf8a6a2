//! Netns tier: endpoints that want a PROXY header get the client's address and the one that it dialled, in both versions:
//! nginx reads them.
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Manifests, NAMESPACE, Service};
use lb_tests::need;
use lb_tests::process::Process;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{HTTP_PORT, ask};
use lb_userspace::model::Protocol;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
/// A version, which is its Service's name too, and the pod that is spoken to in it.
const VERSIONS: [(&str, &str); 2] = [("v1", "web-a-1"), ("v2", "web-a-2")];

/// A server that takes nothing but connections with a PROXY header of either version, and answers with what was in it.
fn start_nginx(nginx: &Path, pod: &Host, dir: &Path) -> Process {
    let folder = dir.join(pod.name());
    std::fs::create_dir(&folder).unwrap();
    let at = folder.display();
    let stores: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .concat();
    let configuration = format!(
        "daemon off;\nmaster_process off;\nerror_log stderr error;\npid {at}/pid;\nevents {{ }}\n\
         http {{\naccess_log off;\n{stores}server {{\nlisten [::]:{HTTP_PORT} ipv6only=off proxy_protocol;\n\
         location / {{ return 200 \"{} from $proxy_protocol_addr to $proxy_protocol_server_addr \
         $proxy_protocol_server_port\"; }}\n}}\n}}\n",
        pod.name()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration).unwrap();
    let mut command = pod.command(nginx);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    Process::start(command, &format!("nginx in {}", pod.name())).unwrap()
}

/// A host for each version.
fn ingress() -> Value {
    let rule = |version: &str| {
        let backend = json!({"service": {"name": version, "port": {"name": "http"}}});
        let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
        json!({"host": format!("{version}.example"), "http": {"paths": [path]}})
    };
    let vips = LOAD_BALANCER_IPS.map(|vip| vip.to_string()).join(",");
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "shop", "namespace": NAMESPACE, "annotations": {"podway.io/vips": vips}},
        "spec": {"ingressClassName": "podway", "rules": VERSIONS.map(|(version, _)| rule(version))},
    })
}

#[test]
fn nginx_is_told_who_the_client_is_in_either_version() {
    let Some((need, nginx)) = need::nginx() else { return };
    let topology = Topology::two_nodes(2).unwrap();
    let dir = TempDir::with_prefix("podway-proxy-").unwrap();
    let folder = dir.path().join("manifests");
    std::fs::create_dir(&folder).unwrap();
    let mut manifests = Manifests::new(&folder, &topology).unwrap();
    let node = topology.node(NODE_NAMES[0]);
    let servers = VERSIONS.map(|(_, pod)| start_nginx(&nginx, topology.pod(pod), dir.path()));
    for (number, (version, pod)) in VERSIONS.into_iter().enumerate() {
        let service = Service::new(version, 80 + number as u8).port("http", Protocol::Tcp, 80, HTTP_PORT);
        let service = service.annotated("podway.io/proxy-protocol", version);
        manifests.put(service.backed_by(node, topology.pod(pod))).unwrap();
    }
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"},
    });
    for (name, object) in [("class", class), ("ingress", ingress())] {
        std::fs::write(manifests.dir().join(format!("{name}.json")), object.to_string()).unwrap();
    }
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let agent = Agent::start(&podway, &topology, NODE_NAMES[0], manifests.dir(), Options::default()).unwrap();
    let client = topology.client();
    for vip in LOAD_BALANCER_IPS {
        for (version, pod) in VERSIONS {
            let host = format!("{version}.example");
            let told = || ask(client, SocketAddr::new(vip, 80), &host, "/").map(|answer| answer.body);
            let expected = format!("{pod} from {} to {vip} 80", client.address_for(vip));
            wait_until(DEADLINE, &format!("{version} at {vip}"), || {
                told().is_ok_and(|body| body == expected)
            })
            .unwrap_or_else(|error| {
                let logs = servers.each_ref().map(Process::log);
                panic!(
                    "{error}: {:?} is not {expected:?}; the agent says:\n{}\nnginx says:\n{}",
                    told(),
                    agent.log(),
                    logs.join("\n---\n")
                )
            });
        }
    }
}
