//! The screen.
use std::time::Duration;

use anyhow::Result;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph, Row as Cells, Table};
use ratatui::{Frame, Terminal};

use super::{Drop, EndpointSample, Mode, Page, Rate, Row, ServiceSample, View};
use crate::maps::{Occupancy, StoredState};

/// Percent of a map's bound from which on it is shown in red, as the agent's own warning has it.
const PRESSURE_PERCENT: u64 = 90;
/// Lines that a table takes beside its rows: its frame and its headings.
const TABLE_LINES: u16 = 3;
/// Columns of the text of `--once`.
const TEXT_COLUMNS: u16 = 140;
/// A column of numbers.
const NUMBER: Constraint = Constraint::Length(11);

const KEYS: &str = "q quit  s sort  / filter  p pause  h help";
const HELP: [&str; 8] = [
    "q, Ctrl-C   quit",
    "s           sort by packets, bytes, new flows, requests, name",
    "/           filter by a part of a name or an address; Enter keeps it, Esc takes it away",
    "p, space    pause and go on",
    "h, ?        this help; any key ends it",
    "",
    "Packets are those from clients; requests those that the front-end has answered for Ingresses.",
    "Maps are counted every ten seconds.",
];

/// Draws what there is room for.
pub fn draw(frame: &mut Frame<'_>, view: &View<'_>, page: &Page) {
    let [head, services, endpoints, lower, foot] = areas(frame.area(), view);
    let [drops, maps] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(lower);
    frame.render_widget(Line::from(head_text(view, page)).bold(), head);
    frame.render_widget(services_table(view), services);
    frame.render_widget(endpoints_table(view), endpoints);
    frame.render_widget(drops_table(&view.drops), drops);
    frame.render_widget(maps_table(&view.maps), maps);
    frame.render_widget(Line::from(foot_text(view, page)), foot);
    if page.mode == Mode::Helping {
        frame.render_widget(Clear, frame.area());
        let help = Paragraph::new(HELP.map(Line::from).to_vec());
        frame.render_widget(help.block(Block::bordered().title("Help")), frame.area());
    }
}

/// Lines of a table with so many rows.
fn lines(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(TABLE_LINES)
}

fn lower_lines(view: &View<'_>) -> u16 {
    lines(view.drops.len().max(view.maps.len()))
}

/// Drops and maps get up to a third; of what is left backend services as much as they need, but no more than half
/// where endpoints need the other half.
fn areas(area: Rect, view: &View<'_>) -> [Rect; 5] {
    let room = area.height.saturating_sub(2);
    let lower = lower_lines(view).min(room / 3);
    let rest = room - lower;
    let services =
        lines(view.services.len()).min((rest / 2).max(rest.saturating_sub(lines(view.endpoints.len()))));
    let heights = [1, services, rest - services, lower, 1];
    Layout::vertical(heights.map(Constraint::Length)).areas(area)
}

fn head_text(view: &View<'_>, page: &Page) -> String {
    let elapsed = Duration::from_millis(view.elapsed_ms).as_secs_f64();
    let mut text = format!("podway top: rates over {elapsed:.1} s, by {}", page.sort.name());
    if !page.filter.is_empty() {
        text += &format!(", only {:?}", page.filter);
    }
    if page.is_paused {
        text += ", PAUSED";
    }
    text
}

fn foot_text(view: &View<'_>, page: &Page) -> String {
    match (page.mode, view.no_requests) {
        (Mode::Typing, _) => format!("/{}_", page.filter),
        (_, Some(error)) => format!("{KEYS}  (no requests: {error})"),
        (_, None) => KEYS.to_owned(),
    }
}

fn table<'a>(
    title: String,
    headings: Vec<&'a str>,
    rows: Vec<Cells<'a>>,
    widths: Vec<Constraint>,
) -> Table<'a> {
    Table::new(rows, widths).header(Cells::new(headings).bold()).block(Block::bordered().title(title))
}

/// What is shown of how many.
fn title(what: &str, shown: usize, count: usize) -> String {
    if shown < count { format!("{what} (the first {shown} of {count})") } else { format!("{what} ({count})") }
}

fn rates(rate: &Rate) -> [String; 3] {
    [rate.packets, rate.bytes, rate.new_flows].map(rate_text)
}

