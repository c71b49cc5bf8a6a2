//! Times of the parts between facts and maps, one by one: `cargo bench -p lb-userspace --bench parts`.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::{Bencher, black_box};
use lb_common::config::{self, Config};
use lb_userspace::diff::{self, Limits, Tables};
use lb_userspace::explain::tables::host_tables;
use lb_userspace::explain::{Entry, Question, Slices, TableNames, explain};
use lb_userspace::l7::{Host, HostPattern, HostRule, NormalPath, PathPattern, PathRule, UrlMap};
use lb_userspace::model::{BackendConfigs, ObjectName, Protocol};
use lb_userspace::plan::{self, Desired, NodeContext, ReadinessAlone};
use lb_userspace::ring::{self, Member, Reach};

use fleet::{ENDPOINTS, apply, facts, pod, snapshot};

mod fleet;

const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn main() {
    divan::main();
}

fn node() -> NodeContext {
    NodeContext { name: "node-a".into(), addresses: vec![IpAddr::V4(NODE)], ..NodeContext::default() }
}

/// A plan of so many Services, and tables that hold it.
fn applied(services: u32) -> (Desired, Tables) {
    let desired = plan::plan(&snapshot(services, ENDPOINTS), &node(), &ReadinessAlone);
    let limits =
        Limits { endpoints_max: services * ENDPOINTS * 2, ring_slots_max: 32 << 20, ..Limits::default() };
    let mut tables = Tables::new(limits);
    let first = diff::full(&desired, &tables, 0);
    apply(&mut tables, &first);
    (desired, tables)
}

#[divan::bench(args = [10, 100, 1_000])]
fn plan_of_one_service(bencher: Bencher<'_, '_>, endpoints: u32) {
    let node = node();
    let (service, slice) = facts(0, endpoints);
    let slices = [Arc::new(slice)];
    bencher.bench(|| {
        plan::service(black_box(&service), &slices, &BackendConfigs::new(), &node, &ReadinessAlone)
    });
}

#[divan::bench(args = [10, 100, 1_000])]
fn ring_for_outside_clients(bencher: Bencher<'_, '_>, endpoints: u32) {
    let member = |index| Member { address: pod(index).into(), port: 8080, weight: 1 };
    let members: Vec<Member> = (0..endpoints).map(member).collect();
    let length = ring::length(Reach::External, members.iter().map(|member| member.weight));
    bencher.bench(|| ring::build(black_box(&members), length));
}

/// One endpoint of one Service has left, at so many Services.
#[divan::bench(args = [1, 100, 10_000], sample_count = 20)]
fn diff_of_one_changed_service(bencher: Bencher<'_, '_>, services: u32) {
    let (mut desired, tables) = applied(services);
    let (service, slice) = facts(0, ENDPOINTS - 1);
    let plan = plan::service(&service, &[Arc::new(slice)], &BackendConfigs::new(), &node(), &ReadinessAlone);
    let changed = desired.replace(&ObjectName::new("bench", "service-0"), Some(plan));
    bencher.bench(|| diff::services(&desired, black_box(&tables), &changed, 0));
}

/// The first packet of a client outside, at so many Services.
#[divan::bench(args = [1, 100, 10_000], sample_count = 20)]
fn explain_one_packet(bencher: Bencher<'_, '_>, services: u32) {
    let (desired, tables) = applied(services);
    let config = Config {
        node_v4: IpAddr::V4(NODE).into(),
        flags: config::flags::NODE_V4,
        snat_port_first: 61_000,
        snat_ports: 4_536,
        ..Config::default()
    };
    let names = TableNames { tables: &tables, slices: Slices::Desired(&desired) };
    let mut host = host_tables(&tables, config, 0);
    let question = Question {
        from: "203.0.113.9:40000".parse().expect("an address"),
        to: "10.96.0.0:80".parse().expect("an address"),
        protocol: Protocol::Tcp,
        entry: Entry::Uplink,
    };
    let told = explain(&question, &mut host, &names);
    assert_eq!(told.verdict, "forward", "{told:?}");
    // The flow is known from now on.
    bencher.bench_local(|| explain(black_box(&question), &mut host, &names));
}

/// So many hosts with ten paths each; half of the rules are prefixes. A path of four elements, from its text on.
#[divan::bench(args = [1, 100, 10_000])]
fn url_map_lookup(bencher: Bencher<'_, '_>, hosts: u32) {
    let path_rule = |index: u32| {
        let text = format!("/api/v{index}");
        let path = NormalPath::of(&text).expect("a path");
        let pattern =
            if index.is_multiple_of(2) { PathPattern::prefix(&path) } else { PathPattern::exact(&path) };
        PathRule { pattern, target: index }
    };
    let host_rule = |index: u32| HostRule {
        host: HostPattern::Exact(format!("host-{index}.example").into()),
        paths: (0..10).map(path_rule).collect(),
        default: None,
    };
    let map = UrlMap::new((0..hosts).map(host_rule).collect(), None);
    let names: Vec<String> = (0..hosts).map(|index| format!("host-{index}.example")).collect();
    let mut next = names.iter().cycle();
    bencher.bench_local(|| {
        let host = Host::of(next.next().expect("a host")).expect("a host");
        let path = NormalPath::of(black_box("/api/v4/items/7?page=2")).expect("a path");
        map.find(&host, &path).map(|found| *found.target)
    });
}
