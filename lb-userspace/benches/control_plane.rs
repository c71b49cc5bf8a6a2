//! Times of planning, diffing and building rings: `cargo bench -p lb-userspace --bench control_plane`.
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::Address;
use lb_userspace::diff::{self, Limits, Tables};
use lb_userspace::model::BackendConfigs;
use lb_userspace::plan::{self, NodeContext, ReadinessAlone};
use lb_userspace::ring::{self, Member, Reach};

use fleet::{ENDPOINTS, apply, facts, pod, snapshot};

mod fleet;

const SERVICES: u32 = 10_000;
const ROUNDS: usize = 9;

fn main() {
    rings();
    let node = NodeContext {
        name: "node-a".into(),
        addresses: vec![IpAddr::from([198, 51, 100, 1])],
        ..NodeContext::default()
    };
    many_services(&node);
    one_large_service(&node);
}

fn rings() {
    println!("ring of N equal members, median of {ROUNDS}:");
    for (count, reach) in [3, 10, 50, 100, 1_000, 10_000]
        .into_iter()
        .flat_map(|count| [(count, Reach::External), (count, Reach::Internal)])
    {
        let members: Vec<Member> = (0..count)
            .map(|index| Member { address: Address::from(pod(index)), port: 8080, weight: 1 })
            .collect();
        let length = ring::length(reach, members.iter().map(|member| member.weight));
        let time = median(|| drop(black_box(ring::build(&members, length))));
        println!("  {count:>6} members {length:>8} slots {reach:?}: {time:?}");
    }
}

fn many_services(node: &NodeContext) {
    let snapshot = snapshot(SERVICES, ENDPOINTS);
    let limits =
        Limits { endpoints_max: SERVICES * ENDPOINTS * 2, ring_slots_max: 32 << 20, ..Limits::default() };
    println!("{SERVICES} Services of {ENDPOINTS} endpoints:");
    let (mut desired, time) = timed(|| plan::plan(&snapshot, node, &ReadinessAlone));
    println!("  plan: {time:?}, resident {} MiB", resident_mib());
    let mut tables = Tables::new(limits);
    let (first, time) = timed(|| diff::full(&desired, &tables, 0));
    println!("  first diff: {time:?} for {} operations", first.ops.len());
    let ((), time) = timed(|| apply(&mut tables, &first));
    println!("  apply to the mirror: {time:?}, resident {} MiB", resident_mib());
    drop(first);
    let (again, time) = timed(|| diff::full(&desired, &tables, 0));
    println!("  full diff of equal states: {time:?}, {} operations", again.ops.len());
    let mut turn = 0;
    let time = median(|| {
        turn += 1;
        let (service, slice) = facts(turn, ENDPOINTS - 1);
        let plan = plan::service(&service, &[Arc::new(slice)], &BackendConfigs::new(), node, &ReadinessAlone);
        let changed = desired.replace(&service.name, Some(plan));
        let diff = diff::services(&desired, &tables, &changed, 0);
        apply(&mut tables, &diff);
    });
    println!("  one endpoint leaves: plan, diff and apply {time:?}");
}

fn one_large_service(node: &NodeContext) {
    let snapshot = snapshot(1, 10_000);
    let (desired, time) = timed(|| plan::plan(&snapshot, node, &ReadinessAlone));
    println!("one Service of 10,000 endpoints:\n  plan: {time:?}");
    let mut tables = Tables::new(Limits::default());
    let (first, time) = timed(|| diff::full(&desired, &tables, 0));
    println!("  first diff: {time:?} for {} operations", first.ops.len());
    let ((), time) = timed(|| apply(&mut tables, &first));
    println!("  apply to the mirror: {time:?}");
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| timed(&mut work).1).collect();
    times.sort();
    times[ROUNDS / 2]
}

/// Resident memory of this process, from `/proc/self/statm` in pages of 4 KiB.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) / 256
}
