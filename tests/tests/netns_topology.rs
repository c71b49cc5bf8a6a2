//! The simulated cluster without Podway: hosts must reach each other by plain routing, and everything
//! must be removed, before anything else can be judged.
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use lb_tests::topology::{Host, Node, Topology};
use lb_tests::traffic::{Answered, Dial, Failure, Hold, Server, UdpSocketKind, UdpStream, ask, dial};
use lb_tests::{cgroup, need, netns};
use lb_userspace::model::Protocol;

const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;

fn serve(host: &Host) -> Server {
    Server::start(host, &[(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)]).unwrap()
}

/// Both addresses of a host with the port of `protocol`.
fn addresses(host: &Host, protocol: Protocol) -> [SocketAddr; 2] {
    let port = if protocol == Protocol::Tcp { TCP_PORT } else { UDP_PORT };
    [(host.v4(), port).into(), (host.v6(), port).into()]
}

/// Asserts that `from` reaches `to` over both protocols and families, and is seen as itself.
fn assert_reaches(from: &Host, to: &Host) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for address in addresses(to, protocol) {
            let Answered { by, seen_source, peer } = ask(from, protocol, address).unwrap();
            assert_eq!((by.as_str(), peer), (to.name(), address));
            assert_eq!(seen_source.ip(), from.address_for(address.ip()));
        }
    }
}

#[test]
fn every_host_reaches_every_pod() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let servers: Vec<Server> = topology.pods().map(serve).collect();
    for pod in topology.pods() {
        assert_reaches(topology.client(), pod);
        assert_reaches(topology.node("node-a").host(), pod);
        assert_reaches(topology.pod("web-a-1"), pod);
    }
    drop(servers);
}

#[test]
fn router_leads_the_client_to_every_node_and_pod() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::three_nodes(1).unwrap();
    let nodes = topology.nodes().iter().map(Node::host);
    let hosts: Vec<&Host> = topology.pods().chain(nodes).collect();
    let _servers: Vec<Server> = hosts.iter().map(|host| serve(host)).collect();
    for host in hosts {
        assert_reaches(topology.client(), host);
        assert_reaches(topology.pod("web-c-1"), host);
    }
}

#[test]
fn router_is_one_hop_between_the_client_and_a_node() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::three_nodes(0).unwrap();
    let node = topology.node("node-b").host();
    let _server = serve(node);
    let is_answered = |hop_limit: u32| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_ttl(hop_limit).unwrap();
        socket.connect((node.v4(), UDP_PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send(b"hop").unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    };
    let answered = topology.client().run_in_netns(|| [1, 2].map(is_answered)).unwrap();
    assert_eq!(answered, [false, true]);
}

#[test]
fn pod_that_is_added_later_is_reached() {
    let Some(_) = need::netns() else { return };
    let mut topology = Topology::two_nodes(1).unwrap();
    topology.add_pods(&[("node-b", "late".to_owned())]).unwrap();
    assert_eq!(topology.pod("late").v4(), IpAddr::from([10, 244, 2, 12]));
    let _server = serve(topology.pod("late"));
    assert_reaches(topology.client(), topology.pod("late"));
}

#[test]
fn processes_run_in_the_cgroup_of_their_node() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    for (host, node) in [(topology.node("node-a").host(), "node-a"), (topology.pod("web-b-1"), "node-b")] {
        let output = host.command("cat").arg("/proc/self/cgroup").output().unwrap();
        let groups = String::from_utf8(output.stdout).unwrap();
        let expected = format!("/{node}");
        assert!(groups.lines().any(|line| line.starts_with("0::") && line.ends_with(&expected)), "{groups}");
    }
}

#[test]
fn silent_port_refuses_and_is_reported_as_such() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for address in addresses(topology.pod("web-b-1"), protocol) {
            let answers = dial(topology.client(), &Dial::times(1, protocol, address)).unwrap();
            assert_eq!(answers[0].outcome, Err(Failure::Refused), "{protocol} {address}");
        }
    }
}

