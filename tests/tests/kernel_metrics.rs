//! Kernel tier: a scrape of maps with as many backend services as a large cluster has, in whole batches, against what
//! was put there one by one.
use std::sync::Arc;
use std::time::Instant;

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::backend_service::{BackendService, flags};
use lb_common::endpoint::{Endpoint, state};
use lb_common::{Address, Be16, maps as names};
use lb_tests::need;
use lb_tests::open_metrics::Metrics;
use lb_tests::pins::TestPins;
use lb_userspace::diff::{Limits, Op, StoredName};
use lb_userspace::health::Probing;
use lb_userspace::maps::{Maps, Object, Sizes, load};
use lb_userspace::metrics::{Format, Observations, Page, Scraper};
use lb_userspace::model::{ObjectName, Protocol};
use lb_userspace::plan::BackendServiceName;

const SERVICES: u32 = 10_000;
const ENDPOINTS_PER_SERVICE: u32 = 3;
/// Those of which only the sum is told.
const OTHERS: u32 = 10;

/// The maps that packets fill are of no interest here.
fn sizes(limits: Limits) -> Sizes {
    Sizes { limits, conntrack_max: 64, affinity_max: 64, socket_flows_max: 64 }
}

fn name(id: u32) -> StoredName {
    let service = ObjectName::new("shop", &format!("service-{id}"));
    let name = BackendServiceName { service, port_name: "".into(), port: 80, protocol: Protocol::Tcp };
    StoredName::new(&Arc::new(name), &"1".into())
}

/// A backend service, and its endpoints, of which the last is unhealthy.
fn put(maps: &mut Maps, id: u32) {
    for number in 0..ENDPOINTS_PER_SERVICE {
        let endpoint_id = id * ENDPOINTS_PER_SERVICE + number;
        let [_, a, b, c] = endpoint_id.to_be_bytes();
        let healthy = if number + 1 < ENDPOINTS_PER_SERVICE { state::HEALTHY } else { 0 };
        let endpoint = Endpoint {
            address: Address::v4([10, a, b, c]),
            port: Be16::new(8080),
            protocol: 6,
            backend_service: id,
            state: state::PRESENT | healthy,
            ..Endpoint::default()
        };
        maps.apply(&Op::PutEndpoint { id: endpoint_id, endpoint }).unwrap();
    }
    let backend_service = BackendService { flags: flags::PRESENT, affinity_timeout_s: 0 };
    maps.apply(&Op::PutBackendService { id, backend_service, name: name(id) }).unwrap();
}

