//! The generated parts of `docs/performance.md`: tables and charts between two markers for each bench
//! program; all else on the page is written by hand.
use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::chart;
use super::data::{Parameter, Results, Row, quantile};
use crate::project::Project;

/// The rows of one group: one table and one chart.
pub(crate) struct Group<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its rows, which have one unit.
    pub(crate) rows: Vec<&'a Row>,
    /// The parameter whose values become columns, or an axis; the one with the most counts.
    pub(crate) across: Option<&'a str>,
}

/// Writes the page's generated parts and the charts.
pub(crate) fn write(project: &Project, run: &[Results]) -> Result<()> {
    let path = project.performance().with_extension("md");
    let mut page = std::fs::read_to_string(&path).context("cannot read docs/performance.md")?;
    for results in run {
        let mut text = head(results);
        for group in groups(results) {
            let file = format!("{}-{}.svg", results.bench, slug(&heading(&group)));
            chart::draw(&project.performance().join(&file), &group)?;
            write!(text, "\n### {}\n\n{}\n", heading(&group), table(&group))?;
            writeln!(text, "![{}](performance/{file})", group.name)?;
        }
        page = replaced(&page, &results.bench, &text)?;
    }
    std::fs::write(&path, page).context("cannot write docs/performance.md")
}

/// The groups of a bench, in the order of their first rows; rows of another unit are a group of their own.
fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in &results.rows {
        let same = |group: &&mut Group<'_>| group.name == row.group && group.rows[0].unit == row.unit;
        match groups.iter_mut().find(same) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { name: &row.group, rows: vec![row], across: None }),
        }
    }
    for group in &mut groups {
        group.across = across(&group.rows);
    }
    groups
}

fn across<'a>(rows: &[&'a Row]) -> Option<&'a str> {
    let names: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.parameters.keys()).map(String::as_str).collect();
    let counts = |name: &str| -> BTreeSet<&Parameter> {
        let values = rows.iter().filter_map(|row| row.parameters.get(name));
        values.filter(|value| matches!(value, Parameter::Number(_))).collect()
    };
    let varied = names.into_iter().map(|name| (counts(name).len(), name)).filter(|(count, _)| *count > 1);
    // Of equals the first by name.
    varied.max_by_key(|(count, name)| (*count, std::cmp::Reverse(*name))).map(|(_, name)| name)
}

fn heading(group: &Group<'_>) -> String {
    match group.rows[0].unit.as_str() {
        "ratio" => group.name.to_owned(),
        unit => format!("{} ({unit})", group.name),
    }
}

/// Medians, with the least and the greatest sample where there are several.
fn table(group: &Group<'_>) -> String {
    let fixed: BTreeSet<&str> = group
        .rows
        .iter()
        .flat_map(|row| row.parameters.keys())
        .map(String::as_str)
        .filter(|name| Some(*name) != group.across)
        .collect();
    let columns: BTreeSet<Option<&Parameter>> = group.rows.iter().map(|row| column(group, row)).collect();
    let mut heads = vec!["case".to_owned()];
    heads.extend(fixed.iter().map(|name| (*name).to_owned()));
    heads.extend(columns.iter().map(|value| match (value, group.across) {
        (Some(value), Some(name)) => format!("{name} {}", counted(value)),
        _ if columns.len() == 1 => "median (least to greatest)".into(),
        _ => "–".into(),
    }));
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
    let mut seen = BTreeSet::new();
    for row in &group.rows {
        let Some(places) = places(&fixed, row, &mut seen) else { continue };
        let cell = |value: &Option<&Parameter>| {
            let mut others = group.rows.iter().filter(|other| column(group, other) == *value);
            let found = others.find(|other| line_key(&fixed, other) == line_key(&fixed, row));
            found.map_or_else(String::new, |row| figure(row))
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        writeln!(text, "| {} | {} |", places.join(" | "), cells.join(" | ")).expect("memory is enough");
    }
    text
}

/// The value of a row that says in which column it stands.
fn column<'a>(group: &Group<'_>, row: &'a Row) -> Option<&'a Parameter> {
    group.across.and_then(|name| row.parameters.get(name))
}

/// What the rows of one line of a table share.
fn line_key(fixed: &BTreeSet<&str>, row: &Row) -> Vec<String> {
    let values = fixed.iter().map(|name| row.parameters.get(*name).map_or_else(String::new, counted));
    std::iter::once(row.case.clone()).chain(values).collect()
}

/// The first cells of a row's line, unless the line is there already.
fn places(fixed: &BTreeSet<&str>, row: &Row, seen: &mut BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    let key = line_key(fixed, row);
    seen.insert(key.clone()).then_some(key)
}

fn figure(row: &Row) -> String {
    let [median, least, greatest] = [0.5, 0.0, 1.0].map(|part| number(quantile(&row.samples, part)));
    if least == greatest { median } else { format!("{median} ({least} to {greatest})") }
}

/// A parameter, with its thousands apart.
fn counted(value: &Parameter) -> String {
    match value {
        Parameter::Number(count) => grouped(&count.to_string()),
        Parameter::Word(word) => word.clone(),
    }
}

/// A figure with as many digits as noise leaves meaning to.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => grouped(&format!("{value:.0}")),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        let left = digits.len() - index;
        if index > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Where and when it was, and what is to be said about it.
fn head(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} cores, Linux {}, {}, commit {}.\n",
        machine.cpu, machine.cores, machine.kernel, machine.date, machine.commit
    );
    for note in &results.notes {
        text += &format!("{note}\n");
    }
    text
}

