//! Agents are killed at random moments of their start, their applies and their stop, while manifests change and traffic
//! of both layers goes on. Nothing of layer 4 is lost, and the maps are whole after each kill and after each start.
//!
//! Requests to the Ingress end with the front-end that has them, so they may fail from a kill until the next agent
//! serves; at any other time none may.
//!
//! A short run by itself; `PODWAY_KILLS` sets the number of kills, `PODWAY_SEED` the seed of the moments.
use std::time::{Duration, Instant};

use lb_tests::agent::{Options, Podway};
use lb_tests::endurance::{Absences, Changes, Flows, Rates, Requests, Stage, wait_until_in_sync};
use lb_tests::need;
use lb_tests::packet::Random;
use rustix::process::Signal;

/// Without `PODWAY_KILLS`.
const KILLS: u32 = 9;
/// A start takes about as long without optimisation.
const START_MAX: Duration = Duration::from_millis(1_500);
/// A change is read, planned and applied in less.
const APPLY_MAX: Duration = Duration::from_millis(60);
/// A stop without open connections takes less.
const STOP_MAX: Duration = Duration::from_millis(40);

/// When an agent is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Start,
    Apply,
    Stop,
}

impl Moment {
    const ALL: [Self; 3] = [Self::Start, Self::Apply, Self::Stop];
}

fn number(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Kills an agent at some moment, with the changes that make it one.
fn kill(stage: &mut Stage, index: usize, moment: Moment, changes: &mut Changes, random: &mut Random) {
    let mut pause = |longest: Duration| {
        std::thread::sleep(Duration::from_micros(random.below(longest.as_micros() as usize) as u64));
    };
    match moment {
        Moment::Start => {
            stage.cluster.agents[index].restart().unwrap();
            pause(START_MAX);
        }
        Moment::Apply => {
            changes.make(&mut stage.cluster).unwrap();
            pause(APPLY_MAX);
        }
        Moment::Stop => {
            stage.cluster.agents[index].process().signal(Signal::TERM).unwrap();
            pause(STOP_MAX);
        }
    }
    stage.cluster.agents[index].kill();
}

#[test]
fn agents_killed_at_any_moment_lose_nothing() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let (kills, seed) = (number("PODWAY_KILLS").unwrap_or(KILLS), number("PODWAY_SEED").unwrap_or(1));
    println!("{kills} kills, seed {seed}");
    let mut stage = Stage::start(&podway, Options::default()).unwrap();
    let (mut random, mut changes) = (Random::new(seed.into()), Changes::new(seed.into()));
    let flows = Flows::start(&stage.cluster, Rates::default()).unwrap();
    let requests = Requests::start(stage.cluster.topology.client());
    let mut absences = Absences::default();
    for number in 0..kills {
        let moment = Moment::ALL[number as usize % Moment::ALL.len()];
        let index = random.below(stage.cluster.agents.len());
        let began = Instant::now();
        kill(&mut stage, index, moment, &mut changes, &mut random);
        let whole = stage.cluster.agents[index].verify_maps();
        whole.unwrap_or_else(|error| panic!("after kill {number} in {moment:?}, seed {seed}: {error:#}"));
        // So that the next agent has something to do, and being in sync shows that it has done it.
        changes.make(&mut stage.cluster).unwrap();
        stage.cluster.agents[index].restart().unwrap();
        for agent in &stage.cluster.agents {
            let synced = wait_until_in_sync(agent);
            synced.unwrap_or_else(|error| panic!("kill {number} in {moment:?}, seed {seed}: {error:#}"));
        }
        if index == 0 {
            stage.wait_for_ingress().unwrap();
            absences.end(began);
        }
    }
    let answered = requests.finish(&absences).unwrap();
    println!("{:?}; {answered} requests answered", flows.finish().unwrap());
}
