//! The page for operators says what every reason, of a packet and of an Event, means and what to do.
use std::collections::BTreeSet;

use lb_common::counters::{Outcome, Reason};
use lb_userspace::events;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md"));

/// The part of the page about an outcome.
fn section(outcome: Outcome) -> &'static str {
    let heading = match outcome {
        Outcome::Forward | Outcome::Answer | Outcome::Hold => "\n### Forwarded, answered, held\n",
        Outcome::Refuse => "\n### Refused\n",
        Outcome::Drop => "\n### Dropped\n",
        Outcome::Pass => "\n### Passed\n",
        Outcome::Note => "\n### Noted beside another reason\n",
    };
    let (_, rest) = PAGE.split_once(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n### ").next().unwrap_or(rest)
}

#[test]
fn every_reason_has_a_row_under_its_outcome_with_its_meaning_and_a_remedy() {
    for reason in Reason::ALL {
        let start = format!("| `{}` | ", reason.name());
        let rows: Vec<&str> =
            section(reason.outcome()).lines().filter(|line| line.starts_with(&start)).collect();
        let [row] = rows[..] else { panic!("{} has {} rows under its outcome", reason.name(), rows.len()) };
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

#[test]
fn no_row_is_about_a_reason_that_is_none() {
    let (_, reasons) = PAGE.split_once("\n## Reasons\n").expect("a heading");
    let names = reasons.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for name in names {
        assert!(Reason::ALL.iter().any(|reason| reason.name() == name), "{name}");
    }
}

#[test]
fn every_event_has_one_row_with_its_object_its_meaning_and_a_remedy_and_there_are_no_others() {
    let (_, events) = PAGE.split_once("\n## Events\n").expect("a heading");
    let events = events.split("\n## ").next().unwrap_or(events);
    let rows = events.lines().filter(|line| line.starts_with("| `"));
    let names: Vec<&str> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            cells[0].trim_matches('`')
        })
        .collect();
    assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), events::reasons().collect());
    assert_eq!(names.len(), events::reasons().count());
}
