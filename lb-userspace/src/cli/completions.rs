//! `podway completions` and `podway man-pages`: what a shell and a reader need of the command line, made from it.
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// Print a script that completes commands and flags in a shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway completions bash > /etc/bash_completion.d/podway\n  \
    podway completions zsh > \"${fpath[1]}/_podway\"\n  podway completions fish > ~/.config/fish/completions/podway.fish")]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Write a manual page for each command.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway man-pages /usr/local/share/man/man1")]
pub(super) struct ManPages {
    /// The folder, which must be there.
    folder: PathBuf,
}

/// The script.
pub(super) fn script(completions: &Completions) -> String {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut Cli::command(), "podway", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the pages; their names, a line each.
///
/// # Errors
/// The folder is not there, or takes no file.
pub(super) fn write_pages(pages: &ManPages) -> Result<String> {
    let folder = pages.folder.display();
    clap_mangen::generate_to(Cli::command(), &pages.folder).with_context(|| {
        format!("cannot write manual pages to {folder}: is it a folder that can be written to?")
    })?;
    let entries = std::fs::read_dir(&pages.folder).with_context(|| format!("cannot read {folder}"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.retain(|name| name.starts_with("podway") && name.ends_with(".1"));
    names.sort();
    Ok(names.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::ValueEnum as _;

    use super::*;

    /// What bash offers after these words, the last of which is begun.
    fn offered(words: &[&str]) -> Vec<String> {
        let script = script(&Completions { shell: Shell::Bash });
        let (last, before) = words.split_last().expect("a word");
        let previous = before.last().expect("the command");
        let ask = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _podway podway '{last}' '{previous}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            before.len()
        );
        let output = Command::new("bash").args(["-c", &ask]).output().expect("bash");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_and_the_values_of_flags() {
        assert_eq!(offered(&["podway", "ge"]), ["get", "get-health"]);
        assert_eq!(offered(&["podway", "agent", "--xdp-mode", "n"]), ["native"]);
    }

    #[test]
    fn each_shell_has_a_script_that_names_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(&Completions { shell });
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
        assert!(Shell::value_variants().contains(&Shell::Bash));
    }

    #[test]
    fn each_command_has_a_manual_page_with_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let names = write_pages(&ManPages { folder: dir.path().to_owned() }).unwrap();
        let mut expected: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|command| format!("podway-{}.1", command.get_name()))
            .collect();
        expected.push("podway.1".to_owned());
        for name in &expected {
            assert!(names.lines().any(|line| line == name), "{name} in {names}");
        }
        let agent = std::fs::read_to_string(dir.path().join("podway-agent.1")).unwrap();
        assert!(agent.contains("\\-\\-pod\\-interface"), "{agent}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("none");
        let error = write_pages(&ManPages { folder: folder.clone() }).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write manual pages to {}", folder.display())), "{error}");
    }
}
