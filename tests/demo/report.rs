//! What the demo says: to a person as it goes, to a script at the end.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::interrupt::Interrupt;

/// What a step saw.
pub(crate) struct Seen {
    /// Whether the expectation held.
    pub(crate) holds: bool,
    /// What was seen, in one line.
    pub(crate) summary: String,
    /// More lines, for a person.
    pub(crate) details: Vec<String>,
}

/// A step, as `--json` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    name: String,
    expected: String,
    observed: String,
    ok: bool,
    took_ms: u128,
}

/// All that was seen.
pub(crate) struct Report {
    is_json: bool,
    steps: Vec<Step>,
    tables: BTreeMap<String, Value>,
}

impl Report {
    /// With no steps yet.
    pub(crate) fn new(is_json: bool) -> Self {
        Self { is_json, steps: Vec::new(), tables: BTreeMap::new() }
    }

    /// Says something to a person.
    pub(crate) fn say(&self, text: &str) {
        if self.is_json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// Makes a step: states what is expected, does it, says what was seen.
    ///
    /// # Errors
    /// The step could not be done at all, or an end was asked for.
    pub(crate) fn step(
        &mut self,
        name: &str,
        expected: &str,
        interrupt: &Interrupt,
        act: impl FnOnce() -> Result<Seen>,
    ) -> Result<()> {
        interrupt.check()?;
        let started = Instant::now();
        let seen = act().with_context(|| name.to_owned())?;
        let took: Duration = started.elapsed();
        self.say(&format!("{} {name}", if seen.holds { "  ok" } else { "FAIL" }));
        self.say(&format!("       {}", seen.summary));
        for line in &seen.details {
            self.say(&format!("       {line}"));
        }
        if !seen.holds {
            self.say(&format!("       expected: {expected}"));
        }
        self.steps.push(Step {
            name: name.to_owned(),
            expected: expected.to_owned(),
            observed: seen.summary,
            ok: seen.holds,
            took_ms: took.as_millis(),
        });
        Ok(())
    }

    /// Keeps a table for `--json`.
    pub(crate) fn keep_table(&mut self, name: &str, rows: Value) {
        self.tables.insert(name.to_owned(), rows);
    }

    /// Whether every expectation so far held.
    pub(crate) fn has_held(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
    }

    /// The last word.
    ///
    /// # Errors
    /// Standard output takes no JSON.
    pub(crate) fn finish(&self, has_held: bool) -> Result<()> {
        let held = self.steps.iter().filter(|step| step.ok).count();
        let end = if has_held || held < self.steps.len() { "" } else { "; the demo ended before the rest" };
        self.say(&format!("{held} of {} expectations held{end}", self.steps.len()));
        if self.is_json {
            let all = serde_json::json!({ "ok": has_held, "steps": self.steps, "tables": self.tables });
            serde_json::to_writer_pretty(std::io::stdout().lock(), &all)
                .context("cannot print the results")?;
            println!();
        }
        Ok(())
    }
}