/// Counts traffic at an id of a map, on each CPU: so many packets on the first, one more on the next.
fn count(pins: &TestPins, map: &str, id: u32, packets: u64) -> f64 {
    let map = Map::from_map_data(MapData::from_pin(pins.map(map)).unwrap()).unwrap();
    let mut map: PerCpuArray<MapData, [u64; 3]> = map.try_into().unwrap();
    let cpus = aya::util::nr_cpus().unwrap() as u64;
    let values: Vec<[u64; 3]> = (0..cpus).map(|cpu| [packets + cpu, 100, 1]).collect();
    map.set(id, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
    (0..cpus).map(|cpu| packets + cpu).sum::<u64>() as f64
}

#[test]
fn scrape_of_many_services_has_each_and_the_sum_of_those_past_the_bound() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let limits = Limits {
        backend_services_max: SERVICES,
        endpoints_max: SERVICES * ENDPOINTS_PER_SERVICE,
        ..Limits::default()
    };
    let mut maps = load(&Object::File(need.ebpf_object.clone()), &pins, &sizes(limits)).unwrap().1;
    (0..SERVICES).for_each(|id| put(&mut maps, id));
    // Ids that are no longer in use are left out, whatever stands there.
    maps.apply(&Op::DeleteBackendService { id: 7 }).unwrap();
    count(&pins, names::BACKEND_SERVICE_TRAFFIC, 7, 1);
    let told = SERVICES - 1 - OTHERS;
    let ids = [0, 1, 4_368, 4_369, 4_370, SERVICES / 2, SERVICES - OTHERS - 1];
    let expected = ids.map(|id| (id, count(&pins, names::BACKEND_SERVICE_TRAFFIC, id, u64::from(id) + 5)));
    let of_others = count(&pins, names::BACKEND_SERVICE_TRAFFIC, SERVICES - 1, 40)
        + count(&pins, names::BACKEND_SERVICE_TRAFFIC, SERVICES - 2, 50);
    let last_endpoint = SERVICES * ENDPOINTS_PER_SERVICE - 1;
    let of_endpoint = count(&pins, names::ENDPOINT_TRAFFIC, last_endpoint, 9);

    let reader = maps.reader(&pins).unwrap();
    let scraper = Scraper::new(reader, Observations::default(), Probing::default(), told);
    let begun = Instant::now();
    let text = scraper.text(Page::Node, Format::OpenMetrics).unwrap();
    println!("{} bytes in {:?}", text.len(), begun.elapsed());
    let metrics = Metrics::parse(&text).unwrap();
    assert_eq!(metrics.value("podway_backend_services", &[]), Some(f64::from(SERVICES - 1)));
    let of = |service: &str| [("service", service.to_owned())];
    let sum = |metric: &str, service: &str| {
        let labels = of(service);
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        metrics.sum(&format!("podway_backend_service_{metric}"), &labels)
    };
    for (id, packets) in expected {
        assert_eq!(sum("packets_total", &format!("service-{id}")), packets, "{id}");
        assert_eq!(sum("endpoints", &format!("service-{id}")), f64::from(ENDPOINTS_PER_SERVICE), "{id}");
    }
    assert_eq!(sum("packets_total", "service-2"), 0.0);
    assert_eq!(sum("packets_total", "(others)"), of_others);
    assert_eq!(sum("endpoints", "(others)"), f64::from(OTHERS * ENDPOINTS_PER_SERVICE));
    let unhealthy = metrics.sum("podway_backend_service_endpoints", &[("state", "unhealthy")]);
    assert_eq!(unhealthy, f64::from(SERVICES - 1));
    for gone in ["service-7".to_owned(), format!("service-{}", SERVICES - OTHERS)] {
        assert!(!text.contains(&format!("service=\"{gone}\"")), "{gone}");
    }

    let text = scraper.text(Page::Endpoints, Format::OpenMetrics).unwrap();
    let metrics = Metrics::parse(&text).unwrap();
    assert_eq!(metrics.sum("podway_endpoint_packets_total", &[]), of_endpoint);
    let [_, a, b, c] = last_endpoint.to_be_bytes();
    let endpoint = format!("10.{a}.{b}.{c}:8080");
    assert_eq!(metrics.sum("podway_endpoint_packets_total", &[("endpoint", &endpoint)]), of_endpoint);
}

/// The older form says the same in other words; bounds of buckets it writes otherwise.
#[test]
fn both_forms_have_the_same_samples() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load(&Object::File(need.ebpf_object.clone()), &pins, &sizes(Limits::default())).unwrap().1;
    put(&mut maps, 0);
    count(&pins, names::BACKEND_SERVICE_TRAFFIC, 0, 5);
    let reader = maps.reader(&pins).unwrap();
    let scraper = Scraper::new(reader, Observations::default(), Probing::default(), 10);
    let samples = |format| {
        let text = scraper.text(Page::Node, format).unwrap();
        let mut samples: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("le="))
            .map(str::to_owned)
            .collect();
        samples.sort_unstable();
        samples
    };
    let open = samples(Format::OpenMetrics);
    assert!(open.iter().any(|line| line.starts_with("podway_backend_service_packets_total{")), "{open:?}");
    assert_eq!(open, samples(Format::Prometheus));
}
