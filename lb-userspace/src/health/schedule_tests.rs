use super::*;
use crate::health::ReasonCode;
use crate::model::CheckKind;

const CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    port: None,
    interval_ms: 1_000,
    timeout_ms: 200,
    healthy_threshold: 1,
    unhealthy_threshold: 2,
};
const HALF: u32 = u32::MAX / 2;

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn target(port: u16) -> Target {
    let backend_service =
        BackendServiceName { service: web(), port_name: "http".into(), port: 80, protocol: Protocol::Tcp };
    Target { backend_service: Arc::new(backend_service), address: [192, 0, 2, 1].into(), port }
}

fn targets(ports: &[u16], check: &HealthCheck) -> Targets {
    ports.iter().map(|port| (target(*port), Arc::new(check.clone()))).collect()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn failed() -> Seen {
    Seen { code: ReasonCode::ConnectRefused, detail: "nobody there".into() }
}

fn passed() -> Seen {
    Seen { code: ReasonCode::Passed, detail: "connected".into() }
}

fn node_fault() -> Seen {
    Seen { code: ReasonCode::NodeFault, detail: "no more files".into() }
}

fn record(schedule: &mut Schedule, probe: &Probe, seen: Seen, now: Instant) -> Option<HealthEvent> {
    schedule.record(probe, seen, now, SystemTime::UNIX_EPOCH, u32::MAX)
}

#[test]
fn first_probes_are_spread_over_one_interval() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let mut random = [0, u32::MAX].into_iter();
    schedule.update(&web(), &targets(&[1, 2], &CHECK), start, SystemTime::UNIX_EPOCH, || {
        random.next().expect("two targets")
    });
    assert_eq!(schedule.take_due(start).map(|probe| probe.target), Some(target(1)));
    assert_eq!(schedule.take_due(start + ms(999)), None);
    let probe = schedule.take_due(start + ms(1_000)).expect("the other is due");
    assert_eq!((probe.target, probe.check), (target(2), Arc::new(CHECK)));
    assert_eq!(schedule.next_due(), None, "both are under way");
}

#[test]
fn next_probe_is_due_an_interval_after_the_last_began_or_up_to_a_fifth_sooner() {
    for (random, due) in [(0, ms(800)), (u32::MAX, ms(1_000))] {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || 0);
        let probe = schedule.take_due(start).expect("is due");
        schedule.record(&probe, failed(), start + ms(150), SystemTime::UNIX_EPOCH, random);
        assert_eq!(schedule.next_due(), Some(start + due));
    }
}

#[test]
fn probe_that_outlasts_the_interval_is_followed_by_the_next_at_once() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || 0);
    let probe = schedule.take_due(start).expect("is due");
    record(&mut schedule, &probe, failed(), start + ms(5_000));
    assert_eq!(schedule.next_due(), Some(start + ms(5_000)));
}

#[test]
fn only_changes_of_state_are_events() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || 0);
    let mut events = Vec::new();
    let seen = [failed(), failed(), failed(), node_fault(), passed()];
    for (index, seen) in (0..).zip(seen) {
        let now = start + ms(index * 1_200);
        let probe = schedule.take_due(now).expect("is due");
        events.extend(record(&mut schedule, &probe, seen, now).map(|event| (index, event)));
    }
    let event = |is_healthy, reason: &str| {
        let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: reason.into() };
        HealthEvent::Found(target(1), finding)
    };
    assert_eq!(events, [(1, event(false, "connect-refused: nobody there")), (4, event(true, "connected"))]);
}

#[test]
fn fault_of_this_node_says_nothing_about_the_endpoint() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || 0);
    for index in 0..5 {
        let now = start + ms(index * 1_200);
        let probe = schedule.take_due(now).expect("is due");
        assert_eq!(record(&mut schedule, &probe, node_fault(), now), None);
    }
}

