//! Kernel tier: source ranges, entries of VIPs and node addresses in the kernel's own maps.
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData};
use lb_common::frontend::{Frontend, flags};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, maps as names};
use lb_tests::need;
use lb_tests::pins::TestPins;
use lb_userspace::diff::{Limits, Op};
use lb_userspace::maps::{Maps, Object, Sizes, load};

/// Pinned maps of a test's own.
struct Bench {
    object: Object,
    pins: TestPins,
}

impl Bench {
    fn new() -> Option<Self> {
        let object = Object::File(need::kernel()?.ebpf_object);
        Some(Self { object, pins: TestPins::new().unwrap() })
    }

    /// The maps as an agent that starts has them.
    fn load(&self) -> Maps {
        let limits = Limits { source_ranges_max: 64, ..Limits::default() };
        load(&self.object, &self.pins, &Sizes { limits, ..Sizes::default() }).unwrap().1
    }

    fn map(&self, name: &str) -> Map {
        Map::from_map_data(MapData::from_pin(self.pins.map(name)).unwrap()).unwrap()
    }
}

#[test]
fn source_ranges_are_found_by_clients_and_by_a_restart() {
    let Some(bench) = Bench::new() else { return };
    let mut maps = bench.load();
    let key = |network, bits| SourceRangeKey::of_range(0, &Address::v4(network), bits);
    let [wide, narrow] = [key([192, 0, 2, 0], 24), key([192, 0, 2, 128], 25)];
    for key in [wide, narrow] {
        maps.apply(&Op::PutSourceRange { key }).unwrap();
    }
    let has = |client| {
        let trie: LpmTrie<MapData, [u32; 5], u32> = bench.map(names::SOURCE_RANGES).try_into().unwrap();
        let SourceRangeKey { prefix_bits, backend_service, client: [a, b, c, d] } =
            SourceRangeKey::of_client(0, &Address::v4(client));
        trie.get(&Key::new(prefix_bits, [backend_service, a, b, c, d]), 0).is_ok()
    };
    assert_eq!([[192, 0, 2, 7], [192, 0, 2, 200], [192, 0, 3, 7]].map(has), [true, true, false]);
    assert_eq!(bench.load().dump().unwrap().source_ranges, [wide, narrow]);
    maps.apply(&Op::DeleteSourceRange { key: wide }).unwrap();
    maps.apply(&Op::DeleteSourceRange { key: wide }).expect("a range that is gone is no error");
    assert_eq!([[192, 0, 2, 7], [192, 0, 2, 200]].map(has), [false, true]);
}

#[test]
fn a_full_map_of_source_ranges_names_its_flag() {
    let Some(bench) = Bench::new() else { return };
    let mut maps = bench.load();
    let put = |number: u8| Op::PutSourceRange {
        key: SourceRangeKey::of_range(0, &Address::v4([10, number, 0, 0]), 16),
    };
    let results: Vec<_> = (0..65).map(|number| maps.apply(&put(number))).collect();
    assert!(results[..64].iter().all(Result::is_ok));
    assert_eq!(
        format!("{:#}", results[64].as_ref().unwrap_err()),
        "cannot put source range 10.64.0.0/16 of backend service 0: map SOURCE_RANGES is full (64 entries); raise \
         --source-ranges-max"
    );
}

#[test]
fn the_entry_of_a_vip_lets_its_address_through_the_filter() {
    let Some(bench) = Bench::new() else { return };
    let mut maps = bench.load();
    let address = Address::v4([192, 0, 2, 1]);
    let vip = Frontend {
        backend_service: 0,
        neg_external: 0,
        neg_internal: 0,
        flags: flags::VIP | flags::REFUSE_OTHER_PORTS,
    };
    let is_let_through = || {
        let (word, bit) = lb_common::vip_filter::place(&address);
        let filter: Array<MapData, u64> = bench.map(names::VIP_FILTER).try_into().unwrap();
        filter.get(&word, 0).unwrap() & bit != 0
    };
    maps.apply(&Op::PutVip { address, vip }).unwrap();
    assert!(is_let_through());
    let tables = maps.tables().unwrap();
    assert_eq!((tables.vip(&address), tables.frontends().len()), (Some(&vip), 0));
    maps.apply(&Op::DeleteVip { address }).unwrap();
    assert!(!is_let_through());
}

#[test]
fn node_addresses_come_back_after_a_restart() {
    let Some(bench) = Bench::new() else { return };
    let mut maps = bench.load();
    let nodes = [Address::v4([192, 0, 2, 11]), Address::v4([192, 0, 2, 12])];
    nodes.iter().for_each(|node| maps.put_node(node).unwrap());
    maps.remove_node(&nodes[0]).unwrap();
    assert_eq!(bench.load().nodes().unwrap(), [nodes[1]].into());
}