#[test]
fn unconnected_datagrams_are_answered_from_where_they_went() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let pod = topology.pod("web-a-1");
    let _server = serve(pod);
    for address in addresses(pod, Protocol::Udp) {
        let request =
            Dial { udp_socket: UdpSocketKind::Unconnected, ..Dial::times(3, Protocol::Udp, address) };
        let answers = dial(topology.client(), &request).unwrap();
        let peers: Vec<SocketAddr> =
            answers.iter().map(|answer| answer.outcome.clone().unwrap().peer).collect();
        assert_eq!(peers, [address, address, address]);
    }
}

#[test]
fn held_connections_and_streams_lose_nothing() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let pod = topology.pod("web-b-1");
    let _server = serve(pod);
    let hold = Hold::start(topology.client(), (pod.v4(), TCP_PORT).into(), 50).unwrap();
    assert_eq!(hold.opened().by, [("web-b-1".to_owned(), 50)].into());
    let stream =
        UdpStream::start(topology.client(), (pod.v6(), UDP_PORT).into(), Duration::from_millis(1)).unwrap();
    let held = hold.finish().unwrap();
    assert_eq!(held.lost, [].into());
    assert!(held.rounds >= 1);
    let streamed = stream.finish().unwrap();
    assert_eq!((streamed.missing, streamed.failed), (vec![], [].into()));
    assert_eq!(streamed.by, [("web-b-1".to_owned(), streamed.sent)].into());
}

#[test]
fn killed_server_is_noticed_by_held_connections_and_streams() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let pod = topology.pod("web-a-1");
    let server = serve(pod);
    let hold = Hold::start(topology.client(), (pod.v4(), TCP_PORT).into(), 10).unwrap();
    let stream =
        UdpStream::start(topology.client(), (pod.v4(), UDP_PORT).into(), Duration::from_millis(1)).unwrap();
    server.kill();
    assert_eq!(hold.finish().unwrap().lost.values().sum::<u32>(), 10);
    let refused = dial(topology.client(), &Dial::times(1, Protocol::Tcp, (pod.v4(), TCP_PORT).into()));
    assert_eq!(refused.unwrap()[0].outcome, Err(Failure::Refused));
    assert!(stream.finish().unwrap().failed.contains_key(&Failure::Refused));
}

/// Whether anything with the topology's names is left; `process` is from one of its hosts.
fn remains(namespace: &str, cgroup: &Path, process: u32) -> [bool; 3] {
    let process = Path::new("/proc").join(process.to_string());
    [netns::namespace_names().iter().any(|name| name == namespace), cgroup.exists(), process.exists()]
}

#[test]
fn everything_is_removed_when_a_test_panics() {
    let Some(_) = need::netns() else { return };
    let topology = Topology::two_nodes(1).unwrap();
    let node = topology.node("node-a").host();
    let (namespace, group) = (node.namespace().name().to_owned(), node.cgroup().to_owned());
    let mut child = topology.pod("web-a-1").command("sleep").arg("60").spawn().unwrap();
    assert_eq!(remains(&namespace, &group, child.id()), [true, true, true]);
    let outcome = std::thread::spawn(move || {
        let _topology = topology;
        panic!("a test that fails, on purpose");
    })
    .join();
    assert!(outcome.is_err());
    // The process was killed with its cgroup; it is ours to reap.
    assert!(!child.wait().unwrap().success());
    assert_eq!(remains(&namespace, &group, child.id()), [false, false, false]);
}

#[test]
fn leftovers_of_a_dead_process_are_removed() {
    let Some(_) = need::netns() else { return };
    // One above the kernel's bound on pids: surely dead.
    let namespace = "pw4194305-0-node-a";
    let group = cgroup::mount_point().unwrap().join("podway-4194305-0");
    netns::ip_batch(&[], &format!("netns add {namespace}\n")).unwrap();
    std::fs::create_dir_all(group.join("node-a")).unwrap();
    Topology::two_nodes(0).unwrap().down().unwrap();
    assert!(!netns::namespace_names().iter().any(|name| name == namespace));
    assert!(!group.exists());
}
