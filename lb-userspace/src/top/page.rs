//! What the user has asked for by keys.
use std::cmp::Ordering;

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Rate;

/// Longest filter, in characters; further ones are not taken.
const FILTER_CHARS_MAX: usize = 64;

/// What stands first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// The most packets in a second.
    #[default]
    Packets,
    /// The most bytes in a second.
    Bytes,
    /// The most new flows in a second.
    NewFlows,
    /// The most requests in a second; of endpoints, which have none of their own, the most packets.
    Requests,
    /// The first backend service by its name.
    Name,
}

/// What keys mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Commands.
    #[default]
    Watching,
    /// Text of the filter.
    Typing,
    /// The end of the help.
    Helping,
}

/// Whether it goes on after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    GoOn,
    /// It ends.
    End,
}

/// How the user wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The order.
    pub sort: Sort,
    /// Only what has this text.
    pub filter: String,
    /// What keys mean.
    pub mode: Mode,
    /// Whether the numbers stand still.
    pub is_paused: bool,
}

impl Sort {
    /// Its name on the screen.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::NewFlows => "new flows",
            Self::Requests => "requests",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Packets => Self::Bytes,
            Self::Bytes => Self::NewFlows,
            Self::NewFlows => Self::Requests,
            Self::Requests => Self::Name,
            Self::Name => Self::Packets,
        }
    }

    /// Which of two stands first. Equal ones are in the order of their names.
    pub(super) fn compare(self, (a, a_name): (&Rate, &str), (b, b_name): (&Rate, &str)) -> Ordering {
        let most = |of: fn(&Rate) -> f64| of(b).total_cmp(&of(a));
        let by_rate = match self {
            Self::Packets => most(|rate| rate.packets),
            Self::Bytes => most(|rate| rate.bytes),
            Self::NewFlows => most(|rate| rate.new_flows),
            Self::Requests => {
                most(|rate| rate.requests.unwrap_or(-1.0)).then_with(|| most(|rate| rate.packets))
            }
            Self::Name => Ordering::Equal,
        };
        by_rate.then_with(|| a_name.cmp(b_name))
    }
}

impl Page {
    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && key.code == KeyCode::Char('c') {
            return Next::End;
        }
        match (self.mode, key.code) {
            (Mode::Typing, code) => self.type_filter(code),
            (Mode::Helping, _) => self.mode = Mode::Watching,
            (Mode::Watching, KeyCode::Char('q')) => return Next::End,
            (Mode::Watching, KeyCode::Char('s')) => self.sort = self.sort.next(),
            (Mode::Watching, KeyCode::Char('/')) => self.mode = Mode::Typing,
            (Mode::Watching, KeyCode::Char('p' | ' ')) => self.is_paused = !self.is_paused,
            (Mode::Watching, KeyCode::Char('h' | '?')) => self.mode = Mode::Helping,
            (Mode::Watching, KeyCode::Esc) => self.filter.clear(),
            (Mode::Watching, _) => {}
        }
        Next::GoOn
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Watching,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Watching;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(char) if self.filter.chars().count() < FILTER_CHARS_MAX => self.filter.push(char),
            _ => {}
        }
    }
}
