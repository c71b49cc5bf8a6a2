//! What a Service promises, on three nodes: a table of stories by way of attachment by address family.
//! Each story sends real traffic and says who must answer, which source the pod must see, and what the
//! client must see where nobody answers.
//!
//! One cluster serves all stories of a way of attachment; a story changes only Services of its own. All
//! failures are collected, so one run shows the whole table. `PODWAY_STORIES` narrows it to the stories
//! whose name has that text in it.
mod affinity;
mod bounds;
mod changes;
mod datagrams;
mod drain;
mod fragments;
mod health_checks;
mod inside;
mod outside;
mod path_mtu;
mod policies;
mod refusals;
mod sctp;
mod services;
mod untouched;
mod world;

use std::time::Instant;

use lb_tests::agent::Podway;
use lb_tests::endurance::wait_until_in_sync;
use lb_tests::need;

use world::{Family, Mode, Story, World};

fn stories() -> impl Iterator<Item = &'static Story> {
    let groups = [
        outside::STORIES,
        inside::STORIES,
        policies::STORIES,
        affinity::STORIES,
        refusals::STORIES,
        changes::STORIES,
        drain::STORIES,
        health_checks::STORIES,
        path_mtu::STORIES,
        datagrams::STORIES,
        fragments::STORIES,
        untouched::STORIES,
        sctp::STORIES,
        bounds::STORIES,
    ];
    groups.into_iter().flatten()
}

/// Tells every story in both families.
fn tell(mode: Mode) {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let mut world = World::start(&podway, mode).unwrap();
    let wanted = std::env::var("PODWAY_STORIES").unwrap_or_default();
    let mut failures = Vec::new();
    for family in [Family::V4, Family::V6] {
        world.family = family;
        for story in stories().filter(|story| story.name.contains(&wanted) && (story.has_meaning)(mode)) {
            let begun = Instant::now();
            if let Err(error) = (story.tell)(&mut world) {
                let (name, took) = (story.name, begun.elapsed());
                failures.push(format!("{mode:?}, {family:?}, {name}, after {took:.1?}: {error:#}"));
            }
        }
    }
    for agent in &world.cluster.agents {
        failures.extend(wait_until_in_sync(agent).err().map(|error| format!("{mode:?}: {error:#}")));
    }
    assert!(failures.is_empty(), "{} stories failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_story_holds_with_native_xdp() {
    tell(Mode::Native);
}

#[test]
fn every_story_holds_with_generic_xdp() {
    tell(Mode::Generic);
}

#[test]
fn every_story_holds_with_tc_alone() {
    tell(Mode::Tc);
}

#[test]
fn every_story_holds_without_socket_hooks() {
    tell(Mode::NoSocketHooks);
}
