//! Test binaries: built in one go, so that nothing is compiled twice, then run one by one, because
//! some of them run as root and cargo should not.
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::project::Project;

/// A test binary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestBinary {
    /// The cargo target: the library's or binary's name, or the file under `tests/`.
    pub(crate) name: String,
    /// What the target is.
    pub(crate) kind: Kind,
    /// The binary.
    pub(crate) path: PathBuf,
    /// The package's folder, in which cargo runs tests.
    pub(crate) package: PathBuf,
}

/// What kind of cargo target a binary is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Unit tests of a library or a binary.
    Unit,
    /// A file of the package's `tests` folder.
    Integration,
    /// A file of the package's `benches` folder.
    Bench,
}

/// Tests counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were ignored.
    pub(crate) ignored: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// One line of cargo's `--message-format json` (The Cargo Book, "External tools").
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds every test and every binary of the workspace; gives the tests, sorted by name.
pub(crate) fn build_all(project: &Project, ebpf_object: Option<&Path>) -> Result<Vec<TestBinary>> {
    build(project, &["build", "--workspace", "--bins", "--tests"], ebpf_object)
}

/// Runs a command of cargo that builds, and gives the test and bench binaries among what it built.
pub(crate) fn build(
    project: &Project,
    arguments: &[&str],
    ebpf_object: Option<&Path>,
) -> Result<Vec<TestBinary>> {
    let mut command = project.cargo();
    command.args(arguments).args(["--locked", "--message-format=json-render-diagnostics"]);
    if let Some(object) = ebpf_object {
        command.env(crate::build::OBJECT_VARIABLE, object);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cannot build; the compiler's messages are above");
    }
    let mut binaries = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        binaries.extend(test_binary_of(line)?);
    }
    binaries.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(binaries)
}

/// The test binary that a message of cargo tells of.
fn test_binary_of(line: &str) -> Result<Option<TestBinary>> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("cannot read cargo's message: {line}"))?;
    let is_test =
        message.reason == "compiler-artifact" && message.profile.is_some_and(|profile| profile.test);
    let (true, Some(path), Some(target), Some(manifest)) =
        (is_test, message.executable, message.target, message.manifest_path)
    else {
        return Ok(None);
    };
    let package = manifest.parent().context("cargo names a manifest without a folder")?.to_path_buf();
    let is_a = |kind: &str| target.kind.iter().any(|own| own == kind);
    let kind = if is_a("test") {
        Kind::Integration
    } else if is_a("bench") {
        Kind::Bench
    } else {
        Kind::Unit
    };
    Ok(Some(TestBinary { name: target.name, kind, path, package }))
}

impl TestBinary {
    /// Readies a command that starts this binary as cargo does.
    pub(crate) fn set_folder(&self, command: &mut Command) {
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
    }
}

/// Runs a command that prints as Rust's test harness does, shows what it prints and counts its tests.
/// One that dies without its result line counts as one failed test.
pub(crate) fn run_counted(command: &mut Command) -> Result<Count> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start a test binary")?;
    let stdout = child.stdout.take().context("the test binary has no standard output")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = count_of(&line) {
            count += result;
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        println!("the test binary ended with {status}");
        count.failed += 1;
    }
    Ok(count)
}

/// `--color always` where a person looks on; the tests themselves write into a pipe.
pub(crate) fn color() -> &'static str {
    if std::io::stdout().is_terminal() { "--color=always" } else { "--color=never" }
}

/// The numbers of a result line, `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(crate) fn count_of(line: &str) -> Option<Count> {
    let result = line.strip_prefix("test result: ")?;
    let number_before = |word: &str| {
        let words: Vec<&str> = result.split([' ', ';']).filter(|part| !part.is_empty()).collect();
        words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok())
    };
    Some(Count {
        passed: number_before("passed")?,
        failed: number_before("failed")?,
        ignored: number_before("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted_with_and_without_colour() {
        let count = Count { passed: 12, failed: 3, ignored: 1 };
        let rest = "12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(count_of(&format!("test result: FAILED. {rest}")), Some(count));
        assert_eq!(count_of(&format!("test result: \u{1b}[31mFAILED\u{1b}[0m. {rest}")), Some(count));
        assert_eq!(count_of("test a ... ok"), None);
    }

    #[test]
    fn a_test_artifact_is_told_from_a_library_and_a_plain_binary() {
        let integration = r#"{"reason":"compiler-artifact","manifest_path":"/p/tests/Cargo.toml","target":{"kind":["test"],"name":"kernel_load"},"profile":{"test":true},"executable":"/t/kernel_load-1"}"#;
        let binary = r#"{"reason":"compiler-artifact","manifest_path":"/p/tests/Cargo.toml","target":{"kind":["bin"],"name":"podway"},"profile":{"test":false},"executable":"/t/podway"}"#;
        let finished = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(
            test_binary_of(integration).unwrap(),
            Some(TestBinary {
                name: "kernel_load".into(),
                kind: Kind::Integration,
                path: "/t/kernel_load-1".into(),
                package: "/p/tests".into(),
            })
        );
        assert_eq!(test_binary_of(binary).unwrap(), None);
        assert_eq!(test_binary_of(finished).unwrap(), None);
    }

    #[test]
    fn a_binary_that_dies_without_a_result_counts_as_a_failure() {
        let count = run_counted(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        assert_eq!(count, Count { passed: 0, failed: 1, ignored: 0 });
    }
}
