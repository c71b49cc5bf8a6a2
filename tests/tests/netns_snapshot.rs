//! Netns tier: what the reading commands say of a snapshot, on another machine, is what they said on the node.
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::{Cluster, service};
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::traffic::{Dial, dial};
use lb_tests::wait::wait_until;
use lb_tests::web::certificate;
use lb_userspace::model::Protocol;
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for two equal looks at a cluster in which hardly anything happens.
const DEADLINE: Duration = Duration::from_secs(30);
/// Nobody: the other machine grants no rights.
const NOBODY: u32 = 65_534;

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: shop, annotations: {kubernetes.io/ingress.class: podway}}
spec:
  tls: [{hosts: [shop.example.com], secretName: shop-tls}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /web, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /gone, pathType: Exact, backend: {service: {name: gone, port: {number: 80}}}}
";

/// Every reading command, in JSON but where a table has no age.
const READINGS: [&[&str]; 19] = [
    &["get", "frontends", "-o", "wide"],
    &["get", "backend-services", "-o", "wide"],
    &["get", "negs", "-o", "wide"],
    &["get", "endpoints"],
    &["get", "endpoints", "-o", "json"],
    &["get", "conntrack", "-o", "json"],
    &["get", "affinity", "-o", "json"],
    &["get", "counters"],
    &["get", "pressure"],
    &["get", "programs"],
    &["get", "url-maps", "-o", "wide"],
    &["get-health", "shop/web:tcp/TCP", "-o", "json"],
    &["describe", "backend-service", "shop/near:tcp/TCP", "-o", "json"],
    &["describe", "neg", "shop/web:udp/UDP", "-o", "yaml"],
    &["describe", "endpoint", "10.244.1.11:8080", "-o", "json"],
    &["describe", "url-map", "shop/shop"],
    &["describe", "ingress", "shop/shop", "-o", "json"],
    &["explain", "--url", "https://shop.example.com/web/1", "-o", "json"],
    &["verify"],
];

/// A question that takes its time on the node, since the kernel is asked too.
const PACKET: [&str; 7] =
    ["explain", "--from", "192.0.2.100:40000", "--to", "198.51.100.10:80", "-o", "json"];

