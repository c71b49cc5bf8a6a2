//! Charts as SVG: lines over a count where a group has one, else bars. A whisker goes from the least sample
//! to the greatest.
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::data::{Parameter, Row, quantile};
use super::page::{Group, number};

const WIDTH: u32 = 900;
const BAR_HEIGHT: u32 = 26;
const LINES_HEIGHT: u32 = 420;
const FONT: (&str, u32) = ("sans-serif", 13);
const TITLE_FONT: (&str, u32) = ("sans-serif", 17);
/// Colours that are told apart without seeing red from green (Okabe and Ito), grey and brown.
const COLORS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
    RGBColor(110, 60, 20),
];

/// Draws the chart of a group to a file.
pub(crate) fn draw(path: &Path, group: &Group<'_>) -> Result<()> {
    // A line needs a place on the axis for every row.
    let across = group.across.filter(|name| group.rows.iter().all(|row| row.parameters.contains_key(*name)));
    let text = match across {
        Some(across) => lines(group, across),
        None => bars(group),
    };
    let text = text.with_context(|| format!("cannot draw {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

fn title(group: &Group<'_>) -> String {
    let unit = &group.rows[0].unit;
    format!("{}, {unit}: median, and from least to greatest", group.name)
}

/// The greatest sample of all, with some room above it.
fn top(group: &Group<'_>) -> f64 {
    let samples = group.rows.iter().flat_map(|row| &row.samples);
    samples.copied().fold(f64::MIN_POSITIVE, f64::max) * 1.05
}

fn bars(group: &Group<'_>) -> Result<String> {
    let count = group.rows.len();
    // The library draws no axis of one place: a single row has an empty one above it.
    let last_place = (count - 1).max(1);
    let height = 80 + BAR_HEIGHT * u32::try_from(count)?;
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title(group), TITLE_FONT)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(330)
        .build_cartesian_2d(0.0..top(group), (0..last_place).into_segmented())
        .map_err(failed)?;
    // The first row is the uppermost.
    let label = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(index) => {
            let row = (count - 1).checked_sub(*index).and_then(|index| group.rows.get(index));
            row.map_or_else(String::new, |row| name(row, None))
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(count)
        .y_label_formatter(&label)
        .x_label_formatter(&|value| number(*value))
        .label_style(FONT)
        .draw()
        .map_err(failed)?;
    for (index, row) in group.rows.iter().rev().enumerate() {
        let [least, median, greatest] = [0.0, 0.5, 1.0].map(|part| quantile(&row.samples, part));
        let corners = [(0.0, SegmentValue::Exact(index)), (median, SegmentValue::Exact(index + 1))];
        let mut bar = Rectangle::new(corners, COLORS[0].mix(0.6).filled());
        bar.set_margin(4, 4, 0, 0);
        let middle = SegmentValue::CenterOf(index);
        let whisker = PathElement::new([(least, middle.clone()), (greatest, middle)], BLACK.stroke_width(2));
        chart.draw_series([bar]).map_err(failed)?;
        chart.draw_series([whisker]).map_err(failed)?;
    }
    root.present().map_err(failed)?;
    drop((chart, root));
    Ok(text)
}

fn lines(group: &Group<'_>, across: &str) -> Result<String> {
    let place = |row: &Row| match row.parameters.get(across) {
        Some(Parameter::Number(count)) => Some(*count as f64),
        _ => None,
    };
    let places: Vec<f64> = group.rows.iter().filter_map(|row| place(row)).collect();
    let [first, last] = [0.0, 1.0].map(|part| quantile(&places, part));
    let names: BTreeSet<(usize, String)> = names(group, across);
    let mut text = String::new();
    let height = LINES_HEIGHT + 18 * u32::try_from(names.len())?;
    let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (area, legend) = root.split_vertically(LINES_HEIGHT);
    let mut chart = ChartBuilder::on(&area)
        .caption(title(group), TITLE_FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((first * 0.8..last * 1.25).log_scale(), 0.0..top(group))
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(across)
        .x_label_formatter(&|value| number(*value).replace(".00", "").replace(".0", ""))
        .y_label_formatter(&|value| number(*value))
        .label_style(FONT)
        .draw()
        .map_err(failed)?;
    for (index, (_, line)) in names.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let rows = group.rows.iter().filter(|row| name(row, Some(across)) == *line);
        let points = rows.filter_map(|row| {
            place(row).map(|x| (x, [0.0, 0.5, 1.0].map(|part| quantile(&row.samples, part))))
        });
        let points: Vec<(f64, [f64; 3])> = points.collect();
        let medians = points.iter().map(|(x, [_, median, _])| (*x, *median));
        chart.draw_series(LineSeries::new(medians, color.stroke_width(2)).point_size(3)).map_err(failed)?;
        let whiskers = points.iter().map(|(x, [least, _, greatest])| {
            PathElement::new([(*x, *least), (*x, *greatest)], color.mix(0.5).stroke_width(1))
        });
        chart.draw_series(whiskers).map_err(failed)?;
        let y = 18 * i32::try_from(index)?;
        legend.draw(&Rectangle::new([(80, y), (100, y + 10)], color.filled())).map_err(failed)?;
        legend.draw(&Text::new(line.clone(), (108, y - 1), FONT)).map_err(failed)?;
    }
    root.present().map_err(failed)?;
    drop((chart, area, legend, root));
    Ok(text)
}

/// The lines of a chart, in the order of their first rows.
fn names(group: &Group<'_>, across: &str) -> BTreeSet<(usize, String)> {
    let all: Vec<String> = group.rows.iter().map(|row| name(row, Some(across))).collect();
    all.iter()
        .map(|line| (all.iter().position(|other| other == line).unwrap_or_default(), line.clone()))
        .collect()
}

/// A row's name: its case, with the parameters that `across` leaves.
fn name(row: &Row, across: Option<&str>) -> String {
    let words =
        row.parameters.iter().filter(|(name, _)| Some(name.as_str()) != across).map(|(name, value)| {
            match value {
                Parameter::Number(count) => {
                    format!(", {name} {}", number(*count as f64).replace(".00", "").replace(".0", ""))
                }
                Parameter::Word(word) => format!(", {word}"),
            }
        });
    std::iter::once(row.case.clone()).chain(words).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::data::Better;
    use super::*;

    fn row(case: &str, flows: u64) -> Row {
        Row {
            group: "Established".into(),
            case: case.into(),
            parameters: BTreeMap::from([("flows".into(), Parameter::Number(flows))]),
            unit: "ns".into(),
            better: Better::Less,
            samples: vec![90.0, 110.0],
        }
    }

    #[test]
    fn bars_name_every_row() {
        let rows = [row("path", 10), row("floor", 10)];
        let group = Group { name: "Established", rows: rows.iter().collect(), across: None };
        let chart = bars(&group).unwrap();
        assert!(chart.contains("path, flows 10") && chart.contains("floor, flows 10"), "{chart}");
    }

    #[test]
    fn one_row_is_a_chart_too() {
        let rows = [row("path", 10)];
        let group = Group { name: "Established", rows: rows.iter().collect(), across: None };
        assert!(bars(&group).unwrap().contains("path, flows 10"));
    }

    #[test]
    fn lines_name_each_case_once() {
        let rows = [row("path", 10), row("path", 1_000), row("floor", 10), row("floor", 1_000)];
        let group = Group { name: "Established", rows: rows.iter().collect(), across: Some("flows") };
        let chart = lines(&group, "flows").unwrap();
        assert_eq!(
            (chart.matches("\npath\n").count(), chart.matches("\nfloor\n").count()),
            (1, 1),
            "{chart}"
        );
    }
}
