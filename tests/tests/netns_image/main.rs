//! The release as it is deployed: the image's program in the container that the manifests describe, with the rights that
//! they grant, serves what a node has to serve; and each capability that they give is needed.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use lb_tests::agent::{SERVES, end_of_former};
use lb_tests::api_server::Resource;
use lb_tests::endurance::{Absences, INGRESS, INGRESS_HOST, Requests};
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{LOAD_BALANCER_IPS, NAMESPACE, Service};
use lb_tests::need::{self, Netns};
use lb_tests::process::Process;
use lb_tests::topology::Topology;
use lb_tests::traffic::{Server, ask};
use lb_tests::wait::wait_until;
use lb_tests::web::{self, HTTP_PORT, Web};
use lb_userspace::model::Protocol;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use container::{Image, Run, capabilities, pod, tell_to_end};

mod container;
mod real_api;

/// An agent verifies its programs first, which takes seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const UDP_PORT: u16 = 5353;
/// By the manifests.
const METRICS_PORT: u16 = 10_247;

/// A node with pods behind Services and an Ingress, and what the agent's container is made of.
struct Stage {
    need: Netns,
    image: Image,
    web: Service,
    api: GatewayApi,
    /// Stands for the node's bpffs; below it the agent pins.
    bpf: PathBuf,
    topology: Topology,
    _servers: Vec<Server>,
    _webs: Vec<Web>,
    _runtime: Runtime,
}

impl Stage {
    /// `None`: the tier's need is not met.
    fn start() -> Option<Self> {
        let need = need::netns()?;
        let image = Image::of_release(&need.podway).unwrap();
        let topology = Topology::two_nodes(3).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = topology.node("node-a");
        let pods = || ["web-a-1", "web-a-2"].map(|name| topology.pod(name));
        let servers = pods().map(|pod| Server::start(pod, &[(Protocol::Udp, UDP_PORT)]).unwrap());
        let webs = pods().map(|pod| Web::start(runtime.handle(), pod).unwrap());
        let mut web = Service::new("web", 80).port("http", Protocol::Tcp, 80, HTTP_PORT);
        web = web.port("dns", Protocol::Udp, 53, UDP_PORT).backed_by(node, topology.pod("web-a-1"));
        web.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
        let api = GatewayApi::start(&topology).unwrap();
        name_authority(&api.kubeconfig());
        api.publish(&web);
        let class = json!({"metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"}});
        api.server.put(Resource::IngressClasses, class);
        api.server.put(Resource::Ingresses, ingress());
        let bpf = topology.pins("node-a");
        Some(Self {
            need,
            image,
            web,
            api,
            bpf,
            topology,
            _servers: servers.into(),
            _webs: webs.into(),
            _runtime: runtime,
        })
    }

    /// Starts the container with these capabilities.
    fn agent(&self, capabilities: &[String]) -> Process {
        let node = self.topology.node("node-a").host();
        let host_paths = [
            ("/sys/fs/bpf", self.bpf.clone()),
            ("/sys/fs/cgroup", node.cgroup().to_owned()),
            ("/run/podway", self.topology.run_dir("node-a")),
        ];
        let objects = self.need.ebpf_object.parent().unwrap();
        let object = self.need.ebpf_object.file_name().unwrap().to_str().unwrap();
        let object = format!("--ebpf-object=/given/bpf/{object}");
        let run = Run {
            pod: pod().unwrap(),
            capabilities,
            host_paths: &host_paths,
            given: &[(objects, "/given/bpf"), (self.api.dir(), "/given/api")],
            environment: &[],
            further: &["--kubeconfig=/given/api/kubeconfig", &object],
        };
        self.image.start(node, &run).unwrap()
    }

    /// Waits for the agent to come so far.
    fn wait_for(&self, agent: &mut Process, what: &str, mut holds: impl FnMut(&Process) -> bool) {
        let mut is_running = true;
        let waited = wait_until(DEADLINE, what, || {
            is_running = agent.is_running();
            !is_running || holds(agent)
        });
        assert!(waited.is_ok() && is_running, "{what}: {waited:?}, running: {is_running}; {}", agent.log());
    }

    fn is_served_outside(&self) -> bool {
        let to = SocketAddr::new(LOAD_BALANCER_IPS[0], 53);
        ask(self.topology.client(), Protocol::Udp, to).is_ok()
    }

    fn is_ingress_served(&self) -> bool {
        web::ask(self.topology.client(), INGRESS, INGRESS_HOST, "/").is_ok_and(|answer| answer.code == 200)
    }

    fn cluster_ip(&self) -> SocketAddr {
        SocketAddr::new(self.web.cluster_ips[0], 53)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Not there where the agent never came so far.
        let _ = std::fs::remove_dir_all(&self.bpf);
    }
}

fn ingress() -> Value {
    json!({
        "metadata": {
            "name": "shop", "namespace": NAMESPACE, "annotations": {"podway.io/vips": INGRESS.ip().to_string()},
        },
        "spec": {
            "ingressClassName": "podway",
            "defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}},
        },
    })
}

/// Gives a kubeconfig an authority for certificates, as a service account has one: the image has none of its own.
fn name_authority(kubeconfig: &Path) {
    let authority = rcgen::generate_simple_self_signed(["kubernetes".to_owned()]).unwrap().cert.pem();
    let mut config: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority-data"] =
        json!(ByteString(authority.into_bytes()));
    std::fs::write(kubeconfig, config.to_string()).unwrap();
}

