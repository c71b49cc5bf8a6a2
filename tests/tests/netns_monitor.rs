//! Netns tier: `podway monitor` tells what really happens to packets, for as long as it runs.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::process::Process;
use lb_tests::traffic::{Dial, dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for a line: a CPU notices within a tick that somebody watches.
const DEADLINE: Duration = Duration::from_secs(20);

struct World {
    cluster: Cluster,
    podway: Podway,
}

impl World {
    fn start() -> Option<Self> {
        let need = need::netns()?;
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let cluster = Cluster::start(&podway, Options::default()).unwrap();
        Some(Self { cluster, podway })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.topology.node("node-a").host().command(&self.podway.binary);
        command.arg("monitor").args(arguments);
        command.arg("--pin-path").arg(self.cluster.topology.pins("node-a"));
        command
    }

    fn monitor(&self, arguments: &[&str]) -> Process {
        Process::start(self.command(arguments), "podway monitor").unwrap()
    }

    /// The next line of a monitor while the client dials a Service.
    fn line(&self, monitor: &Process, service: &str, protocol: Protocol) -> Value {
        let to = self.cluster.load_balancer_addresses(service, protocol)[0];
        let mut lines = Vec::new();
        wait_until(DEADLINE, "the monitor tells a packet", || {
            // Whether it is answered is not what is asked here.
            let _ = dial(self.cluster.topology.client(), &Dial::times(1, protocol, to));
            lines = monitor.pending_lines();
            !lines.is_empty()
        })
        .unwrap();
        serde_json::from_str(&lines[0]).unwrap()
    }
}

#[test]
fn a_forwarded_packet_is_told_with_its_client_vip_and_endpoint() {
    let Some(world) = World::start() else { return };
    let vip = world.cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    let monitor = world.monitor(&["--json", "--vip", &vip.to_string(), "--reason", "new-flow"]);
    let told = world.line(&monitor, "near", Protocol::Tcp);
    assert_eq!((&told["outcome"], &told["reason"]), (&"forward".into(), &"new-flow".into()), "{told:#}");
    assert_eq!((&told["vip"], &told["protocol"]), (&vip.to_string().into(), &"TCP".into()), "{told:#}");
    let client = world.cluster.topology.client().v4().to_string();
    assert!(told["client"].as_str().unwrap().starts_with(&format!("{client}:")), "{told:#}");
    let pods = ["web-a-1", "web-a-2"].map(|pod| format!("{}:8080", world.cluster.topology.pod(pod).v4()));
    assert!(pods.iter().any(|pod| told["endpoint"] == pod.as_str()), "{told:#}");
}

#[test]
fn drops_are_told_with_their_reason_and_written_as_packets_that_tcpdump_reads() {
    let Some(world) = World::start() else { return };
    let dir = TempDir::with_prefix("podway-monitor-").unwrap();
    let file = dir.path().join("drops.pcap");
    let mut monitor = world.monitor(&["--json", "--drops", "--count", "1", "--pcap", file.to_str().unwrap()]);
    let told = world.line(&monitor, "far-local", Protocol::Udp);
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (&"drop".into(), &"no-local-endpoint".into()),
        "{told:#}"
    );
    assert_eq!(told["endpoint"], Value::Null, "{told:#}");
    wait_until(DEADLINE, "the monitor ends after its one packet", || !monitor.is_running()).unwrap();
    let vip = world.cluster.load_balancer_addresses("far-local", Protocol::Udp)[0];
    let read = tcpdump(&file);
    assert_eq!(read.lines().count(), 1, "{read}");
    assert!(read.contains(&format!("> {}.{}: UDP", vip.ip(), vip.port())), "{read}");
}

/// What tcpdump says of a file, a line for each packet.
fn tcpdump(file: &Path) -> String {
    let output = Command::new("tcpdump").args(["-n", "-r"]).arg(file).output().expect("tcpdump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_watches_at_a_time_and_the_next_one_begins_anew_after_one_that_was_killed() {
    let Some(world) = World::start() else { return };
    let mut first = world.monitor(&["--json", "--reason", "new-flow"]);
    world.line(&first, "near", Protocol::Tcp);
    let second = world.command(&["--seconds", "1"]).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(
        !second.status.success() && error.contains("another `podway monitor` does; end it first"),
        "{error}"
    );
    first.kill();
    let next = world.monitor(&["--json", "--reason", "no-local-endpoint"]);
    let told = world.line(&next, "far-local", Protocol::Udp);
    assert_eq!(told["reason"], "no-local-endpoint", "nothing of the first one's is left: {told:#}");
}
