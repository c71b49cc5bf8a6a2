//! An agent tells the programs of each change of the node's routes.
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use lb_common::maps;
use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::wait::wait_until;
use lb_userspace::maps::Pins;

fn generation(cluster: &Cluster) -> u32 {
    let pin = Pins::new(&cluster.topology.pins("node-a")).map(maps::ROUTE_GENERATION);
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    Array::<MapData, u32>::try_from(map).unwrap().get(&0, 0).unwrap()
}

#[test]
fn changes_of_routes_and_neighbours_begin_a_new_generation() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let cluster = Cluster::start(&podway, Options::default()).unwrap();
    let node = cluster.topology.node("node-a").host().namespace();
    let uplink = "eth0";
    for change in [
        format!("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev {uplink} nud permanent"),
        format!("route add 203.0.113.128/25 dev {uplink}"),
        format!("route del 203.0.113.128/25 dev {uplink}"),
        format!("-6 neigh add 2001:db8:0:1::77 lladdr 02:00:00:00:00:77 dev {uplink} nud permanent"),
        format!("-6 route add 2001:db8:77::/64 dev {uplink}"),
        "rule add from 203.0.113.200 lookup main priority 100".to_owned(),
        "-6 rule add from 2001:db8:77::1 lookup main priority 100".to_owned(),
        format!("nexthop add id 77 dev {uplink}"),
        format!("addr add 203.0.113.250/32 dev {uplink}"),
        format!("link set {uplink} mtu 1400"),
    ] {
        // Until the kernel is done with the former one, whose neighbours may go through several states.
        let before = generation(&cluster);
        match change.strip_prefix("-6 ") {
            Some(change) => lb_tests::netns::ip_batch(&["-6", "-n", node.name()], &format!("{change}\n")),
            None => node.ip_batch(&format!("{change}\n")),
        }
        .unwrap();
        let is_new = || generation(&cluster) != before;
        wait_until(Duration::from_secs(10), &format!("a generation behind: {change}"), is_new).unwrap();
    }
}
