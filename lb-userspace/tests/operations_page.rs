//! The page for operators says what every reason, of a packet and of an Event, and every error means and what to do; flags
//! and annotations are on one page or the other.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use lb_common::counters::{Outcome, Reason};
use lb_userspace::cli::Cli;
use lb_userspace::events;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md"));

/// The part of the page about an outcome.
fn section(outcome: Outcome) -> &'static str {
    let heading = match outcome {
        Outcome::Forward | Outcome::Answer | Outcome::Hold => "\n### Forwarded, answered, held\n",
        Outcome::Refuse => "\n### Refused\n",
        Outcome::Drop => "\n### Dropped\n",
        Outcome::Pass => "\n### Passed\n",
        Outcome::Note => "\n### Noted beside another reason\n",
    };
    let (_, rest) = PAGE.split_once(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n### ").next().unwrap_or(rest)
}

#[test]
fn every_reason_has_a_row_under_its_outcome_with_its_meaning_and_a_remedy() {
    for reason in Reason::ALL {
        let start = format!("| `{}` | ", reason.name());
        let rows: Vec<&str> =
            section(reason.outcome()).lines().filter(|line| line.starts_with(&start)).collect();
        let [row] = rows[..] else { panic!("{} has {} rows under its outcome", reason.name(), rows.len()) };
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

#[test]
fn no_row_is_about_a_reason_that_is_none() {
    let (_, reasons) = PAGE.split_once("\n## Reasons\n").expect("a heading");
    let names = reasons.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for name in names {
        assert!(Reason::ALL.iter().any(|reason| reason.name() == name), "{name}");
    }
}

/// The sources of the program, without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let code = text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
                sources.push((path, code.to_owned()));
            }
        }
    }
    sources
}

/// The texts in quotation marks of a piece of code, up to the parenthesis that ends it.
fn texts_of_call(code: &str) -> Vec<String> {
    let (mut texts, mut depth) = (Vec::new(), 1);
    let mut rest = code.chars();
    while let Some(char) = rest.next() {
        match char {
            '"' => {
                let mut text = String::new();
                while let Some(char) = rest.next().filter(|char| *char != '"') {
                    text.push(if char == '\\' { rest.next().expect("what is escaped") } else { char });
                }
                texts.push(text);
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    texts
}

/// What the program logs as an error: the last text of each call.
fn error_messages() -> BTreeSet<String> {
    let mut messages = BTreeSet::new();
    for (path, code) in sources() {
        for (start, call) in code.match_indices("error!(") {
            let is_name = |char: char| char.is_alphanumeric() || char == '_';
            if code[..start].ends_with(is_name) {
                continue;
            }
            let message = texts_of_call(&code[start + call.len()..]).pop();
            messages.insert(message.unwrap_or_else(|| panic!("{}: an error without a text", path.display())));
        }
        assert!(!code.contains("Level::ERROR"), "{}: an error that is no error!()", path.display());
    }
    messages
}

/// The pages for users, as one text.
fn pages() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder");
    let docs =
        std::fs::read_dir(root.join("docs")).expect("pages").map(|entry| entry.expect("a page").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let read = |path| std::fs::read_to_string(path).expect("a page");
    pages.chain([root.join("README.md")]).map(read).collect()
}

/// Whether the pages say something of a name, alone or with what follows it.
fn is_told(pages: &str, name: &str) -> bool {
    ["`", " ", "="].iter().any(|end| pages.contains(&format!("`{name}{end}")))
}

#[test]
fn every_error_in_the_log_has_a_row_with_its_meaning_and_a_remedy() {
    let (_, section) = PAGE.split_once("\n## What the agent logs as an error\n").expect("a heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.trim_matches(['|', ' ']).split(" | ").collect()).collect();
    assert!(
        rows.iter().all(|cells| cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty())),
        "{rows:?}"
    );
    let told: BTreeSet<String> = rows.iter().map(|cells| cells[0].trim_end_matches('`').to_owned()).collect();
    assert_eq!(told, error_messages());
}

#[test]
fn every_flag_of_the_agent_is_on_a_page() {
    let command = Cli::command();
    let agent = command.find_subcommand("agent").expect("the agent");
    let pages = pages();
    let flags: Vec<String> =
        agent.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect();
    assert!(flags.len() > 40, "{flags:?}");
    let untold: Vec<&String> = flags.iter().filter(|flag| !is_told(&pages, flag)).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

/// What has Podway's prefix and is no annotation: who reports Events, a controller of Ingresses, a version of an API.
const OTHER_NAMES: [&str; 3] = ["podway.io/agent", "podway.io/ingress", "podway.io/v1alpha1"];

#[test]
fn every_annotation_is_on_a_page_and_every_one_on_a_page_is_one() {
    let names = |text: &str| -> BTreeSet<String> {
        let found = text.match_indices("podway.io/").map(|(start, _)| &text[start..]);
        let of_name = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-./".contains(char);
        let end = |text: &str| text.find(|char| !of_name(char)).unwrap_or(text.len());
        found.map(|text| text[..end(text)].trim_end_matches(['.', '/', '-']).to_owned()).collect()
    };
    let mut code = BTreeSet::new();
    for (_, source) in sources() {
        let quoted = source.match_indices("\"podway.io/").map(|(start, _)| &source[start + 1..]);
        code.extend(quoted.filter_map(|text| Some(text.split_once('"')?.0.to_owned())));
    }
    code.retain(|name| names(name).contains(name) && !OTHER_NAMES.contains(&name.as_str()));
    assert!(code.len() > 20, "{code:?}");
    let pages = pages();
    let untold: Vec<&String> = code.iter().filter(|name| !is_told(&pages, name)).collect();
    assert!(untold.is_empty(), "{untold:?}");
    let rows = pages.lines().filter_map(|line| line.strip_prefix("| `podway.io/")?.split(['`', ':']).next());
    for name in rows {
        let name = format!("podway.io/{name}");
        assert!(code.contains(&name), "no code reads {name}");
    }
}

#[test]
fn every_event_has_one_row_with_its_object_its_meaning_and_a_remedy_and_there_are_no_others() {
    let (_, events) = PAGE.split_once("\n## Events\n").expect("a heading");
    let events = events.split("\n## ").next().unwrap_or(events);
    let rows = events.lines().filter(|line| line.starts_with("| `"));
    let names: Vec<&str> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            cells[0].trim_matches('`')
        })
        .collect();
    assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), events::reasons().collect());
    assert_eq!(names.len(), events::reasons().count());
}
