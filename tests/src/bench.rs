//! What bench programs share: how much is asked for, the rows that they collect, and where those go.
//!
//! A bench program is a target under `benches/`. It makes a [`Bench`], adds a sample per round to its rows
//! and calls [`Bench::finish`], which prints them and writes the file that `cargo xtask bench` asks for.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

pub mod cpu;
pub mod data;
pub mod l7;
pub mod services;
pub mod transit;
pub mod usage;
pub mod ways;

use data::{Better, Machine, Parameter, Results, Row, quantile};

/// Names the file to write the results to. Without it they are printed only.
const RESULTS_VARIABLE: &str = "PODWAY_BENCH_RESULTS";
/// Set: fewer sizes and rounds, for a look of seconds.
const QUICK_VARIABLE: &str = "PODWAY_BENCH_QUICK";

/// A bench program at work.
pub struct Bench {
    results: Results,
    is_quick: bool,
}

/// A row that samples are added to: its place in the bench that made it.
#[derive(Clone, Copy, Debug)]
pub struct RowId(usize);

impl Bench {
    /// A bench program's start; `name` is its target.
    ///
    /// # Errors
    /// The machine does not say what it is.
    pub fn new(name: &str) -> Result<Self> {
        let results =
            Results { bench: name.to_owned(), machine: machine()?, notes: Vec::new(), rows: Vec::new() };
        Ok(Self { results, is_quick: std::env::var_os(QUICK_VARIABLE).is_some() })
    }

    /// One of two amounts: the second is for a quick look.
    #[must_use]
    pub fn choose<T>(&self, whole: T, quick: T) -> T {
        if self.is_quick { quick } else { whole }
    }

    /// A sentence for the page, above the tables.
    pub fn note(&mut self, note: &str) {
        self.results.notes.push(note.to_owned());
    }

    /// A new row, whose samples come one a round.
    pub fn row<'a>(
        &mut self,
        group: &str,
        case: &str,
        parameters: impl IntoIterator<Item = (&'a str, Parameter)>,
        unit: &str,
        better: Better,
    ) -> RowId {
        self.results.rows.push(Row {
            group: group.to_owned(),
            case: case.to_owned(),
            parameters: parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            unit: unit.to_owned(),
            better,
            samples: Vec::new(),
        });
        RowId(self.results.rows.len() - 1)
    }

    /// One more sample of a row.
    ///
    /// # Panics
    /// The row is another bench's.
    pub fn add(&mut self, row: RowId, sample: f64) {
        self.results.rows[row.0].samples.push(sample);
    }

    /// A row of one row's samples in terms of another's, round by round: ratios taken within a round are not
    /// moved by a machine that gets slower in the meantime.
    pub fn ratio<'a>(
        &mut self,
        group: &str,
        case: &str,
        parameters: impl IntoIterator<Item = (&'a str, Parameter)>,
        of: RowId,
        to: RowId,
    ) {
        let pairs = self.samples(of).zip(self.samples(to));
        let samples: Vec<f64> = pairs.map(|(of, to)| of / to).collect();
        self.ratio_row(group, case, parameters, of, samples);
    }

    /// As [`Bench::ratio`], of what both rows have above a third one, which is part of both.
    pub fn ratio_above<'a>(
        &mut self,
        group: &str,
        case: &str,
        parameters: impl IntoIterator<Item = (&'a str, Parameter)>,
        (of, to): (RowId, RowId),
        floor: RowId,
    ) {
        let rounds = self.samples(of).zip(self.samples(to)).zip(self.samples(floor));
        let samples: Vec<f64> = rounds.map(|((of, to), floor)| (of - floor) / (to - floor)).collect();
        self.ratio_row(group, case, parameters, of, samples);
    }

    fn samples(&self, row: RowId) -> impl Iterator<Item = f64> {
        self.results.rows[row.0].samples.iter().copied()
    }

    fn ratio_row<'a>(
        &mut self,
        group: &str,
        case: &str,
        parameters: impl IntoIterator<Item = (&'a str, Parameter)>,
        of: RowId,
        samples: Vec<f64>,
    ) {
        let better = self.results.rows[of.0].better;
        let row = self.row(group, case, parameters, "ratio", better);
        self.results.rows[row.0].samples = samples;
    }

    /// Prints the rows, and writes them to the file that was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<()> {
        for note in &self.results.notes {
            println!("{note}");
        }
        print(&self.results.rows);
        let Some(path) = std::env::var_os(RESULTS_VARIABLE).map(PathBuf::from) else {
            return Ok(());
        };
        let text = serde_json::to_string(&self.results).context("results always have a text")?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl From<u64> for Parameter {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Parameter {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for Parameter {
    fn from(word: &str) -> Self {
        Self::Word(word.to_owned())
    }
}

/// Group by group, in the order of their first rows.
fn print(rows: &[Row]) {
    for (index, first) in rows.iter().enumerate() {
        if rows[..index].iter().any(|row| row.group == first.group) {
            continue;
        }
        println!("\n{}: median (least to greatest)", first.group);
        for row in rows.iter().filter(|row| row.group == first.group) {
            let Row { case, unit, samples, .. } = row;
            let name = format!("{case}{}", text_of(&row.parameters));
            let [median, least, greatest] = [0.5, 0.0, 1.0].map(|part| quantile(samples, part));
            println!("  {name:<60} {median:>12.2} ({least:.2} to {greatest:.2}) {unit}");
        }
    }
}

fn text_of(parameters: &BTreeMap<String, Parameter>) -> String {
    parameters.iter().map(|(name, value)| format!(", {name} {value}")).collect()
}

fn machine() -> Result<Machine> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the release")?;
    Ok(Machine {
        cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
        // Not what this thread may use: it may be pinned.
        cores: cpu::count()?,
        kernel: kernel.trim().split('-').next().unwrap_or_default().to_owned(),
        date: line_of("date", &["--utc", "+%F"]).context("cannot ask for the date")?,
        commit: commit(),
    })
}

/// The commit of the sources, `unknown` where they have none. They may be another user's: benches run as
/// root.
fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let arguments = [
        "-c",
        "safe.directory=*",
        "-C",
        folder,
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ];
    line_of("git", &arguments).unwrap_or_else(|| "unknown".into())
}

/// What a program prints, on one line; `None` where it fails.
fn line_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut bench = Bench::new("test").unwrap();
        let cost = bench.row("cost", "path", [], "ns", Better::Less);
        let floor = bench.row("cost", "floor", [], "ns", Better::Less);
        for (path, least) in [(200.0, 100.0), (900.0, 300.0)] {
            bench.add(cost, path);
            bench.add(floor, least);
        }
        bench.ratio("cost beside the floor", "path", [("flows", 1_u32.into())], cost, floor);
        let ratio = &bench.results.rows[2];
        assert_eq!(ratio.samples, [2.0, 3.0]);
        assert_eq!((ratio.unit.as_str(), ratio.better), ("ratio", Better::Less));
    }

    #[test]
    fn what_both_have_in_common_is_taken_off_a_ratio() {
        let mut bench = Bench::new("test").unwrap();
        let [rules, path, making] = ["rules", "path", "making"].map(|case| {
            let row = bench.row("cost", case, [], "ns", Better::Less);
            bench.add(
                row,
                match case {
                    "rules" => 1_100.0,
                    "path" => 300.0,
                    _ => 100.0,
                },
            );
            row
        });
        bench.ratio_above("ratio", "rules to path", [], (rules, path), making);
        assert_eq!(bench.results.rows[3].samples, [5.0]);
    }
}
