//! A saved run: the results of several bench programs in one file, a row a line, so that two runs differ
//! in lines.
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::data::Results;

/// Digits that a sample keeps: noise is greater than what is cut.
const DIGITS: i32 = 5;

/// Reads a saved run.
pub(crate) fn read(path: &Path) -> Result<Vec<Results>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no saved run of benches", path.display()))
}

/// Reads a saved run; none is an empty one.
pub(crate) fn read_if_there(path: &Path) -> Result<Vec<Results>> {
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

/// Writes a saved run.
pub(crate) fn write(path: &Path, run: &[Results]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text_of(run)?).with_context(|| format!("cannot write {}", path.display()))
}

/// `old` with the results of the bench programs in `new` instead of their own, by name.
pub(crate) fn merged(mut old: Vec<Results>, new: Vec<Results>) -> Vec<Results> {
    old.retain(|results| new.iter().all(|newer| newer.bench != results.bench));
    old.extend(new);
    old.sort_by(|a, b| a.bench.cmp(&b.bench));
    old
}

fn text_of(run: &[Results]) -> Result<String> {
    let mut text = String::from("[");
    for (index, results) in run.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let (bench, machine) =
            (serde_json::to_string(&results.bench)?, serde_json::to_string(&results.machine)?);
        write!(text, "{separator}\n{{\"bench\": {bench},\n\"machine\": {machine},\n")?;
        if !results.notes.is_empty() {
            writeln!(text, "\"notes\": {},", serde_json::to_string(&results.notes)?)?;
        }
        write!(text, "\"rows\": [")?;
        for (index, row) in results.rows.iter().enumerate() {
            let mut row = row.clone();
            row.samples.iter_mut().for_each(|sample| *sample = rounded(*sample));
            let separator = if index == 0 { "" } else { "," };
            write!(text, "{separator}\n{}", serde_json::to_string(&row)?)?;
        }
        text.push_str("\n]}");
    }
    text.push_str("\n]\n");
    Ok(text)
}

fn rounded(sample: f64) -> f64 {
    if sample == 0.0 || !sample.is_finite() {
        return 0.0;
    }
    let digits = DIGITS - 1 - sample.abs().log10().floor() as i32;
    if digits <= 0 {
        return sample.round();
    }
    let scale = 10_f64.powi(digits);
    (sample * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::super::data::{Better, Machine, Row};
    use super::*;

    fn results(bench: &str, sample: f64) -> Results {
        let machine = Machine {
            cpu: "AMD EPYC".into(),
            cores: 2,
            kernel: "6.18.0".into(),
            date: "2026-11-24".into(),
            commit: "f3fa44c1b2d3".into(),
        };
        let row = Row {
            group: "established".into(),
            case: "TCP over IPv4".into(),
            parameters: [("flows".into(), 1_u64)]
                .map(|(name, value)| (name, super::super::data::Parameter::Number(value)))
                .into(),
            unit: "ns".into(),
            better: Better::Less,
            samples: vec![sample],
        };
        let notes = vec!["kube-proxy \"itself\".".into()];
        Results { bench: bench.into(), machine, notes, rows: vec![row.clone(), row] }
    }

    #[test]
    fn a_run_reads_back_as_it_was_written() {
        let run = vec![results("forwarding", 2.5), results("path", 81.25)];
        assert_eq!(serde_json::from_str::<Vec<Results>>(&text_of(&run).unwrap()).unwrap(), run);
    }

    #[test]
    fn a_bench_that_ran_again_takes_the_place_of_its_old_results() {
        let old = vec![results("forwarding", 1.0), results("path", 1.0)];
        let merged = merged(old, vec![results("path", 2.0)]);
        assert_eq!(merged, [results("forwarding", 1.0), results("path", 2.0)]);
    }

    #[test]
    fn samples_keep_five_digits() {
        assert_eq!(rounded(81.123_456), 81.123);
        assert_eq!(rounded(4_123_456.7), 4_123_457.0);
        assert_eq!(rounded(0.012_345_67), 0.012_346);
    }
}
