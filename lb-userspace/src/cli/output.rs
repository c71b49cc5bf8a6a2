//! One way of printing: aligned tables for people, JSON and YAML with stable field names for scripts.
use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What `-o` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The columns that matter most.
    #[default]
    Table,
    /// All columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A line of a table.
pub(super) trait Row: Serialize {
    /// Column headings.
    const HEADINGS: &'static [&'static str];
    /// Further headings of the wide form.
    const WIDE_HEADINGS: &'static [&'static str];

    /// One cell for each heading.
    fn cells(&self) -> Vec<String>;
    /// One cell for each wide heading.
    fn wide_cells(&self) -> Vec<String>;
}

/// Rows in a format, ending in a line break. An empty table says that nothing was found.
///
/// # Errors
/// A value cannot be written in the format.
pub(super) fn rows<R: Row>(rows: &[R], format: Format) -> Result<String> {
    let is_wide = match format {
        Format::Json | Format::Yaml => return value(&rows, format),
        Format::Table => false,
        Format::Wide => true,
    };
    if rows.is_empty() {
        return Ok("nothing found\n".to_owned());
    }
    let mut headings = R::HEADINGS.to_vec();
    if is_wide {
        headings.extend(R::WIDE_HEADINGS);
    }
    let lines = rows.iter().map(|row| {
        let mut cells = row.cells();
        if is_wide {
            cells.extend(row.wide_cells());
        }
        cells
    });
    Ok(table(headings, lines))
}

/// Any value as JSON or YAML; the table formats print it as YAML, which people read too.
///
/// # Errors
/// The value cannot be written in the format.
pub(super) fn value(value: &impl Serialize, format: Format) -> Result<String> {
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(value)? + "\n"),
        Format::Table | Format::Wide | Format::Yaml => Ok(serde_yaml_ng::to_string(value)?),
    }
}

/// Aligned columns, two spaces apart, no lines between rows: what `kubectl` users and `awk` expect.
pub(super) fn table(headings: Vec<&str>, lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut all = vec![headings.into_iter().map(str::to_owned).collect()];
    all.extend(lines);
    let columns = all.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| all.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &all {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines =
            [vec!["10.96.0.10".to_owned(), "53".to_owned()], vec!["::1".to_owned(), "8080".to_owned()]];
        assert_eq!(table(vec!["VIP", "PORT"], lines), "VIP         PORT\n10.96.0.10  53\n::1         8080\n");
    }
}
