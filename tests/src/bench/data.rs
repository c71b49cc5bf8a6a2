//! What a bench program measured, as JSON: `xtask` compiles this file too, and reads what bench programs
//! write.
//!
//! ```json
//! { "bench": "path", "machine": { "cpu": "AMD EPYC", "cores": 2, "kernel": "6.18.0", "date": "2026-11-24",
//!   "commit": "f3fa44c1b2d3" },
//!   "rows": [ { "group": "established", "case": "TCP over IPv4", "parameters": { "flows": 65536 },
//!               "unit": "ns", "better": "less", "samples": [414.0, 297.0] } ] }
//! ```
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The results of one bench program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The bench program's name, its target in cargo.
    pub bench: String,
    /// Where and when it ran.
    pub machine: Machine,
    /// What is to be said about the run, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it measured, in the order in which it is to be shown.
    pub rows: Vec<Row>,
}

/// Where and when a bench program ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// The kernel's version, without what its builder added.
    pub kernel: String,
    /// Day of the run, `YYYY-MM-DD`, UTC.
    pub date: String,
    /// The commit that was measured, with `-dirty` where files differed from it.
    pub commit: String,
}

/// One figure: every sample of it, one a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Rows of a group are shown in one table.
    pub group: String,
    /// What was measured.
    pub case: String,
    /// What it was measured at, by name: flows, Services, endpoints.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// Unit of the samples: `ns`, `packets/s`, `MiB`; `ratio` for one that has none.
    pub unit: String,
    /// Which way is an improvement.
    pub better: Better,
    /// One sample a round, in the order in which they were taken.
    pub samples: Vec<f64>,
}

/// A value of what a row was measured at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    /// A count.
    Number(u64),
    /// A word.
    Word(String),
}

/// Which way is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A cost.
    Less,
    /// A rate.
    More,
}

impl fmt::Display for Parameter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(formatter),
            Self::Word(word) => word.fmt(formatter),
        }
    }
}

/// The value below which a part of the samples lies, interpolated between the two next ones; 0.5 gives the
/// median. 0 where there are no samples.
#[must_use]
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * sorted.len().saturating_sub(1) as f64;
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or_default();
    let (below, above) = (at(place.floor() as usize), at(place.ceil() as usize));
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(quantile(&[40.0, 10.0, 30.0, 20.0], 0.5), 25.0);
    }

    #[test]
    fn the_ends_are_the_least_and_the_greatest_sample() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.0), 1.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), 3.0);
    }

    #[test]
    fn a_row_reads_as_the_page_shows_it() {
        let text = r#"{"group":"established","case":"TCP over IPv4","parameters":{"flows":65536,"hook":"tc"},
            "unit":"ns","better":"less","samples":[414.0,297.0]}"#;
        let row = Row {
            group: "established".into(),
            case: "TCP over IPv4".into(),
            parameters: BTreeMap::from([
                ("flows".into(), Parameter::Number(65_536)),
                ("hook".into(), Parameter::Word("tc".into())),
            ]),
            unit: "ns".into(),
            better: Better::Less,
            samples: vec![414.0, 297.0],
        };
        assert_eq!(serde_json::from_str::<Row>(text).unwrap(), row);
    }
}
