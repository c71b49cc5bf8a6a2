//! `cargo xtask test`: the tiers of the tests, each with what it needs. A tier whose need is not met is
//! skipped with the missing need named; where the need is met its tests must run and must not skip.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;

use crate::build::{BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{self, Project};
use crate::test_binary::{self, Count, Kind, TestBinary};
use crate::{build_ebpf, helm, qemu, setup};

/// Tests of the kernel tier that run in other kernels too, since they hold what differs between kernels: the verifier
/// takes every program, and each stands at its hooks, in new links and in those of the agent before. That packets are
/// forwarded there is held by the tests of that tier alone. An emulated verifier takes half a minute for all programs,
/// so these load them once or twice for all of their tests.
const IN_OTHER_KERNELS: [&str; 2] = ["kernel_attach", "kernel_programs"];

/// Longest run in one of the other kernels, of some four minutes.
const LONGEST: Duration = Duration::from_mins(30);
/// The same for all of the kernel tier.
const WHOLE_LONGEST: Duration = Duration::from_mins(90);

/// Names the tiers whose need is known to be met; their tests fail where they would skip.
const REQUIRE_VARIABLE: &str = "PODWAY_REQUIRE";

/// Names the folder of a real API server's programs.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The tiers to run; all by default
    #[arg(long = "tier", value_delimiter = ',', value_name = "TIER")]
    tiers: Vec<Tier>,
    /// Run all of the kernel tier in the other kernels too, which takes some 20 minutes more
    #[arg(long)]
    whole: bool,
    /// Passed on to every test binary: a filter, or `--nocapture` after `--`
    #[arg(value_name = "TEST ARGUMENT", last = true)]
    test_arguments: Vec<String>,
}

/// Tests with one need, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Tier {
    Lint,
    Host,
    Kernel,
    Netns,
    Cluster,
    Kernels,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Netns => "netns",
            Self::Cluster => "cluster",
            Self::Kernels => "kernels",
        }
    }

    fn need(self) -> &'static str {
        match self {
            Self::Lint => "rustfmt and clippy",
            Self::Host => "stable Rust; more with pip, which brings Helm",
            Self::Kernel => "CAP_BPF; nightly Rust to build the programs",
            Self::Netns => "root; nightly Rust to build the programs",
            Self::Cluster => "nothing; more with KUBEBUILDER_ASSETS",
            Self::Kernels => "qemu, and a kernel package of Debian's",
        }
    }

    /// The tier of a test binary: integration tests name theirs at the start of their file's name.
    fn of(binary: &TestBinary) -> Self {
        let by_name = [Self::Kernels, Self::Kernel, Self::Netns, Self::Cluster];
        by_name
            .into_iter()
            .find(|tier| binary.kind == Kind::Integration && binary.name.starts_with(tier.name()))
            .unwrap_or(Self::Host)
    }

    fn needs_ebpf_object(self) -> bool {
        matches!(self, Self::Kernel | Self::Netns | Self::Kernels)
    }
}

/// What became of a tier.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It has no tests to count; `true` where all was well.
    Checked(bool),
    /// Its tests ran.
    Ran(Count),
    /// It could run and has lost its tests.
    HasNoTests,
    /// Its need is not met; the text names what is missing.
    Skipped(String),
}

impl Outcome {
    fn has_failed(&self) -> bool {
        match self {
            Self::Checked(is_well) => !is_well,
            Self::Ran(count) => count.failed > 0,
            Self::HasNoTests => true,
            Self::Skipped(_) => false,
        }
    }
}

struct Row {
    tier: Tier,
    outcome: Outcome,
    took: Duration,
}

/// What the tiers run with.
struct Run<'a> {
    project: &'a Project,
    test_arguments: &'a [String],
    /// Whether other kernels get all of the kernel tier.
    is_whole: bool,
    /// Root and the eBPF object, or what is missing to have them.
    kernel: Result<(Privilege, PathBuf), String>,
    /// Helm, or what is missing to have it.
    helm: Result<PathBuf, String>,
}