fn services_table<'a>(view: &'a View<'_>) -> Table<'a> {
    let cells = |row: &'a Row<'_, ServiceSample>| {
        let [packets, bytes, flows] = rates(&row.rate);
        let requests = row.rate.requests.map_or_else(|| "-".to_owned(), rate_text);
        let (healthy, all) = (row.of.healthy, row.of.endpoints);
        let color = match () {
            () if all > 0 && healthy == all => Style::new(),
            () if healthy > 0 => Style::new().fg(Color::Yellow),
            () => Style::new().fg(Color::Red),
        };
        let name = row.service.to_owned();
        Cells::new([name, packets, bytes, flows, requests, format!("{healthy}/{all}")]).style(color)
    };
    let headings = vec!["BACKEND SERVICE", "PACKETS/S", "BYTES/S", "NEW FLOWS/S", "REQUESTS/S", "HEALTHY"];
    let widths = vec![Constraint::Fill(1), NUMBER, NUMBER, NUMBER, NUMBER, NUMBER];
    let title = title("Backend services", view.services.len(), view.services_count);
    table(title, headings, view.services.iter().map(cells).collect(), widths)
}

fn endpoints_table<'a>(view: &'a View<'_>) -> Table<'a> {
    let cells = |row: &'a Row<'_, EndpointSample>| {
        let [packets, bytes, flows] = rates(&row.rate);
        let color = match row.of.state {
            StoredState::Unhealthy => Style::new().fg(Color::Red),
            _ => Style::new(),
        };
        let state = row.of.state.name().to_owned();
        let cells = [row.of.address.to_string(), row.service.to_owned(), packets, bytes, flows, state];
        Cells::new(cells).style(color)
    };
    let headings = vec!["ENDPOINT", "BACKEND SERVICE", "PACKETS/S", "BYTES/S", "NEW FLOWS/S", "STATE"];
    let widths = vec![Constraint::Fill(1), Constraint::Fill(1), NUMBER, NUMBER, NUMBER, NUMBER];
    let title = title("Endpoints", view.endpoints.len(), view.endpoints_count);
    table(title, headings, view.endpoints.iter().map(cells).collect(), widths)
}

fn drops_table(drops: &[Drop]) -> Table<'_> {
    let cells = |drop: &Drop| {
        let color = if drop.rate > 0.0 { Style::new().fg(Color::Red) } else { Style::new() };
        let words = [drop.reason.name(), drop.reason.outcome().name()].map(str::to_owned);
        let [reason, outcome] = words;
        Cells::new([reason, outcome, rate_text(drop.rate), drop.total.to_string()]).style(color)
    };
    let headings = vec!["REASON", "OUTCOME", "PACKETS/S", "IN ALL"];
    let widths = vec![Constraint::Fill(1), NUMBER, NUMBER, NUMBER];
    table("Dropped and refused".to_owned(), headings, drops.iter().map(cells).collect(), widths)
}

fn maps_table<'a>(maps: &[(&'a str, Occupancy)]) -> Table<'a> {
    let cells = |(map, used): &(&str, Occupancy)| {
        let color =
            if used.percent() >= PRESSURE_PERCENT { Style::new().fg(Color::Red) } else { Style::new() };
        let percent = format!("{}%", used.percent());
        Cells::new([(*map).to_owned(), used.entries.to_string(), used.entries_max.to_string(), percent])
            .style(color)
    };
    let widths =
        vec![Constraint::Fill(1), Constraint::Length(10), Constraint::Length(10), Constraint::Length(5)];
    table("Maps".to_owned(), vec!["MAP", "USED", "OF", ""], maps.iter().map(cells).collect(), widths)
}

/// A rate in few digits.
fn rate_text(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{rate:.1}"),
        ..10e3 => format!("{rate:.0}"),
        ..10e6 => format!("{:.0}k", rate / 1e3),
        ..10e9 => format!("{:.0}M", rate / 1e6),
        _ => format!("{:.0}G", rate / 1e9),
    }
}

/// The screen as lines of text, as high as the view is.
///
/// # Errors
/// It cannot be drawn.
pub fn text(view: &View<'_>, page: &Page) -> Result<String> {
    // The lower part may have a third, so three times its lines are enough.
    let upper = lines(view.services.len()).saturating_add(lines(view.endpoints.len()));
    let lower = lower_lines(view);
    let rows = upper.saturating_add(lower).max(lower.saturating_mul(3)).saturating_add(2);
    let mut terminal = Terminal::new(TestBackend::new(TEXT_COLUMNS, rows))?;
    terminal.draw(|frame| draw(frame, view, page))?;
    let lines = terminal.backend().buffer().content().chunks(TEXT_COLUMNS.into()).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    Ok(lines.collect())
}
