use std::time::Duration;

use proptest::prelude::*;

use super::HealthState::{Ejected, Healthy, Unhealthy, Warming};
use super::*;

fn policy(slow_start_s: u32) -> HealthPolicy {
    let passive = PassivePolicy {
        consecutive_failures: 2,
        failure_percent: 100,
        flows_min: 100,
        ejection_ms: 4_000,
        ejection_max_ms: 4_000,
        ejected_percent_max: 100,
    };
    HealthPolicy { slow_start_s, passive: Some(passive.into()), ..HealthPolicy::default() }
}

/// So many seconds after the start, a minute after which both clocks began.
fn at(second: u64) -> Moment {
    let monotonic_ms = 60_000 + second * 1_000;
    Moment { monotonic_ms, wall: SystemTime::UNIX_EPOCH + Duration::from_millis(monotonic_ms) }
}

fn fail(health: &mut EndpointHealth, policy: &HealthPolicy, now: Moment, may_eject: bool) {
    let passive = policy.passive.as_ref().expect("it is judged");
    let signal = (Signal::Refused, now.monotonic_ms, Reporter::Path);
    health.signal(signal, policy, passive, now, || may_eject);
}

#[test]
fn unhealthy_goes_before_ejected_and_leaves_it_behind() {
    let (mut health, policy) = (EndpointHealth::default(), policy(0));
    assert_eq!(health.health(), Health::default());
    fail(&mut health, &policy, at(1), true);
    fail(&mut health, &policy, at(1), true);
    let ejected = |second| Health {
        state: Ejected,
        since: Some(at(second).wall),
        reason: StateReason::ConsecutiveFailures,
        reporter: Reporter::Path,
    };
    assert_eq!(health.health(), ejected(1));
    health.probe(false, Reporter::Peer, &policy, at(2));
    let expected = Health {
        state: Unhealthy,
        since: Some(at(2).wall),
        reason: StateReason::ProbesFailed,
        reporter: Reporter::Peer,
    };
    assert_eq!(health.health(), expected);
    health.probe(true, Reporter::Probe, &policy, at(3));
    assert_eq!(health.health(), ejected(3));
    health.tick(&policy, at(5));
    assert_eq!((health.health().state, health.health().reason), (Healthy, StateReason::EjectionOver));
}

#[test]
fn endpoint_that_may_not_be_ejected_stays() {
    let (mut health, policy) = (EndpointHealth::default(), policy(0));
    (0..3).for_each(|second| fail(&mut health, &policy, at(second), false));
    assert_eq!(health.health().state, Healthy);
    fail(&mut health, &policy, at(3), true);
    assert_eq!(health.health().state, Ejected);
}

#[test]
fn share_rises_by_tenths_while_an_endpoint_warms_up() {
    let (mut health, policy) = (EndpointHealth::default(), policy(20));
    health.probe(false, Reporter::Probe, &policy, at(0));
    health.probe(true, Reporter::Probe, &policy, at(10));
    assert_eq!(health.health().state, Warming);
    let shares = [10, 11, 12, 20, 28, 29].map(|second| health.share_percent(at(second)));
    assert_eq!(shares, [10, 10, 20, 60, 100, 100]);
    health.tick(&policy, at(29));
    assert_eq!(health.health().state, Warming);
    health.tick(&policy, at(30));
    assert_eq!((health.health().state, health.health().reason), (Healthy, StateReason::WarmedUp));
}

#[test]
fn names_in_output_are_stable() {
    let health = Health { state: Ejected, reason: StateReason::FailureShare, ..Health::default() };
    let text = serde_json::to_string(&health).expect("JSON");
    assert_eq!(text, r#"{"state":"ejected","since":null,"reason":"failure-share","reporter":"probe"}"#);
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Probe(bool),
    Fail { may_eject: bool },
    Answer,
    Tick,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        any::<bool>().prop_map(Input::Probe),
        any::<bool>().prop_map(|may_eject| Input::Fail { may_eject }),
        Just(Input::Answer),
        Just(Input::Tick),
    ]
}

/// The same rules as plain facts: what was last said by probes, when the last ejection began, when it last came in.
struct Plain {
    passes: bool,
    row: u32,
    ejected_s: Option<u64>,
    came_in_s: Option<u64>,
    state: HealthState,
}

impl Plain {
    fn step(&mut self, input: Input, second: u64, slow_start_s: u64) {
        match input {
            Input::Probe(passes) => self.passes = passes,
            Input::Answer => self.row = 0,
            Input::Fail { may_eject } if self.ejected_s.is_none() => {
                self.row += 1;
                if self.row >= 2 && may_eject {
                    (self.row, self.ejected_s) = (0, Some(second));
                }
            }
            Input::Fail { .. } => {}
            Input::Tick => {
                if self.ejected_s.is_some_and(|since| second - since >= 4) {
                    self.ejected_s = None;
                }
            }
        }
        let was_in = self.state.is_healthy();
        let is_in = self.passes && self.ejected_s.is_none();
        if is_in && !was_in {
            self.came_in_s = (slow_start_s > 0).then_some(second);
        }
        let is_warm = || self.came_in_s.is_some_and(|s| second - s >= slow_start_s);
        if !is_in || (was_in && matches!(input, Input::Tick) && is_warm()) {
            self.came_in_s = None;
        }
        self.state = match (self.passes, self.ejected_s, self.came_in_s) {
            (false, _, _) => Unhealthy,
            (true, Some(_), _) => Ejected,
            (true, None, Some(_)) => Warming,
            (true, None, None) => Healthy,
        };
    }
}

proptest! {
    #[test]
    fn machine_agrees_with_the_rules_over_any_sequence(
        slow_start_s in 0u32..6,
        inputs in prop::collection::vec((input(), 0u64..4), 0..80),
    ) {
        let policy = policy(slow_start_s);
        let passive = policy.passive.clone().expect("it is judged");
        let mut health = EndpointHealth::default();
        let mut plain =
            Plain { passes: true, row: 0, ejected_s: None, came_in_s: None, state: Healthy };
        let (mut second, mut since) = (0, None);
        for (input, wait_s) in inputs {
            second += wait_s;
            let now = at(second);
            let before = plain.state;
            plain.step(input, second, slow_start_s.into());
            match input {
                Input::Probe(passes) => health.probe(passes, Reporter::Probe, &policy, now),
                Input::Fail { may_eject } => fail(&mut health, &policy, now, may_eject),
                Input::Answer => {
                    let signal = (Signal::Answered, now.monotonic_ms, Reporter::Path);
                    health.signal(signal, &policy, &passive, now, || true);
                }
                Input::Tick => health.tick(&policy, now),
            }
            if plain.state != before {
                since = Some(now.wall);
            }
            prop_assert_eq!(health.health().state, plain.state);
            prop_assert_eq!(health.health().since, since);
            prop_assert_eq!(health.is_timed(), plain.ejected_s.is_some() || plain.came_in_s.is_some());
        }
    }
}

#[test]
fn json_has_the_stable_names() {
    let text = |names: &[&str]| serde_json::to_string(names).expect("text");
    let states = HealthState::ALL.map(HealthState::name);
    assert_eq!(serde_json::to_string(&HealthState::ALL).expect("text"), text(&states));
    let reasons = StateReason::ALL.map(StateReason::name);
    assert_eq!(serde_json::to_string(&StateReason::ALL).expect("text"), text(&reasons));
    assert_eq!((states[2], reasons[3]), ("ejected", "consecutive-failures"));
}