/// A name as part of a file's.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-").to_lowercase()
}

/// The page with `text` between the markers of a bench.
fn replaced(page: &str, bench: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench {bench} -->\n"), format!("<!-- end of bench {bench} -->"));
    let place = || {
        let (before, rest) = page.split_once(&begin)?;
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    };
    let (before, after) = place().with_context(|| {
        format!(
            "docs/performance.md has no place for the bench {bench}: add the lines `{}` and `{end}`",
            begin.trim()
        )
    })?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::data::{Better, Machine};
    use super::*;

    fn row(case: &str, hook: &str, flows: u64, samples: &[f64]) -> Row {
        Row {
            group: "Established".into(),
            case: case.into(),
            parameters: BTreeMap::from([
                ("flows".into(), Parameter::Number(flows)),
                ("hook".into(), Parameter::Word(hook.into())),
            ]),
            unit: "ns".into(),
            better: Better::Less,
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn counts_become_columns_and_words_lines() {
        let rows = [
            row("TCP over IPv4", "XDP", 10, &[87.0, 70.0, 151.0]),
            row("TCP over IPv4", "XDP", 1_000_000, &[1_414.0]),
            row("TCP over IPv4", "tc", 10, &[110.0]),
        ];
        let rows: Vec<&Row> = rows.iter().collect();
        let group = Group { name: "Established", across: across(&rows), rows };
        assert_eq!(
            table(&group),
            "| case | hook | flows 10 | flows 1,000,000 |\n\
             | --- | --- | --- | --- |\n\
             | TCP over IPv4 | XDP | 87.0 (70.0 to 151) | 1,414 |\n\
             | TCP over IPv4 | tc | 110 |  |\n"
        );
    }

    #[test]
    fn notes_stand_below_the_machine() {
        let machine = Machine {
            cpu: "AMD EPYC".into(),
            cores: 2,
            kernel: "6.18.0".into(),
            date: "2026-11-24".into(),
            commit: "f3fa44c1b2d3".into(),
        };
        let notes = vec!["kube-proxy itself was not measured.".into()];
        let results = Results { bench: "scale".into(), machine, notes, rows: Vec::new() };
        assert_eq!(
            head(&results),
            "AMD EPYC, 2 cores, Linux 6.18.0, 2026-11-24, commit f3fa44c1b2d3.\n\
             kube-proxy itself was not measured.\n"
        );
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = "a\n<!-- bench path -->\nold\n<!-- end of bench path -->\nb\n";
        let new = replaced(page, "path", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- bench path -->\nnew\n<!-- end of bench path -->\nb\n");
    }

    #[test]
    fn a_page_without_the_markers_is_told() {
        let error = replaced("a\n", "path", "new\n").unwrap_err().to_string();
        assert!(error.contains("no place for the bench path"), "{error}");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped("1000000"), "1,000,000");
        assert_eq!(grouped("-100"), "-100");
        assert_eq!(grouped("12"), "12");
    }
}
