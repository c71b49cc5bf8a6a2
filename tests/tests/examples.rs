//! The manifests in `examples/`: what users try first must be right, and is what the demo serves.
use std::collections::BTreeSet;
use std::path::Path;

use lb_userspace::source::files;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

#[test]
fn examples_have_no_problems_and_every_service_has_slices_of_both_families() {
    let (snapshot, problems) = files::read_once(Path::new(EXAMPLES)).unwrap();
    assert_eq!(problems, []);
    let services: BTreeSet<&str> = snapshot.services.keys().map(|name| &*name.name).collect();
    let expected = ["backorder", "cart", "dns", "web", "web-external", "web-lb", "web-local", "web-nodeport"];
    assert_eq!(services, BTreeSet::from(expected));
    for service in expected {
        let slices: Vec<_> =
            snapshot.endpoint_slices.values().filter(|slice| &*slice.service == service).collect();
        let endpoints = if service == "backorder" { 0 } else { 6 };
        assert_eq!(slices.len(), 2, "{service}");
        assert!(slices.iter().all(|slice| slice.endpoints.len() == endpoints), "{service}");
    }
}

#[test]
fn example_nodes_cover_the_pods_of_the_example_slices() {
    let (snapshot, _) = files::read_once(Path::new(EXAMPLES)).unwrap();
    let nodes: BTreeSet<&str> = snapshot.nodes.keys().map(|name| &**name).collect();
    assert_eq!(nodes, BTreeSet::from(["node-a", "node-b"]));
    for endpoint in snapshot.endpoint_slices.values().flat_map(|slice| &slice.endpoints) {
        let node = endpoint.node.as_ref().and_then(|name| snapshot.nodes.get(name));
        let node = node.unwrap_or_else(|| panic!("{} is on no node", endpoint.address));
        let is_covered = node.pod_cidrs.iter().any(|(network, bits)| {
            lb_common::Prefix::new(*network, *bits).contains(&endpoint.address.into())
        });
        assert!(is_covered, "{} is not in a prefix of {}", endpoint.address, node.name);
    }
}