/// Without what the clock alone changes, and what only a kernel can say.
fn still(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for name in ["ageSeconds", "idleSeconds", "kernel"] {
                    fields.remove(name);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value.to_string()
}

struct World {
    cluster: Cluster,
    binary: PathBuf,
    object: PathBuf,
    dir: TempDir,
    /// What must not be in a snapshot.
    key: String,
}

impl World {
    /// Services with a health check, affinity, flows and an Ingress with a certificate.
    fn start() -> Option<Self> {
        let need = need::netns()?;
        let podway = Podway { binary: need.podway.clone(), ebpf_object: Some(need.ebpf_object.clone()) };
        let topology = Topology::two_nodes(2).unwrap();
        let node = topology.node("node-a");
        let web = service("web", 80)
            .backed_by_all(&topology)
            .annotated("podway.io/health-check", "tcp")
            .annotated("podway.io/health-check-interval-ms", "3600000")
            .with_spec("sessionAffinity", "ClientIP".into());
        let near = service("near", 81).backed_by(node, topology.pod("web-a-1"));
        let cluster = Cluster::on(topology, vec![web, near], &podway, Options::default()).unwrap();
        let (_, secret) = certificate("shop-tls", "shop.example.com").unwrap();
        let key = secret["stringData"]["tls.key"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
        std::fs::write(cluster.manifests.dir().join("tls.json"), secret.to_string()).unwrap();
        std::fs::write(cluster.manifests.dir().join("ingress.yaml"), INGRESS).unwrap();
        let agent = &cluster.agents[0];
        let is_told = || agent.get("url-maps").is_ok_and(|maps| maps[0]["https"] == true);
        wait_until(DEADLINE, "the URL map is told", is_told).unwrap();
        for name in ["web", "near"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let to = cluster.load_balancer_addresses(name, protocol)[0];
                let answers = dial(cluster.topology.client(), &Dial::times(3, protocol, to)).unwrap();
                assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
            }
        }
        let dir = TempDir::with_prefix("podway-snapshot-").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { cluster, binary: need.podway, object: need.ebpf_object, dir, key })
    }

    fn live(&self, arguments: &[&str]) -> String {
        let run_dir = self.cluster.topology.run_dir("node-a");
        let mut all = arguments.to_vec();
        if arguments[0] == "explain" {
            all.extend(["--run-dir", run_dir.to_str().unwrap()]);
            all.extend(["--ebpf-object", self.object.to_str().unwrap()]);
        }
        still(&self.cluster.agents[0].podway(&all).unwrap())
    }

    /// What `podway snapshot` says, with further arguments.
    fn take(&self, file: &Path, further: &[&str]) -> String {
        let run_dir = self.cluster.topology.run_dir("node-a");
        let own = ["snapshot", "-o", file.to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()];
        self.cluster.agents[0].podway(&[&own, further].concat()).unwrap()
    }

    fn offline(&self, file: &Path, arguments: &[&str]) -> Result<String, String> {
        // Whoever gets a snapshot owns their copy of it.
        std::os::unix::fs::chown(file, Some(NOBODY), None).unwrap();
        let mut command = Command::new(&self.binary);
        let output = command.uid(NOBODY).args(arguments).arg("--snapshot").arg(file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            Ok(still(&text))
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }
}

#[test]
fn every_reading_command_says_the_same_of_the_file_as_of_the_node() {
    let Some(world) = World::start() else { return };
    let file = world.dir.path().join("node-a.tar.gz");
    let all = || -> Vec<String> { READINGS.iter().map(|arguments| world.live(arguments)).collect() };
    let mut before = Vec::new();
    // A neighbour may be asked for its address between two looks, and is counted.
    wait_until(DEADLINE, "nothing changes while a snapshot is made", || {
        before = all();
        world.take(&file, &[]);
        before == all()
    })
    .unwrap();
    for (arguments, live) in READINGS.iter().zip(&before) {
        assert_eq!(world.offline(&file, arguments).as_ref(), Ok(live), "{arguments:?}");
    }
    assert_eq!(world.offline(&file, &PACKET), Ok(world.live(&PACKET)));
    assert!(before[5].contains("198.51.100.10:80"), "there are flows: {}", before[5]);
    assert!(before[6].contains("192.0.2.100"), "there are affinities: {}", before[6]);
    let planned = world.offline(&file, &["plan", "-o", "json"]).unwrap();
    let planned: Value = serde_json::from_str(&planned).unwrap();
    assert!(planned.to_string().contains("shop.example.com"), "{planned:#}");
}

#[test]
fn a_file_is_an_archive_of_known_parts_without_secrets_and_for_its_owner_alone() {
    let Some(world) = World::start() else { return };
    let file = world.dir.path().join("node-a.tar.gz");
    let said = world.take(&file, &["--flows-max", "4"]);
    assert!(said.starts_with("cut: CONNTRACK has more than 4 entries\n"), "{said}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let listed = Command::new("tar").arg("-tzf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for part in ["header.json", "maps/CONNTRACK", "agent/facts.json", "agent/health.json", "programs.json"] {
        assert!(listed.lines().any(|line| line == part), "{part} in {listed}");
    }
    assert!(listed.contains("origins/shop.web.json"), "{listed}");
    let content = Command::new("gzip").arg("-dc").arg(&file).output().unwrap().stdout;
    let has = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("shop-tls"), "the Ingress names its Secret");
    assert!(!has(&world.key) && !has("PRIVATE KEY"), "the Secret itself is nowhere");
    let flows = world.offline(&file, &["get", "conntrack", "-o", "json"]).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Value>>(&flows).unwrap().len(), 4);
}

#[test]
fn without_an_agent_the_maps_are_kept_and_what_is_missing_is_said() {
    let Some(mut world) = World::start() else { return };
    world.cluster.agents[0].kill();
    let file = world.dir.path().join("node-a.tar.gz");
    let said = world.take(&file, &[]);
    assert!(said.contains("left out: agent/facts.json: no agent answers at "), "{said}");
    let frontends = world.offline(&file, &["get", "frontends", "-o", "wide"]);
    assert_eq!(frontends, Ok(world.live(&["get", "frontends", "-o", "wide"])));
    let error = world.offline(&file, &["get", "url-maps"]).unwrap_err();
    assert!(error.contains("agent/facts.json is not in the snapshot: no agent answers"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
