//! OpenMetrics text (version 1.0), read as strictly as its specification asks: what a scrape of an agent gives is
//! right in form before a test looks at its numbers.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// Labels of a sample, by name.
type Labels = BTreeMap<String, String>;

/// What a text says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Families in their order: name and type.
    pub families: Vec<(String, String)>,
    samples: BTreeMap<(String, Labels), f64>,
}

/// The family that is being read.
#[derive(Default)]
struct Family {
    name: String,
    kind: Option<String>,
    unit: Option<String>,
    has_help: bool,
    has_samples: bool,
    /// Of a histogram, by its labels without `le`: bounds and counts in their order.
    buckets: BTreeMap<Labels, Vec<(f64, f64)>>,
}

impl Metrics {
    /// Reads a text.
    ///
    /// # Errors
    /// It is not as specified; the message names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let body = text.strip_suffix("# EOF\n").context("the text does not end with # EOF")?;
        ensure!(body.is_empty() || body.ends_with('\n'), "the last line before # EOF is not whole");
        let mut metrics = Self::default();
        let mut family = Family::default();
        for line in body.lines() {
            let read = match line.strip_prefix("# ") {
                Some(head) => metrics.head(&mut family, head),
                None => metrics.sample(&mut family, line),
            };
            read.with_context(|| format!("in the line {line:?}"))?;
        }
        metrics.end(family)?;
        let names: BTreeSet<_> = metrics.families.iter().map(|(name, _)| name).collect();
        ensure!(names.len() == metrics.families.len(), "a family is there twice");
        Ok(metrics)
    }

    /// The value of the sample with exactly these labels.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The sum of all samples that have these labels among theirs.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |of: &Labels| labels.iter().all(|(name, value)| of.get(*name).is_some_and(|v| v == value));
        let samples = self.samples.iter().filter(|((of, labels), _)| of == name && has(labels));
        samples.map(|(_, value)| value).sum()
    }

    fn head(&mut self, family: &mut Family, head: &str) -> Result<()> {
        let mut words = head.splitn(3, ' ');
        let (what, name, rest) = (words.next(), words.next(), words.next());
        let (Some(what), Some(name), Some(rest)) = (what, name, rest) else { bail!("no name and text") };
        ensure!(is_name(name), "no name of a metric");
        if family.name != name {
            let former = std::mem::replace(family, Family { name: name.to_owned(), ..Family::default() });
            self.end(former)?;
        }
        ensure!(!family.has_samples, "a head after samples");
        let is_new = match what {
            "HELP" => !std::mem::replace(&mut family.has_help, true),
            "TYPE" => family.kind.replace(rest.to_owned()).is_none(),
            "UNIT" => {
                ensure!(name.ends_with(&format!("_{rest}")), "the name does not end with its unit");
                family.unit.replace(rest.to_owned()).is_none()
            }
            _ => bail!("neither HELP, TYPE nor UNIT"),
        };
        ensure!(is_new, "said twice");
        Ok(())
    }

    fn sample(&mut self, family: &mut Family, line: &str) -> Result<()> {
        let name_len = line.find(['{', ' ']).context("no value")?;
        let (name, rest) = line.split_at(name_len);
        let (labels, value) = if rest.starts_with('{') { labels(rest)? } else { (Labels::new(), rest) };
        let value = value.strip_prefix(' ').context("no space before the value")?;
        let value: f64 = value.parse().with_context(|| format!("{value:?} is no number"))?;
        let ending = name.strip_prefix(family.name.as_str()).context("of another family than its head")?;
        family.has_samples = true;
        let is_count = value >= 0.0 && value.is_finite();
        match (family.kind.as_deref().context("no TYPE before")?, ending) {
            ("gauge", "") => {}
            ("info", "_info") => ensure!(value == 1.0, "an info that is not 1"),
            ("counter", "_total") | ("histogram", "_sum" | "_count") => ensure!(is_count, "no count"),
            ("histogram", "_bucket") => {
                let mut others = labels.clone();
                let bound = others.remove("le").context("no le")?;
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
                family.buckets.entry(others).or_default().push((bound, value));
            }
            (kind, _) => bail!("no sample of a {kind}"),
        }
        ensure!(self.samples.insert((name.to_owned(), labels), value).is_none(), "the same sample twice");
        Ok(())
    }

    /// What only a whole family shows.
    fn end(&mut self, family: Family) -> Result<()> {
        let Family { name, kind, has_help, buckets, .. } = family;
        if name.is_empty() {
            return Ok(());
        }
        let kind = kind.with_context(|| format!("{name} has no TYPE"))?;
        ensure!(has_help, "{name} has no HELP");
        for (labels, buckets) in buckets {
            let rises = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            ensure!(rises, "the buckets of {name} do not rise");
            let last = buckets.last().copied().filter(|(bound, _)| bound.is_infinite());
            let count = self.samples.get(&(format!("{name}_count"), labels.clone()));
            ensure!(
                last.is_some() && last.map(|(_, all)| all) == count.copied(),
                "{name}: not all are in the last bucket"
            );
            ensure!(self.samples.contains_key(&(format!("{name}_sum"), labels)), "{name} has no sum");
        }
        self.families.push((name, kind));
        Ok(())
    }
}

