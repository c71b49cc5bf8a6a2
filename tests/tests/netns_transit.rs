//! The node between two cables that benches send through.
use lb_tests::bench::services::{ENDPOINT_PORT, REMOTE_UDP, endpoint_address};
use lb_tests::bench::transit::Transit;
use lb_tests::need;

/// Flows of three client addresses, each a frame: as many as there are numbers of flows.
const FRAMES: u32 = 40_000;

#[test]
fn a_frame_of_every_flow_passes_a_node_that_routes() {
    let Some(_need) = need::netns() else { return };
    let transit = Transit::new().unwrap();
    let endpoint = (endpoint_address(REMOTE_UDP, 0, true), ENDPOINT_PORT).into();
    let generator = transit.generator(endpoint, FRAMES, 0).unwrap();
    // The kernel forwards no frame whose IPv4 checksum is wrong.
    let sent = transit.send(&generator, FRAMES).unwrap();
    assert_eq!((sent.arrived, transit.came_back().unwrap()), (40_000, 0));
}
