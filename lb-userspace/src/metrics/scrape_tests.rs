use super::*;
use crate::model::{ObjectName, Protocol};

fn name(service: &str, port_name: &str) -> Arc<BackendServiceName> {
    Arc::new(BackendServiceName {
        service: ObjectName::new("shop", service),
        port_name: port_name.into(),
        port: 80,
        protocol: Protocol::Tcp,
    })
}

fn traffic(new_flows: u64) -> Traffic {
    Traffic { packets: 10 * new_flows, bytes: 1_000 * new_flows, new_flows }
}

fn node(services: Vec<ServiceReading>) -> NodeReading {
    NodeReading {
        observed: Observed { started: SystemTime::UNIX_EPOCH, ..Observed::default() },
        probing: ProbingStats::default(),
        reasons: Reason::ALL.into_iter().zip(1..).collect(),
        occupancy: [
            ("NODES", Occupancy { entries: 2, entries_max: 8 }),
            ("INTERFACES", Occupancy::default()),
        ],
        services_used: services.len() as u64,
        in_panic: 0,
        services,
        front_end: None,
    }
}

fn text_of(reading: impl Collector) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading));
    let mut written = String::new();
    text::encode(&mut written, &registry).expect("text");
    written
}

/// Name and value of the samples that begin so, in their order.
fn samples<'a>(text: &'a str, begin: &'a str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(begin)).collect()
}

#[test]
fn services_past_the_bound_are_added_up_under_one_name() {
    let services = vec![
        (name("cart", "http"), traffic(1), [1, 0, 0, 0, 0, 0]),
        (name("web", ""), traffic(2), [2, 0, 3, 0, 0, 0]),
        (name("x", ""), traffic(4), [4, 0, 0, 1, 0, 0]),
    ];
    let text = text_of(node(told(services, &BTreeMap::new(), 1)));
    let flows = samples(&text, "podway_backend_service_new_flows_total");
    let cart = r#"{namespace="shop",service="cart",port="http",protocol="TCP"} 1"#;
    let others = r#"{namespace="(others)",service="(others)",port="(others)",protocol="(others)"} 6"#;
    assert_eq!(flows, [cart, others].map(|labels| format!("podway_backend_service_new_flows_total{labels}")));
    let states: Vec<_> = samples(&text, "podway_backend_service_endpoints{namespace=\"(others)\"")
        .into_iter()
        .filter_map(|line| line.split_once("state="))
        .map(|(_, rest)| rest)
        .collect();
    assert_eq!(states, [r#""healthy"} 6"#, r#""unhealthy"} 3"#, r#""draining"} 1"#]);
}

#[test]
fn ejected_endpoints_are_told_from_those_that_fail_their_check() {
    let ejected = [(name("cart", "http"), 2), (name("gone", ""), 1)].into();
    let services = vec![(name("cart", "http"), traffic(0), [1, 0, 3, 0, 0, 0])];
    let told = told(services, &ejected, 10);
    assert_eq!(told[0].endpoints, [1, 0, 1, 0, 0, 2]);
    // What was ejected a moment ago may be back in the map.
    let services = vec![(name("cart", "http"), traffic(0), [4, 0, 0, 0, 0, 0])];
    assert_eq!(super::told(services, &ejected, 10)[0].endpoints, [4, 0, 0, 0, 0, 0]);
}

#[test]
fn port_without_a_name_is_told_by_its_number() {
    assert_eq!(Name::of(&name("cart", "")).values(), ["shop", "cart", "80", "TCP"]);
}

#[test]
fn each_family_of_the_list_is_written_once_in_its_order() {
    let text = text_of(node(Vec::new())) + &text_of(EndpointsReading(Vec::new()));
    let types: Vec<_> = samples(&text, "# TYPE ");
    let expected = super::super::FAMILIES.map(|family| {
        let name = family.name();
        let name = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(&name);
        format!("# TYPE {name} {}", family.kind.name())
    });
    assert_eq!(types, expected);
}

#[test]
fn times_of_probes_fall_into_buckets_of_powers_of_two() {
    let mut probing = ProbingStats::default();
    // The longest below 512 µs, the shortest above, and one that is longer than all bounds.
    for us in [511, 512, 100_000_000] {
        probing.latency.add(Duration::from_micros(us));
    }
    let text = text_of(NodeReading { probing, ..node(Vec::new()) });
    let name = "podway_health_probe_duration_seconds";
    let of = |rest: &str| samples(&text, &format!("{name}{rest}")).concat();
    assert_eq!(of("_bucket{le=\"0.000256\"}"), format!("{name}_bucket{{le=\"0.000256\"}} 0"));
    assert_eq!(of("_bucket{le=\"0.000512\"}"), format!("{name}_bucket{{le=\"0.000512\"}} 1"));
    assert_eq!(of("_bucket{le=\"0.001024\"}"), format!("{name}_bucket{{le=\"0.001024\"}} 2"));
    assert_eq!(of("_bucket{le=\"67.108864\"}"), format!("{name}_bucket{{le=\"67.108864\"}} 2"));
    assert_eq!(of("_bucket{le=\"+Inf\"}"), format!("{name}_bucket{{le=\"+Inf\"}} 3"));
    assert_eq!(of("_count"), format!("{name}_count 3"));
    assert_eq!(of("_sum"), format!("{name}_sum 100.001023"));
}

#[test]
fn every_reason_is_told_with_its_outcome() {
    let text = text_of(node(Vec::new()));
    assert_eq!(samples(&text, "podway_packets_total").len(), Reason::ALL.len());
    let range = r#"podway_packets_total{outcome="drop",reason="source-range"} "#;
    assert_eq!(samples(&text, range), [format!("{range}{}", Reason::DropSourceRange as u32 + 1)]);
}