/// The command itself.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let mut tiers = arguments.tiers.clone();
    if tiers.is_empty() {
        tiers = Tier::value_variants().to_vec();
    }
    tiers.sort_unstable();
    tiers.dedup();
    let started = Instant::now();
    let has_assets = std::env::var_os(ASSETS_VARIABLE).is_some();
    let run = Run {
        project,
        test_arguments: &arguments.test_arguments,
        is_whole: arguments.whole,
        kernel: prepare_kernel(project, tiers.iter().any(|tier| tier.needs_ebpf_object()))?,
        helm: prepare_helm(
            project,
            tiers.contains(&Tier::Host) || has_assets && tiers.contains(&Tier::Cluster),
        ),
    };
    let mut rows = Vec::new();
    if tiers.first() == Some(&Tier::Lint) {
        rows.push(timed(Tier::Lint, || Ok(Outcome::Checked(run.lint()?)))?);
    }
    let tested: Vec<Tier> = tiers.into_iter().filter(|tier| *tier != Tier::Lint).collect();
    if !tested.is_empty() {
        let binaries = test_binary::build_all(project, run.ebpf_object())?;
        for tier in tested {
            rows.push(timed(tier, || run.run_tier(tier, &binaries))?);
        }
    }
    print_summary(&rows, started.elapsed());
    if rows.iter().any(|row| row.outcome.has_failed()) {
        bail!("the tests failed");
    }
    Ok(())
}

/// Root, the tools and the object; the inner error is a missing need, the outer one a broken build.
fn prepare_kernel(project: &Project, is_wanted: bool) -> Result<Result<(Privilege, PathBuf), String>> {
    if !is_wanted {
        return Ok(Err("no selected tier asks for it".into()));
    }
    let prepared = Privilege::find().and_then(|privilege| {
        setup::ebpf_toolchain(project)?;
        setup::tests(project, privilege)?;
        Ok(privilege)
    });
    match prepared {
        Ok(privilege) => Ok(Ok((privilege, build_ebpf::build_object(project)?))),
        Err(missing) => Ok(Err(format!("{missing:#}"))),
    }
}

fn prepare_helm(project: &Project, is_wanted: bool) -> Result<PathBuf, String> {
    if !is_wanted {
        return Err("no selected tier asks for it".into());
    }
    helm::program(project).map_err(|missing| format!("{missing:#}"))
}

