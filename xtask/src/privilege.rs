//! Root, for the steps that need it and only for those: builds always run as the user.
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::process::Command;

use anyhow::{Context, Result};

use crate::project;

/// How steps that need root are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// The user is root.
    Root,
    /// Through `sudo`.
    Sudo,
}

const REMEDY: &str = "run the command as root, or let this user use sudo";

impl Privilege {
    /// Finds out, and asks for sudo's password where a person sits at the terminal.
    ///
    /// # Errors
    /// There is no way to root; the message says what to do.
    pub(crate) fn find() -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Root);
        }
        project::find_program("sudo")
            .with_context(|| format!("this needs root, and there is no sudo here; {REMEDY}"))?;
        if project::succeeds(Command::new("sudo").args(["-n", "true"])) {
            return Ok(Self::Sudo);
        }
        if !std::io::stdin().is_terminal() {
            anyhow::bail!("this needs root, and sudo asks for a password; {REMEDY} without one");
        }
        eprintln!("sudo: needed to load BPF programs and to make network namespaces");
        project::run(Command::new("sudo").arg("-v"))
            .with_context(|| format!("this needs root, and sudo refuses it; {REMEDY}"))?;
        Ok(Self::Sudo)
    }

    /// A command that runs as root with `variables` in its environment.
    pub(crate) fn command<K, V>(
        self,
        program: impl AsRef<OsStr>,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Command
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        match self {
            Self::Root => {
                let mut command = Command::new(program);
                command.envs(variables);
                command
            }
            // `sudo -E` needs a right (SETENV) that many sudoers files do not give; `env` needs none.
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("env");
                for (name, value) in variables {
                    let mut assignment = name.as_ref().to_os_string();
                    assignment.push("=");
                    assignment.push(value);
                    command.arg(assignment);
                }
                command.arg(program);
                command
            }
        }
    }

    /// A command that runs as root.
    pub(crate) fn plain_command(self, program: impl AsRef<OsStr>) -> Command {
        self.command(program, std::iter::empty::<(&str, &str)>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_gets_the_variables_as_arguments_of_env() {
        let command = Privilege::Sudo.command("/bin/program", [("PODWAY_REQUIRE", "kernel")]);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(arguments, ["env", "PODWAY_REQUIRE=kernel", "/bin/program"]);
    }
}
