//! Shared probing, played through: what `docs/health.md` promises of a large cluster, in a smaller one of the same
//! proportions.
use lb_tests::sharing::{Scenario, play};

const SEED: u64 = 17;

/// A hundred endpoints for each node.
fn scenario() -> Scenario {
    Scenario::new(100, 10_000)
}

#[test]
fn each_endpoint_is_probed_three_times_in_an_interval_by_nodes_that_share_alike() {
    let figures = play(&scenario(), SEED);
    // 10,000 endpoints, three probers, every ten seconds, for two minutes.
    assert!((350_000..370_000).contains(&figures.probes), "seed {SEED}: {}", figures.probes);
    let (min, max) = (figures.probes_by_node.iter().min(), figures.probes_by_node.iter().max());
    // 3,600 for each node.
    assert!(min >= Some(&2_800) && max <= Some(&4_400), "seed {SEED}: {min:?} to {max:?}");
}

#[test]
fn where_all_is_well_agents_write_to_renew_alone() {
    let figures = play(&scenario(), SEED);
    // 100 nodes every ten seconds and the summary every five, for two minutes.
    assert!((1_200..1_350).contains(&figures.writes), "seed {SEED}: {}", figures.writes);
    assert_eq!((figures.wrong, figures.unknown), (0, 0));
}

#[test]
fn all_nodes_know_of_failed_endpoints_after_three_intervals_and_a_little() {
    let figures = play(&Scenario { failures: vec![(20_000, 200)], ..scenario() }, SEED);
    assert_eq!((figures.unknown, figures.wrong), (0, 0));
    let (first, last) = (figures.known_after_ms[0], *figures.known_after_ms.last().expect("failed ones"));
    // The third failure in a row of two probers of three: between two and three intervals, a tenth more or less; then
    // a second for each of the two writes at most.
    assert!(first >= 18_000 && last <= 35_500, "seed {SEED}: {first} to {last} ms");
    let calm = play(&scenario(), SEED);
    assert!(figures.writes < calm.writes + 800, "seed {SEED}: {} and {}", figures.writes, calm.writes);
}

#[test]
fn endpoints_of_dead_nodes_get_other_probers_and_failures_are_found_all_the_same() {
    let scenario = Scenario {
        deaths: vec![(30_000, 5)],
        failures: vec![(31_000, 200)],
        length_ms: 150_000,
        ..scenario()
    };
    let figures = play(&scenario, SEED);
    assert_eq!((figures.unknown, figures.wrong), (0, 0));
    // A report holds for 40 seconds.
    assert!((30_000..=42_000).contains(&figures.short_of_probers_ms), "seed {SEED}: {figures:?}");
    let quick = figures.known_after_ms.iter().filter(|after_ms| **after_ms <= 35_500).count();
    let last = figures.known_after_ms.last().expect("failed ones");
    // Those of which two probers died wait for new ones.
    assert!(quick >= 190 && *last <= 75_000, "seed {SEED}: {quick} are quick, the last takes {last} ms");
}

#[test]
fn what_a_seed_gives_is_the_same_each_time() {
    let scenario = Scenario { failures: vec![(5_000, 10)], length_ms: 40_000, ..Scenario::new(20, 500) };
    let [first, second] = [play(&scenario, SEED), play(&scenario, SEED)];
    assert_eq!(first.known_after_ms, second.known_after_ms);
    assert_eq!(first.probes_by_node, second.probes_by_node);
}