impl Run<'_> {
    fn ebpf_object(&self) -> Option<&Path> {
        self.kernel.as_ref().ok().map(|(_, object)| object.as_path())
    }

    fn lint(&self) -> Result<bool> {
        setup::lint_components(self.project)?;
        let mut format = self.project.cargo();
        format.args(["fmt", "--all", "--check"]);
        let mut clippy = self.project.cargo();
        clippy.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]);
        if let Some(object) = self.ebpf_object() {
            clippy.env(OBJECT_VARIABLE, object);
        }
        let mut is_well = true;
        for (name, command) in [("cargo fmt", &mut format), ("cargo clippy", &mut clippy)] {
            println!("lint: {name}");
            if let Err(error) = project::run(command) {
                println!("lint: {error:#}");
                is_well = false;
            }
        }
        Ok(is_well)
    }

    fn run_tier(&self, tier: Tier, binaries: &[TestBinary]) -> Result<Outcome> {
        if tier == Tier::Kernels {
            return self.run_in_kernel(binaries);
        }
        let missing = match tier {
            Tier::Kernel | Tier::Netns => match &self.kernel {
                Ok((privilege, _)) => self.missing_need(tier, Some(*privilege))?,
                Err(missing) => Some(missing.clone()),
            },
            Tier::Lint | Tier::Host | Tier::Cluster | Tier::Kernels => None,
        };
        if let Some(missing) = missing {
            println!("{}: skipped: {missing}", tier.name());
            return Ok(Outcome::Skipped(missing));
        }
        // A few tests of these tiers need one program more than the others.
        let further = match tier {
            Tier::Cluster => Some("a real API server"),
            Tier::Host => Some("Helm"),
            Tier::Lint | Tier::Kernel | Tier::Netns | Tier::Kernels => None,
        };
        let unmet = further.map(|_| self.missing_need(tier, None)).transpose()?.flatten();
        if let (Some(missing), Some(further)) = (&unmet, further) {
            println!("{}: without {further}: {missing}", tier.name());
        }
        if let (Tier::Host, Err(missing)) = (tier, &self.helm) {
            println!("{}: {missing}", tier.name());
        }
        let required = unmet.is_none().then_some(tier);
        let mut count = Count::default();
        for binary in binaries.iter().filter(|binary| Tier::of(binary) == tier) {
            println!("{}: {} {}", tier.name(), binary.package.display(), binary.name);
            count += test_binary::run_counted(&mut self.test_command(tier, required, binary))?;
        }
        if tier == Tier::Host {
            count += self.run_doc_tests()?;
        }
        // With a filter among the arguments a tier may well have none that match.
        if count == Count::default() && self.test_arguments.is_empty() {
            return Ok(Outcome::HasNoTests);
        }
        Ok(Outcome::Ran(count))
    }

    /// Runs this tier's tests, and some of the kernel tier's, in a virtual machine.
    fn run_in_kernel(&self, binaries: &[TestBinary]) -> Result<Outcome> {
        let skipped = |missing: String| {
            println!("{}: skipped: {missing}", Tier::Kernels.name());
            Ok(Outcome::Skipped(missing))
        };
        let privilege = match &self.kernel {
            Ok((privilege, _)) => *privilege,
            Err(missing) => return skipped(missing.clone()),
        };
        let prepare = || {
            setup::programs(privilege, &qemu::PROGRAMS)?;
            qemu::SUITES.iter().map(|suite| qemu::Kernel::prepare(self.project, suite)).collect()
        };
        let kernels: Vec<qemu::Kernel> = match prepare() {
            Ok(kernels) => kernels,
            Err(missing) => return skipped(format!("{missing:#}")),
        };
        let is_wanted = |binary: &&TestBinary| match Tier::of(binary) {
            Tier::Kernels => true,
            Tier::Kernel => self.is_whole || IN_OTHER_KERNELS.contains(&binary.name.as_str()),
            Tier::Lint | Tier::Host | Tier::Netns | Tier::Cluster => false,
        };
        let script = self.kernel_script(binaries.iter().filter(is_wanted))?;
        let longest = if self.is_whole { WHOLE_LONGEST } else { LONGEST };
        // Side by side: each keeps one processor busy for most of its time.
        let mut count = Count::default();
        std::thread::scope(|scope| -> Result<()> {
            let runs: Vec<_> =
                kernels.iter().map(|kernel| scope.spawn(|| run_kernel(kernel, &script, longest))).collect();
            for run in runs {
                count += run.join().map_err(|_| anyhow!("what runs a kernel fell"))??;
            }
            Ok(())
        })?;
        if count == Count::default() && self.test_arguments.is_empty() {
            return Ok(Outcome::HasNoTests);
        }
        Ok(Outcome::Ran(count))
    }

    fn kernel_script<'a>(&self, binaries: impl Iterator<Item = &'a TestBinary>) -> Result<PathBuf> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let mut lines: Vec<String> = self
            .variables(None)
            .iter()
            .map(|(name, value)| format!("export {name}={}", quoted(&value.display().to_string())))
            .collect();
        lines.extend([
            format!("export {REQUIRE_VARIABLE}=kernel,netns,kernels"),
            "modprobe -a veth bridge pktgen sch_ingress cls_bpf && ip link set lo up || exit 1".into(),
            "status=0".into(),
        ]);
        for binary in binaries {
            let (folder, path) = (binary.package.display().to_string(), binary.path.display().to_string());
            let arguments: Vec<String> =
                self.test_arguments.iter().map(|argument| quoted(argument)).collect();
            lines.push(format!(
                "cd {} && {} --test-threads=1 --color=never {} || status=1",
                quoted(&folder),
                quoted(&path),
                arguments.join(" ")
            ));
        }
        lines.push("exit $status".into());
        qemu::write_script(self.project, &lines)
    }

    fn test_command(&self, tier: Tier, required: Option<Tier>, binary: &TestBinary) -> Command {
        let variables = self.variables(required);
        let mut command = match (&self.kernel, tier.needs_ebpf_object()) {
            (Ok((privilege, _)), true) => privilege.command(&binary.path, variables),
            _ => {
                let mut command = Command::new(&binary.path);
                command.envs(variables);
                command
            }
        };
        binary.set_folder(&mut command);
        command.arg(test_binary::color());
        if tier == Tier::Netns {
            // Its tests load the machine and watch deadlines; side by side they disturb each other.
            command.arg("--test-threads=1");
        }
        command.args(self.test_arguments);
        command
    }

    /// What a tier still lacks, as the tests themselves find it out.
    fn missing_need(&self, tier: Tier, privilege: Option<Privilege>) -> Result<Option<String>> {
        let needs = self.project.target().join("debug/podway-needs");
        let mut command = match privilege {
            Some(privilege) => privilege.command(&needs, self.variables(None)),
            None => {
                let mut command = Command::new(&needs);
                command.envs(self.variables(None));
                command
            }
        };
        let Some(answer) = project::output_of(command.arg(tier.name())) else {
            bail!("cannot find out whether the needs of the tier {} are met", tier.name());
        };
        Ok(Some(answer.trim().to_string()).filter(|missing| !missing.is_empty()))
    }

    fn variables(&self, required: Option<Tier>) -> BTreeMap<&'static str, PathBuf> {
        let mut variables = BTreeMap::new();
        variables.insert(BINARY_VARIABLE, self.project.target().join("debug/podway"));
        if let Some(object) = self.ebpf_object() {
            variables.insert(OBJECT_VARIABLE, object.to_path_buf());
        }
        if let Ok(helm) = &self.helm {
            variables.insert(helm::VARIABLE, helm.clone());
        }
        // What root's environment would be without.
        if let Some(assets) = std::env::var_os(ASSETS_VARIABLE) {
            variables.insert(ASSETS_VARIABLE, assets.into());
        }
        if let Some(tier) = required {
            variables.insert(REQUIRE_VARIABLE, tier.name().into());
        }
        variables
    }

    fn run_doc_tests(&self) -> Result<Count> {
        println!("host: examples in the documentation");
        let mut command = self.project.cargo();
        command.args(["test", "--workspace", "--doc", "--locked", "--"]).args(self.test_arguments);
        if let Some(object) = self.ebpf_object() {
            command.env(OBJECT_VARIABLE, object);
        }
        test_binary::run_counted(&mut command)
    }
}

