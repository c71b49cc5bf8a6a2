//! Host tier: an endpoint that warms up takes a part of its flows, and no other flow moves.
use lb_common::counters::Reason;
use lb_common::endpoint::state;
use lb_common::frontend::FrontendKey;
use lb_common::protocol::TCP;
use lb_common::{Address, Be16};
use lb_ebpf::host::HostTables;
use lb_ebpf::select;
use lb_tests::world::{self, VIP_V4};

const FLOWS: u32 = 3_000;

/// The endpoints that the flows get from the NEG of three while one of these takes a share of its flows, percent;
/// and the number of that one.
fn chosen(share_percent: u8) -> (Vec<u32>, u32) {
    let mut tables = world::tables(1_000);
    let neg = neg(&tables);
    let warming = tables.ring_slots[&tables.rings[&neg].slot(0).unwrap()];
    let endpoint = tables.endpoints.get_mut(&warming).unwrap();
    endpoint.state |= state::turned_away(share_percent);
    let client = Address::v4([203, 0, 113, 7]);
    // Spread over all points of the ring.
    let points = (0..FLOWS).map(|flow| flow.wrapping_mul(0x9e37_79b9));
    let chosen = points.map(|point| select::choose(&mut tables, neg, &client, point).unwrap()).collect();
    assert_eq!(tables.reasons.get(&Reason::NotePanic), None);
    (chosen, warming)
}

fn neg(tables: &HostTables) -> u32 {
    let port = Be16::new(world::PORT_LOCAL);
    let key = FrontendKey { address: Address::from(VIP_V4), port, protocol: u16::from(TCP), padding: 0 };
    tables.frontends[&key].neg_external
}

#[test]
fn flows_of_other_endpoints_stay_while_one_warms_up() {
    let (whole, warming) = chosen(100);
    for share_percent in [10, 30, 50, 70, 90] {
        let (part, _) = chosen(share_percent);
        let others = whole.iter().zip(&part).filter(|(before, _)| **before != warming);
        assert_eq!(others.filter(|(before, now)| before != now).count(), 0, "{share_percent} %");
    }
}

#[test]
fn flow_that_a_warming_endpoint_takes_stays_with_it() {
    let (mut former, warming) = chosen(10);
    for share_percent in [20, 30, 40, 50, 60, 70, 80, 90, 100] {
        let (next, _) = chosen(share_percent);
        let has_left = |(before, now): &(&u32, &u32)| **before == warming && **now != warming;
        assert_eq!(former.iter().zip(&next).filter(has_left).count(), 0, "{share_percent} %");
        former = next;
    }
}

/// A third of the flows is its whole share; a few that were turned away come to it once more.
#[test]
fn warming_endpoint_takes_its_part() {
    for (share_percent, least, most) in [(10, 90, 160), (50, 480, 640), (90, 880, 960), (100, 980, 1_020)] {
        let (chosen, warming) = chosen(share_percent);
        let count = chosen.iter().filter(|endpoint| **endpoint == warming).count();
        assert!((least..=most).contains(&count), "{share_percent} %: {count}");
    }
}

#[test]
fn endpoint_that_warms_up_alone_takes_all() {
    let mut tables = world::tables(1_000);
    let neg = neg(&tables);
    for endpoint in tables.endpoints.values_mut() {
        endpoint.state |= state::turned_away(1);
    }
    let client = Address::v4([203, 0, 113, 7]);
    assert!((0..200).all(|point| select::choose(&mut tables, neg, &client, point * 0x0101_0101).is_some()));
    assert_eq!(tables.reasons.get(&Reason::NotePanic), None);
}
