//! What got slower from one run to another.
//!
//! The rule: a row is worse when its medians differ, in the direction that is not wanted, by more than
//! [`PART_MIN`] of the former one, by more than the two interquartile ranges together and by more than
//! [`TEST_RUN_NS`] where it is a time of a test run; and when no sample of one run lies among those of the other. Rows of
//! less than [`SAMPLES_MIN`] samples have no range worth the name, and are not judged. Nor are floors and peers, of which
//! no code is ours: how they changed is how the machine did; nor ratios of test runs, whose times are judged themselves:
//! either may be a few tens of ns, of which [`TEST_RUN_NS`] is a large part.
use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::data::{Better, Parameter, Results, Row, quantile};

/// Least change that counts, as a part of the former median.
const PART_MIN: f64 = 0.05;
/// What a test run's time moves by from run to run with the same programs, ns: floors of 0 ns were found from -10 to 19.
const TEST_RUN_NS: f64 = 25.0;
/// The bench whose times are test runs.
const TEST_RUNS: &str = "path";
/// What cases begin with that are none of Podway's.
const OTHERS: [&str; 4] = ["floor:", "kube-proxy", "kernel routing", "direct to the pod"];
/// Least samples of a row that is judged, in either run.
const SAMPLES_MIN: usize = 3;