/// Runs the script in one kernel and prints what it said once it has ended.
fn run_kernel(kernel: &qemu::Kernel, script: &Path, longest: Duration) -> Result<Count> {
    let title = format!("{}: Linux {}", Tier::Kernels.name(), kernel.release);
    let mut told = vec![title.clone()];
    let mut ended = kernel.run(script, longest, |line| told.push(line.to_owned()));
    if ended.is_err() && !told.iter().any(|line| line.starts_with("running ")) {
        // A kernel patches its own code while it starts, which the emulation of two processors now and then trips over:
        // before any test, and never twice so far.
        told.push(format!("{title} did not start; once more"));
        ended = kernel.run(script, longest, |line| told.push(line.to_owned()));
    }
    println!("{}", told.join("\n"));
    let mut count = Count::default();
    told.iter().filter_map(|line| test_binary::count_of(line)).for_each(|found| count += found);
    if !ended? && count.failed == 0 {
        count.failed += 1;
    }
    Ok(count)
}

fn timed(tier: Tier, run: impl FnOnce() -> Result<Outcome>) -> Result<Row> {
    let started = Instant::now();
    let outcome = run()?;
    Ok(Row { tier, outcome, took: started.elapsed() })
}

/// A line per tier, then one result line over all, in the words of Rust's test harness.
fn print_summary(rows: &[Row], took: Duration) {
    let mut total = Count::default();
    println!("\n{:<8} {:<46} {:<8} tests", "tier", "needs", "result");
    for row in rows {
        let result = match (&row.outcome, row.outcome.has_failed()) {
            (Outcome::Skipped(_), _) => "skipped",
            (_, true) => "FAILED",
            (_, false) => "ok",
        };
        let tests = match &row.outcome {
            Outcome::Checked(_) => format!("{:.0} s", row.took.as_secs_f64()),
            Outcome::Ran(count) => {
                total += *count;
                format!("{} passed, {} failed, {:.0} s", count.passed, count.failed, row.took.as_secs_f64())
            }
            Outcome::HasNoTests => "no test found".to_string(),
            Outcome::Skipped(missing) => missing.clone(),
        };
        println!("{:<8} {:<46} {result:<8} {tests}", row.tier.name(), row.tier.need());
    }
    let word = if rows.iter().any(|row| row.outcome.has_failed()) { "FAILED" } else { "ok" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        total.passed,
        total.failed,
        total.ignored,
        took.as_secs_f64()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(name: &str, kind: Kind) -> TestBinary {
        TestBinary { name: name.into(), kind, path: PathBuf::new(), package: PathBuf::new() }
    }

    #[test]
    fn an_integration_test_names_its_tier_and_a_unit_test_is_of_the_host() {
        assert_eq!(Tier::of(&binary("kernel_differential", Kind::Integration)), Tier::Kernel);
        assert_eq!(Tier::of(&binary("kernels_pktgen", Kind::Integration)), Tier::Kernels);
        assert_eq!(Tier::of(&binary("netns", Kind::Integration)), Tier::Netns);
        assert_eq!(Tier::of(&binary("round_trip", Kind::Integration)), Tier::Host);
        assert_eq!(Tier::of(&binary("kernel_names", Kind::Unit)), Tier::Host);
    }

    #[test]
    fn a_tier_that_can_run_and_has_no_test_fails() {
        assert!(Outcome::HasNoTests.has_failed());
        assert!(!Outcome::Ran(Count { passed: 1, ..Count::default() }).has_failed());
        assert!(!Outcome::Skipped("missing: root".into()).has_failed());
    }
}
