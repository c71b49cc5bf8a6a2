//! Netns tier: a load balancer asks nodes whether they have endpoints of a Service.
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::wait::wait_until;

const PORT: u16 = 32_100;
const DEADLINE: Duration = Duration::from_secs(10);

/// A cluster whose Service `local` has a health check node port, or `None` where the machine lacks a need.
fn cluster() -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let with_port = |service: &mut lb_tests::manifests::Service| {
        service.spec.insert("healthCheckNodePort".to_owned(), PORT.into());
    };
    cluster.manifests.edit("local", with_port).unwrap();
    Some(cluster)
}

/// What a node answers the client, over one of its addresses.
fn answer(cluster: &Cluster, node: &str, is_v4: bool) -> std::io::Result<String> {
    let node = cluster.topology.node(node).host();
    let address = if is_v4 { IpAddr::from(node.v4()) } else { node.v6().into() };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    cluster.topology.client().run_in_netns(ask).unwrap()
}

fn wait_for(cluster: &Cluster, node: &str, is_v4: bool, what: &str, parts: &[&str]) {
    let waited = wait_until(DEADLINE, what, || {
        answer(cluster, node, is_v4).is_ok_and(|text| parts.iter().all(|part| text.contains(part)))
    });
    waited.unwrap_or_else(|error| panic!("{error}: {:?}", answer(cluster, node, is_v4)));
}

#[test]
fn nodes_answer_for_their_own_endpoints_over_both_families() {
    let Some(cluster) = cluster() else { return };
    for node in ["node-a", "node-b"] {
        for is_v4 in [true, false] {
            let parts = [
                "HTTP/1.1 200 OK\r\n",
                "x-load-balancing-endpoint-weight: 3\r\n",
                r#"{"service":{"namespace":"shop","name":"local"},"localEndpoints":3,"serviceProxyHealthy":true}"#,
            ];
            wait_for(&cluster, node, is_v4, "three endpoints", &parts);
        }
    }
}

#[test]
fn a_node_whose_endpoints_are_gone_says_503_and_the_other_goes_on() {
    let Some(mut cluster) = cluster() else { return };
    wait_for(&cluster, "node-a", true, "endpoints", &["200 OK"]);
    cluster
        .manifests
        .edit("local", |service| service.endpoints.retain(|endpoint| endpoint.node == "node-b"))
        .unwrap();
    let parts = ["HTTP/1.1 503 Service Unavailable\r\n", r#""localEndpoints":0"#];
    wait_for(&cluster, "node-a", true, "no endpoints", &parts);
    wait_for(&cluster, "node-b", true, "endpoints", &["200 OK"]);
}

#[test]
fn the_port_is_closed_with_its_service() {
    let Some(mut cluster) = cluster() else { return };
    wait_for(&cluster, "node-a", true, "endpoints", &["200 OK"]);
    cluster.manifests.remove("local").unwrap();
    wait_until(DEADLINE, "the port to be closed", || {
        answer(&cluster, "node-a", true)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .unwrap();
}