/// The labels at the begin of a text, and what follows them.
fn labels(text: &str) -> Result<(Labels, &str)> {
    let mut labels = Labels::new();
    let mut rest = &text[1..];
    loop {
        let (name, after) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(name) && !name.contains(':'), "{name:?} is no name of a label");
        let (value, after) = quoted(after)?;
        ensure!(labels.insert(name.to_owned(), value).is_none(), "label {name} twice");
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok((labels, after.strip_prefix('}').context("labels do not end")?)),
        }
    }
}

/// A value up to its quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        value.push(match character {
            '"' => return Ok((value, &text[index + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                _ => bail!("an escape that is none"),
            },
            character => character,
        });
    }
    bail!("a value that does not end")
}

fn is_name(text: &str) -> bool {
    let is_begin = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(is_begin) && text.chars().all(|c| is_begin(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a Things.
# TYPE a counter
a_total{x=\"p\\\"q\\\\\\n\",y=\"\"} 3
a_total{x=\"r\",y=\"\"} 4
# HELP b_seconds Times.
# TYPE b_seconds histogram
# UNIT b_seconds seconds
b_seconds_sum 1.5
b_seconds_count 2
b_seconds_bucket{le=\"0.5\"} 1
b_seconds_bucket{le=\"+Inf\"} 2
# HELP c It.
# TYPE c info
c_info{v=\"1\"} 1
# HELP d Now.
# TYPE d gauge
d -1
# EOF
";

    #[test]
    fn right_text_is_read() {
        let metrics = Metrics::parse(GOOD).unwrap();
        let names: Vec<_> = metrics.families.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        assert_eq!(names, ["a counter", "b_seconds histogram", "c info", "d gauge"]);
        assert_eq!(metrics.value("a_total", &[("x", "p\"q\\\n"), ("y", "")]), Some(3.0));
        assert_eq!(metrics.value("a_total", &[("y", "")]), None);
        assert_eq!(metrics.sum("a_total", &[("y", "")]), 7.0);
        assert_eq!(metrics.value("d", &[]), Some(-1.0));
    }

    #[test]
    fn wrong_text_is_refused() {
        let faults = [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\n\n"),
            ("# HELP d Now.\n", ""),
            ("# TYPE d gauge\n", ""),
            ("d -1\n", "d -1\n\n"),
            ("d -1\n", "d -1\nd 2\n"),
            ("d -1\n", "d x\n"),
            ("d -1\n", "d -1\n# HELP a Again.\n# TYPE a counter\n"),
            ("a_total{x=\"r\"", "a{x=\"r\""),
            ("a_total{x=\"r\"", "e_total{x=\"r\""),
            ("y=\"\"} 4", "y=\"\"} -4"),
            ("x=\"r\",y=\"\"", "x=\"r\",x=\"\""),
            ("x=\"r\"", "x=\"\\r\""),
            ("x=\"r\",y=\"\"}", "x=\"r\",y=\"\""),
            ("count 2", "count 3"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 3"),
            ("le=\"+Inf\"} 2", "le=\"0.1\"} 2"),
            ("b_seconds_sum 1.5\n", ""),
            ("# UNIT b_seconds seconds", "# UNIT b_seconds bytes"),
            ("c_info{v=\"1\"} 1", "c_info{v=\"1\"} 2"),
            ("# TYPE d gauge\n", "# TYPE d gauge\n# TYPE d gauge\n"),
        ];
        for (right, wrong) in faults {
            assert!(GOOD.contains(right), "{right:?}");
            let text = GOOD.replacen(right, wrong, 1);
            assert!(Metrics::parse(&text).is_err(), "{right:?} as {wrong:?} is read");
        }
    }
}