#[test]
fn removed_target_is_forgotten_and_its_late_probe_is_of_no_use() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let check = HealthCheck { unhealthy_threshold: 1, ..CHECK };
    schedule.update(&web(), &targets(&[1, 2], &check), start, SystemTime::UNIX_EPOCH, || 0);
    let first = schedule.take_due(start).expect("is due");
    assert!(record(&mut schedule, &first, failed(), start).is_some());
    let second = schedule.take_due(start).expect("is due");
    let events = schedule.update(&web(), &targets(&[], &check), start, SystemTime::UNIX_EPOCH, || 0);
    assert_eq!(events, [HealthEvent::Forgotten(target(1))], "nothing was said of the other");
    assert_eq!(schedule.next_due(), None);
    schedule.update(&web(), &targets(&[2], &check), start, SystemTime::UNIX_EPOCH, || HALF);
    assert_eq!(record(&mut schedule, &second, failed(), start), None, "it was a probe of the old one");
    assert!(schedule.take_due(start + ms(501)).is_some());
    assert_eq!(schedule.take_due(start + ms(5_000)), None, "one probe at a time");
}

#[test]
fn shorter_interval_holds_at_once() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let slow = HealthCheck { interval_ms: 3_600_000, ..CHECK };
    schedule.update(&web(), &targets(&[1], &slow), start, SystemTime::UNIX_EPOCH, || u32::MAX);
    assert_eq!(schedule.next_due(), Some(start + ms(3_600_000)));
    schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || u32::MAX);
    assert_eq!(schedule.next_due(), Some(start + ms(1_000)));
    assert!(schedule.take_due(start + ms(1_000)).is_some());
    assert_eq!(schedule.take_due(start + ms(3_600_000)), None);
}

#[test]
fn targets_of_one_service_leave_those_of_the_others_alone() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, SystemTime::UNIX_EPOCH, || 0);
    for other in ["cart", "web-2"] {
        schedule.update(
            &ObjectName::new("shop", other),
            &Targets::new(),
            start,
            SystemTime::UNIX_EPOCH,
            || 0,
        );
    }
    assert_eq!(schedule.take_due(start).map(|probe| probe.target), Some(target(1)));
}

#[test]
fn health_of_a_target_says_when_it_changed_and_what_the_last_probe_saw() {
    let start = Instant::now();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut schedule = Schedule::default();
    let check = HealthCheck { unhealthy_threshold: 1, ..CHECK };
    schedule.update(&web(), &targets(&[1], &check), start, at(10), || 0);
    let health = |schedule: &Schedule| schedule.page(None, None, 10).0.remove(0);
    let expected = TargetHealth {
        backend_service: "shop/web:http/TCP".into(),
        endpoint: "192.0.2.1:1".parse().expect("an address"),
        healthy: true,
        since_unix_ms: 10_000,
        decided_by: DecidedBy::Readiness,
        last_probe: None,
    };
    assert_eq!(health(&schedule), expected);
    let probe = schedule.take_due(start).expect("is due");
    schedule.record(&probe, failed(), start + ms(3), at(20), 0);
    let probe = schedule.take_due(start + ms(900)).expect("is due");
    schedule.record(&probe, failed(), start + ms(904), at(30), 0);
    let last_probe = LastProbe {
        at_unix_ms: 30_000,
        latency_us: 4_000,
        reason_code: ReasonCode::ConnectRefused,
        detail: "nobody there".into(),
    };
    assert_eq!(
        health(&schedule),
        TargetHealth {
            healthy: false,
            since_unix_ms: 20_000,
            decided_by: DecidedBy::Probe,
            last_probe: Some(last_probe),
            ..expected
        }
    );
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.update(&web(), &targets(&[1, 2, 3], &CHECK), now, SystemTime::UNIX_EPOCH, || 0);
    let ports = |page: &[TargetHealth]| page.iter().map(|health| health.endpoint.port()).collect::<Vec<_>>();
    let (first, last) = schedule.page(None, None, 2);
    assert_eq!((ports(&first), &last), (vec![1, 2], &Some(target(2))));
    let (second, last) = schedule.page(last.as_ref(), None, 2);
    assert_eq!((ports(&second), &last), (vec![3], &Some(target(3))));
    assert_eq!(schedule.page(last.as_ref(), None, 2), (Vec::new(), None));
}

