use super::*;
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
    Ok((Outcome::Failed, "connection refused".into()))
}

fn record(schedule: &mut Schedule, probe: &Probe, seen: Seen, now: Instant) -> Option<HealthEvent> {
    schedule.record(probe, seen, now, SystemTime::UNIX_EPOCH, u32::MAX)
}

#[test]
fn first_probes_are_spread_over_one_interval() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let mut random = [0, u32::MAX].into_iter();
    schedule.update(&web(), &targets(&[1, 2], &CHECK), start, || random.next().expect("two targets"));
    assert_eq!(schedule.take_due(start).map(|probe| probe.target), Some(target(1)));
    assert_eq!(schedule.take_due(start + ms(999)), None);
    let probe = schedule.take_due(start + ms(1_000)).expect("the other is due");
    assert_eq!((probe.target, probe.check), (target(2), Arc::new(CHECK)));
    assert_eq!(schedule.next_due(), None, "both are under way");
}

#[test]
fn next_probe_is_due_an_interval_after_the_last_began_with_a_tenth_of_jitter() {
    for (random, due) in [(0, ms(900)), (u32::MAX, ms(1_100))] {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.update(&web(), &targets(&[1], &CHECK), start, || 0);
        let probe = schedule.take_due(start).expect("is due");
        schedule.record(&probe, failed(), start + ms(150), SystemTime::UNIX_EPOCH, random);
        assert_eq!(schedule.next_due(), Some(start + due));
    }
}

#[test]
fn probe_that_outlasts_the_interval_is_followed_by_the_next_at_once() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, || 0);
    let probe = schedule.take_due(start).expect("is due");
    record(&mut schedule, &probe, failed(), start + ms(5_000));
    assert_eq!(schedule.next_due(), Some(start + ms(5_000)));
}

#[test]
fn only_changes_of_state_are_events() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, || 0);
    let mut events = Vec::new();
    let seen = [
        failed(),
        failed(),
        failed(),
        Err("no more files".into()),
        Ok((Outcome::Passed, "connected".into())),
    ];
    for (index, seen) in (0..).zip(seen) {
        let now = start + ms(index * 1_200);
        let probe = schedule.take_due(now).expect("is due");
        events.extend(record(&mut schedule, &probe, seen, now).map(|event| (index, event)));
    }
    let event = |is_healthy, reason: &str| {
        let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: reason.into() };
        HealthEvent::Found(target(1), finding)
    };
    assert_eq!(events, [(1, event(false, "connection refused")), (4, event(true, "connected"))]);
}

#[test]
fn fault_of_this_node_says_nothing_about_the_endpoint() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, || 0);
    for index in 0..5 {
        let now = start + ms(index * 1_200);
        let probe = schedule.take_due(now).expect("is due");
        assert_eq!(record(&mut schedule, &probe, Err("no more files".into()), now), None);
    }
}

#[test]
fn removed_target_is_forgotten_and_its_late_probe_is_of_no_use() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let check = HealthCheck { unhealthy_threshold: 1, ..CHECK };
    schedule.update(&web(), &targets(&[1, 2], &check), start, || 0);
    let first = schedule.take_due(start).expect("is due");
    assert!(record(&mut schedule, &first, failed(), start).is_some());
    let second = schedule.take_due(start).expect("is due");
    let events = schedule.update(&web(), &targets(&[], &check), start, || 0);
    assert_eq!(events, [HealthEvent::Forgotten(target(1))], "nothing was said of the other");
    assert_eq!(schedule.next_due(), None);
    schedule.update(&web(), &targets(&[2], &check), start, || HALF);
    assert_eq!(record(&mut schedule, &second, failed(), start), None, "it was a probe of the old one");
    assert!(schedule.take_due(start + ms(501)).is_some());
    assert_eq!(schedule.take_due(start + ms(5_000)), None, "one probe at a time");
}

#[test]
fn shorter_interval_holds_at_once() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let slow = HealthCheck { interval_ms: 3_600_000, ..CHECK };
    schedule.update(&web(), &targets(&[1], &slow), start, || u32::MAX);
    assert_eq!(schedule.next_due(), Some(start + ms(3_600_000)));
    schedule.update(&web(), &targets(&[1], &CHECK), start, || u32::MAX);
    assert_eq!(schedule.next_due(), Some(start + ms(1_000)));
    assert!(schedule.take_due(start + ms(1_000)).is_some());
    assert_eq!(schedule.take_due(start + ms(3_600_000)), None);
}

#[test]
fn targets_of_one_service_leave_those_of_the_others_alone() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.update(&web(), &targets(&[1], &CHECK), start, || 0);
    for other in ["cart", "web-2"] {
        schedule.update(&ObjectName::new("shop", other), &Targets::new(), start, || 0);
    }
    assert_eq!(schedule.take_due(start).map(|probe| probe.target), Some(target(1)));
}