/// Prints what got worse and what is better, and fails if anything got worse.
pub(crate) fn report(before: &[Results], after: &[Results]) -> Result<()> {
    let (mut worse, mut compared, mut passed_over) = (0, 0, 0);
    for after in after {
        let Some(before) = before.iter().find(|candidate| candidate.bench == after.bench) else {
            println!("{}: not in the saved run", after.bench);
            continue;
        };
        if (&before.machine.cpu, before.machine.cores) != (&after.machine.cpu, after.machine.cores) {
            println!(
                "{}: another machine, {} then, {} now",
                after.bench, before.machine.cpu, after.machine.cpu
            );
        }
        let rows: BTreeMap<_, &Row> = before.rows.iter().map(|row| (key(row), row)).collect();
        for row in &after.rows {
            let Some(old) = rows.get(&key(row)) else { continue };
            if old.samples.len().min(row.samples.len()) < SAMPLES_MIN {
                passed_over += 1;
                continue;
            }
            let change = change(&after.bench, old, row);
            if OTHERS.iter().any(|other| row.case.starts_with(other)) {
                if change != Change::None {
                    println!("not Podway's, changed: {}: {}", after.bench, line(old, row));
                }
                continue;
            }
            compared += 1;
            let word = match change {
                Change::Worse => "slower",
                Change::Better => "faster",
                Change::None => continue,
            };
            worse += usize::from(change == Change::Worse);
            println!("{word}: {}: {}", after.bench, line(old, row));
        }
    }
    if passed_over > 0 {
        println!("{passed_over} figures of less than {SAMPLES_MIN} rounds not judged");
    }
    println!("{compared} figures compared, {worse} got slower beyond noise");
    if worse > 0 {
        bail!("{worse} of {compared} figures got slower than in the saved run");
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Worse,
    Better,
    None,
}

/// What tells rows of a bench apart.
fn key(row: &Row) -> (&str, &str, &BTreeMap<String, Parameter>, &str) {
    (&row.group, &row.case, &row.parameters, &row.unit)
}

fn change(bench: &str, before: &Row, after: &Row) -> Change {
    let range = |row: &Row| quantile(&row.samples, 0.75) - quantile(&row.samples, 0.25);
    let (old, new) = (quantile(&before.samples, 0.5), quantile(&after.samples, 0.5));
    let difference = (new - old).abs();
    let resolution = match after.unit.as_str() {
        "ns" if bench == TEST_RUNS => TEST_RUN_NS,
        "ratio" if bench == TEST_RUNS => f64::INFINITY,
        _ => 0.0,
    };
    let least = [range(before) + range(after), PART_MIN * old.abs(), resolution];
    if least.iter().any(|least| difference <= *least) || overlap(&before.samples, &after.samples) {
        return Change::None;
    }
    if (new > old) == (after.better == Better::Less) { Change::Worse } else { Change::Better }
}

/// Whether the ranges of all samples have something in common.
fn overlap(one: &[f64], other: &[f64]) -> bool {
    let (low, high) = (|of| quantile(of, 0.0), |of| quantile(of, 1.0));
    low(one) <= high(other) && low(other) <= high(one)
}

fn line(before: &Row, after: &Row) -> String {
    let parameters: String =
        after.parameters.iter().map(|(name, value)| format!(", {name} {value}")).collect();
    let (old, new) = (quantile(&before.samples, 0.5), quantile(&after.samples, 0.5));
    let Row { group, case, unit, .. } = after;
    format!("{group}, {case}{parameters}: {old:.2} to {new:.2} {unit} ({:+.0} %)", (new / old - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, samples: &[f64]) -> Row {
        Row {
            group: "established".into(),
            case: "TCP over IPv4".into(),
            parameters: BTreeMap::new(),
            unit: "ns".into(),
            better,
            samples: samples.to_vec(),
        }
    }

    fn of_rates(before: &Row, after: &Row) -> Change {
        change("connections", before, after)
    }

    #[test]
    fn a_cost_that_rises_beyond_both_ranges_is_worse() {
        let (before, after) = (row(Better::Less, &[100.0, 101.0, 102.0]), row(Better::Less, &[110.0; 3]));
        assert_eq!(of_rates(&before, &after), Change::Worse);
        assert_eq!(of_rates(&after, &before), Change::Better);
    }

    #[test]
    fn ratios_of_test_runs_are_not_judged_and_other_ratios_are() {
        let ratio = |of: f64| Row { unit: "ratio".into(), ..row(Better::Less, &[of; 3]) };
        assert_eq!(change(TEST_RUNS, &ratio(0.7), &ratio(1.4)), Change::None);
        assert_eq!(of_rates(&ratio(0.7), &ratio(1.4)), Change::Worse);
    }

    #[test]
    fn a_rate_that_falls_is_worse() {
        let (before, after) = (row(Better::More, &[100.0; 3]), row(Better::More, &[90.0; 3]));
        assert_eq!(of_rates(&before, &after), Change::Worse);
    }

    #[test]
    fn a_change_within_the_ranges_is_noise() {
        // Quartiles 90 and 110, and 110 and 130: the ranges are 40 together, the medians 20 apart.
        let before = row(Better::Less, &[80.0, 90.0, 100.0, 110.0, 120.0]);
        let after = row(Better::Less, &[100.0, 110.0, 120.0, 130.0, 140.0]);
        assert_eq!(of_rates(&before, &after), Change::None);
    }

    #[test]
    fn a_change_is_noise_where_one_sample_lies_among_the_others() {
        let before = row(Better::Less, &[100.0, 100.0, 100.0, 100.0, 121.0]);
        let after = row(Better::Less, &[120.0; 5]);
        assert_eq!(of_rates(&before, &after), Change::None);
        let before = row(Better::Less, &[100.0, 100.0, 100.0, 100.0, 119.0]);
        assert_eq!(of_rates(&before, &after), Change::Worse);
    }

    #[test]
    fn a_change_below_a_twentieth_does_not_count_however_steady_the_figures() {
        assert_eq!(of_rates(&row(Better::Less, &[100.0; 3]), &row(Better::Less, &[104.0; 3])), Change::None);
    }

    #[test]
    fn a_test_run_must_take_longer_by_more_than_it_moves() {
        let (before, after) = (row(Better::Less, &[60.0; 3]), row(Better::Less, &[80.0; 3]));
        assert_eq!(change("path", &before, &after), Change::None);
        assert_eq!(change("forwarding", &before, &after), Change::Worse);
        assert_eq!(change("path", &before, &row(Better::Less, &[86.0; 3])), Change::Worse);
    }

    #[test]
    fn what_is_not_podways_is_told_and_not_judged() {
        let of = |case: &str, samples: &[f64]| {
            let mut results = run(samples);
            results[0].rows[0].case = case.into();
            results
        };
        for case in ["floor: parse", "kube-proxy rules, iptables"] {
            report(&of(case, &[100.0; 3]), &of(case, &[200.0; 3])).unwrap();
        }
        report(&of("Podway, tc", &[100.0; 3]), &of("Podway, tc", &[200.0; 3])).unwrap_err();
    }

    fn run(samples: &[f64]) -> Vec<Results> {
        let machine = super::super::data::Machine {
            cpu: "AMD EPYC".into(),
            cores: 2,
            kernel: "6.18.0".into(),
            date: "2026-11-24".into(),
            commit: "f3fa44c1b2d3".into(),
        };
        vec![Results {
            bench: "path".into(),
            machine,
            notes: Vec::new(),
            rows: vec![row(Better::Less, samples)],
        }]
    }

    #[test]
    fn a_run_that_got_slower_fails() {
        let error = report(&run(&[100.0; 3]), &run(&[130.0; 3])).unwrap_err().to_string();
        assert_eq!(error, "1 of 1 figures got slower than in the saved run");
    }

    #[test]
    fn a_run_that_got_faster_does_not_fail() {
        report(&run(&[130.0; 3]), &run(&[100.0; 3])).unwrap();
    }
}
