//! The commands that the pages for users give: each is one, and what needs no kernel does what its page says.
use std::path::{Path, PathBuf};

use clap::Parser as _;
use lb_userspace::cli::{Cli, printed};

/// Commands that only print; with `--manifests` they need no kernel.
const PRINTING: [&str; 4] = ["describe", "explain", "get", "plan"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = vec![root().join("README.md")];
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    pages.sort();
    pages.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// A command of a page, and the lines below it, where the page shows what it prints.
struct Shown {
    page: PathBuf,
    arguments: Vec<String>,
    output: Option<String>,
}

/// `$ podway …` with its output below, or `podway …` at the begin of a line of code.
fn shown() -> Vec<Shown> {
    let mut all = Vec::new();
    for (page, text) in pages() {
        let mut is_fenced = false;
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            is_fenced ^= line.starts_with("```");
            let indent = line.len() - line.trim_start().len();
            let with_output = line.trim_start().strip_prefix("$ ");
            let command = with_output.unwrap_or(line.trim_start());
            if !(is_fenced || indent >= 4) || !command.starts_with("podway ") {
                continue;
            }
            let below = lines[number + 1..].iter().map(|line| line.get(indent..).unwrap_or_default());
            let is_of_it = |line: &&str| !line.starts_with("$ ") && !line.starts_with("```");
            let output = with_output.map(|_| below.take_while(is_of_it).collect::<Vec<_>>().join("\n"));
            all.push(Shown { page: page.clone(), arguments: words(command), output });
        }
    }
    all
}

/// What the shell makes of a command; a remark and a pipe end it.
fn words(command: &str) -> Vec<String> {
    let words = command.split_whitespace().take_while(|word| !matches!(*word, "#" | "|"));
    let read = |word: &str| match word {
        "$(hostname)" => "node-a".to_owned(),
        "DIR" | "examples" => root().join("examples").display().to_string(),
        word => word.trim_matches('\'').to_owned(),
    };
    words.map(read).collect()
}

#[test]
fn every_command_is_one() {
    let all = shown();
    assert!(all.len() > 30, "{} commands were found", all.len());
    for Shown { page, arguments, .. } in all {
        if let Err(error) = Cli::try_parse_from(&arguments) {
            panic!("{}: {}: {error}", page.display(), arguments.join(" "));
        }
    }
}

#[test]
fn what_needs_no_kernel_prints_what_its_page_shows() {
    let (mut run, mut compared) = (0, 0);
    for Shown { page, arguments, output } in shown() {
        let is_printing = arguments.get(1).is_some_and(|name| PRINTING.contains(&name.as_str()));
        let has_manifests = arguments.iter().any(|word| word == "--manifests");
        if !is_printing || !has_manifests {
            assert!(output.is_none(), "{}: nobody checks the output of {arguments:?}", page.display());
            continue;
        }
        let printed = printed(arguments[1..].iter().map(String::as_str));
        let printed = printed.unwrap_or_else(|error| panic!("{}: {arguments:?}: {error:#}", page.display()));
        run += 1;
        let Some(output) = output else { continue };
        let plain = |text: &str| -> Vec<String> {
            text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
        };
        let wanted = plain(&printed);
        let shown = plain(&output);
        assert_eq!(shown[..wanted.len().min(shown.len())], wanted, "{}: {arguments:?}", page.display());
        compared += 1;
    }
    assert!(run > 5 && compared >= 2, "{run} were run, {compared} compared");
}