/// A process of the node, of no privileged user, with a UDP socket that is connected to an address.
fn connected_socket(stage: &Stage, to: SocketAddr) -> Process {
    let mut command = stage.topology.node("node-a").host().command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"]);
    command.arg(format!("exec 3<>/dev/udp/{}/{} && echo connected && read -r _", to.ip(), to.port()));
    let process = Process::start(command, "a process with a socket").unwrap();
    assert_eq!(process.line(DEADLINE).unwrap(), "connected");
    process
}

#[test]
fn the_release_serves_a_node_with_what_the_manifests_give_it() {
    let Some(mut stage) = Stage::start() else { return };
    let mut agent = stage.agent(&capabilities(&pod().unwrap()).unwrap());
    stage.wait_for(&mut agent, "a client outside is answered", |_| stage.is_served_outside());
    // A pod's interface is found by its name, and its process is in no cgroup of the hooks' where tc serves it.
    stage.wait_for(&mut agent, "a pod is answered", |_| {
        let (pod, to) = (stage.topology.pod("web-a-3"), stage.cluster_ip());
        pod.run_in_netns(|| dial_udp(to)).is_ok_and(|answered| answered.is_ok())
    });
    stage.wait_for(&mut agent, "a request to the Ingress is answered", |_| stage.is_ingress_served());
    let has_status = || {
        let ingress = stage.api.server.objects(Resource::Ingresses).remove(0);
        ingress["status"]["loadBalancer"]["ingress"] == json!([{"ip": INGRESS.ip().to_string()}])
    };
    stage.wait_for(&mut agent, "the Ingress is told its address", |_| has_status());

    let _socket = connected_socket(&stage, stage.cluster_ip());
    let other = stage.topology.pod("web-a-2");
    stage.web.endpoints.clear();
    stage.web = stage.web.clone().backed_by(stage.topology.node("node-a"), other);
    stage.api.publish(&stage.web);
    stage.wait_for(&mut agent, "the socket of another user moves", |agent| agent.log().contains("moved=1 "));
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
}

#[test]
fn the_next_container_takes_over_from_the_former_one_and_no_request_fails() {
    let Some(stage) = Stage::start() else { return };
    let all = capabilities(&pod().unwrap()).unwrap();
    let mut former = stage.agent(&all);
    stage.wait_for(&mut former, "a request to the Ingress is answered", |_| stage.is_ingress_served());
    let requests = Requests::start(stage.topology.client());
    for _ in 0..3 {
        let mut next = stage.agent(&all);
        stage.wait_for(&mut next, SERVES, |agent| agent.log().contains(SERVES));
        // The port that the kubelet probes is the next one's.
        let node = stage.topology.node("node-a").host();
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        assert_eq!(web::ask(node, metrics, "localhost", "/metrics").unwrap().code, 200);
        tell_to_end(&former).unwrap();
        end_of_former(former, DEADLINE).unwrap();
        former = next;
        let asked = requests.answered();
        wait_until(DEADLINE, "answers of the next agent", || requests.answered() >= asked + 20).unwrap();
    }
    requests.finish(&Absences::default()).unwrap();
    assert!(stage.is_served_outside());
}

#[test]
fn without_one_of_its_capabilities_the_agent_says_so_or_serves_less() {
    let Some(stage) = Stage::start() else { return };
    let all = capabilities(&pod().unwrap()).unwrap();
    let without =
        |name: &str| -> Vec<String> { all.iter().filter(|other| *other != name).cloned().collect() };
    for name in ["BPF", "NET_ADMIN", "PERFMON"] {
        let mut agent = stage.agent(&without(name));
        let status = agent.wait(DEADLINE).unwrap();
        assert!(!status.success(), "without {name}");
        assert!(agent.log().contains(&format!("CAP_{name}")), "without {name}: {}", agent.log());
    }
    let mut agent = stage.agent(&without("NET_BIND_SERVICE"));
    stage.wait_for(&mut agent, "it forwards", |_| stage.is_served_outside());
    let refusal = format!("cannot listen on {INGRESS}: Permission denied");
    stage.wait_for(&mut agent, "it may not listen", |agent| agent.log().contains(&refusal));
    assert!(!stage.is_ingress_served());
}

#[test]
fn without_the_capabilities_for_it_sockets_of_others_stay() {
    let Some(mut stage) = Stage::start() else { return };
    let all = capabilities(&pod().unwrap()).unwrap();
    for (name, next) in [("SYS_PTRACE", "web-a-2"), ("DAC_READ_SEARCH", "web-a-1")] {
        let given: Vec<String> = all.iter().filter(|other| *other != name).cloned().collect();
        let mut agent = stage.agent(&given);
        stage.wait_for(&mut agent, "it forwards", |_| stage.is_served_outside());
        let _socket = connected_socket(&stage, stage.cluster_ip());
        stage.web.endpoints.clear();
        stage.web = stage.web.clone().backed_by(stage.topology.node("node-a"), stage.topology.pod(next));
        stage.api.publish(&stage.web);
        stage.wait_for(&mut agent, "it looks for the socket", |agent| agent.log().contains("not_found=1"));
        assert!(!agent.log().contains("moved=1 "), "without {name}: {}", agent.log());
    }
}

/// What a datagram from this thread's namespace is answered.
fn dial_udp(to: SocketAddr) -> std::io::Result<usize> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    socket.recv(&mut [0; 64])
}