#[test]
fn page_of_a_backend_service_has_its_targets_alone() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.update(&web(), &targets(&[1], &CHECK), now, SystemTime::UNIX_EPOCH, || 0);
    assert_eq!(schedule.page(None, Some("shop/web:http/TCP"), 2).0.len(), 1);
    assert_eq!(schedule.page(None, Some("shop/web"), 2).0, []);
}

#[test]
fn probes_are_counted_with_their_lateness_and_latency() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let check = HealthCheck { unhealthy_threshold: 1, ..CHECK };
    schedule.update(&web(), &targets(&[1, 2], &check), start, SystemTime::UNIX_EPOCH, || 0);
    let probe = schedule.take_due(start + ms(3)).expect("is due");
    record(&mut schedule, &probe, failed(), start + ms(10));
    let stats = schedule.stats();
    assert_eq!((stats.targets, stats.unhealthy), (2, 1));
    assert_eq!(stats.probes, [(ReasonCode::ConnectRefused, 1)].into());
    // Classes of a quarter at most.
    assert_eq!(stats.lateness.quantile(1.0), Duration::from_micros(3_071));
    assert_eq!(stats.latency.quantile(1.0), Duration::from_micros(7_167));
}

/// When a target is found unhealthy that fails from a time on, each probe after `latency`; by `random` for the times
/// between probes. Milliseconds after the first probe.
fn found_unhealthy_after(
    check: &HealthCheck,
    fails_from: u64,
    latency: Duration,
    random: &mut impl FnMut() -> u32,
) -> Duration {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], check), start, SystemTime::UNIX_EPOCH, || 0);
    loop {
        let due = schedule.next_due().expect("a probe is due");
        let probe = schedule.take_due(due).expect("it is due");
        // A probe that is under way when the fault begins may pass: what it asks for may have come before.
        let (seen, end) = match due > start + ms(fails_from) {
            true => (failed(), due + latency),
            false => (passed(), due + ms(1)),
        };
        if schedule.record(&probe, seen, end, SystemTime::UNIX_EPOCH, random()).is_some() {
            return end.duration_since(start);
        }
    }
}

proptest::proptest! {
    /// Whenever the fault begins, whatever the jitter, and however long probes take up to the timeout: one of them is
    /// added to the intervals.
    #[test]
    fn failing_target_is_unhealthy_within_its_intervals_and_one_timeout(
        unhealthy_threshold in 1u32..6,
        fails_from in 0u64..5_000,
        latency_ms in 0u64..=900,
        jitter in proptest::collection::vec(proptest::prelude::any::<u32>(), 16),
    ) {
        let check = HealthCheck { unhealthy_threshold, timeout_ms: 900, ..CHECK };
        let mut jitter = jitter.into_iter().cycle();
        let mut random = || jitter.next().expect("a cycle");
        let after = found_unhealthy_after(&check, fails_from, ms(latency_ms), &mut random);
        let bound = ms(fails_from + u64::from(unhealthy_threshold) * 1_000 + latency_ms);
        proptest::prop_assert!(after <= bound, "{:?} after the first probe, {:?} at most", after, bound);
    }
}

#[test]
fn longest_way_to_unhealthy_is_the_bound_itself() {
    // The fault begins as a probe has begun that passes; all waits are the longest.
    let check = HealthCheck { unhealthy_threshold: 3, timeout_ms: 900, ..CHECK };
    assert_eq!(found_unhealthy_after(&check, 0, ms(900), &mut || u32::MAX), ms(3_900));
}
