//! What a tier of tests needs of the machine. A test asks first; where the need is not met it prints
//! what is missing and ends, unless `PODWAY_REQUIRE` says that the need is met: then it fails, so that
//! no test is skipped unseen.
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use aya::programs::ProgramType;

/// Names the eBPF object.
pub const OBJECT_VARIABLE: &str = "PODWAY_EBPF_OBJECT";
/// Names the `podway` binary.
pub const BINARY_VARIABLE: &str = "PODWAY_BINARY";
/// Names the `helm` program.
pub const HELM_VARIABLE: &str = "PODWAY_HELM";
/// The tiers whose need is known to be met, separated by commas.
pub const REQUIRE_VARIABLE: &str = "PODWAY_REQUIRE";
/// The folder of `kube-apiserver`, `etcd` and `kubectl`, under the name that Kubernetes' own tools use.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

const REMEDY: &str = "`cargo xtask test` builds it and sets this";

/// What a test of the kernel tier has.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The eBPF object's file.
    pub ebpf_object: PathBuf,
}

/// What a test of the netns tier has.
#[derive(Clone, Debug)]
pub struct Netns {
    /// The eBPF object's file.
    pub ebpf_object: PathBuf,
    /// The `podway` binary.
    pub podway: PathBuf,
}

/// What a test of the cluster tier has.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The folder that holds `kube-apiserver`, `etcd` and `kubectl`.
    pub assets: PathBuf,
}

/// The kernel tier's need, or `None` after a printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn kernel() -> Option<Kernel> {
    met_or_skipped("kernel", find_kernel())
}

/// The netns tier's need, or `None` after a printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn netns() -> Option<Netns> {
    met_or_skipped("netns", find_netns())
}

/// The netns tier's need and BIRD, the routing daemon, or `None` after a printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn routing() -> Option<(Netns, PathBuf)> {
    met_or_skipped("netns", find_netns().and_then(|need| Ok((need, find_bird()?))))
}

/// As [`routing`], and the folder of FRR's daemons.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn routing_by_frr() -> Option<(Netns, PathBuf, PathBuf)> {
    met_or_skipped("netns", find_netns().and_then(|need| Ok((need, find_bird()?, find_frr()?))))
}

/// The netns tier's need and nginx, or `None` after a printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn nginx() -> Option<(Netns, PathBuf)> {
    met_or_skipped("netns", find_netns().and_then(|need| Ok((need, find_nginx()?))))
}

/// The netns tier's need and the library that shifts the time of day of a program (libfaketime), or `None` after a
/// printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn clocks() -> Option<(Netns, PathBuf)> {
    met_or_skipped("netns", find_netns().and_then(|need| Ok((need, find_faketime()?))))
}

fn find_faketime() -> Result<PathBuf, String> {
    // One folder for each architecture.
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.is_file()).ok_or_else(|| "missing: libfaketime; install faketime".to_owned())
}

fn find_bird() -> Result<PathBuf, String> {
    find_program("bird", None).ok_or_else(|| "missing: the program bird; install bird2".to_owned())
}

fn find_frr() -> Result<PathBuf, String> {
    let folder = PathBuf::from("/usr/lib/frr");
    let is_there = ["zebra", "bgpd"].iter().all(|daemon| folder.join(daemon).is_file());
    is_there.then_some(folder).ok_or_else(|| "missing: zebra and bgpd of FRR; install frr".to_owned())
}

fn find_nginx() -> Result<PathBuf, String> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/nginx/usr/sbin").into();
    find_program("nginx", Some(unpacked))
        .ok_or_else(|| "missing: the program nginx; install nginx-light".to_owned())
}

/// A program on the `PATH`, among those of administrators, or in a folder of its own.
fn find_program(name: &str, own: Option<PathBuf>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).chain(own);
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}

/// The cluster tier's need, or `None` after a printed line that names what is missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn cluster() -> Option<Cluster> {
    met_or_skipped("cluster", find_cluster())
}

/// The one program that some tests of the host tier need, Helm; or `None` after a printed line that says that it is
/// missing.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn helm() -> Option<PathBuf> {
    met_or_skipped("host", find_helm())
}

/// The need of the tier of other kernels, or `None` after a printed line that names what is missing: the netns
/// tier's and a kernel with pktgen.
///
/// # Panics
/// The need is not met although `PODWAY_REQUIRE` names the tier.
#[must_use]
pub fn kernels() -> Option<Netns> {
    met_or_skipped("kernels", find_kernels())
}

/// As [`kernel`], with what is missing as the error.
///
/// # Errors
/// What is missing and how to get it, in one line.
pub fn find_kernel() -> Result<Kernel, String> {
    static BPF: OnceLock<Result<(), String>> = OnceLock::new();
    BPF.get_or_init(bpf_works).clone()?;
    Ok(Kernel { ebpf_object: file_named_by(OBJECT_VARIABLE)? })
}

/// As [`netns`], with what is missing as the error.
///
/// # Errors
/// What is missing and how to get it, in one line.
pub fn find_netns() -> Result<Netns, String> {
    static NAMESPACES: OnceLock<Result<(), String>> = OnceLock::new();
    let Kernel { ebpf_object } = find_kernel()?;
    NAMESPACES.get_or_init(namespaces_work).clone()?;
    Ok(Netns { ebpf_object, podway: file_named_by(BINARY_VARIABLE)? })
}

/// As [`cluster`], with what is missing as the error.
///
/// # Errors
/// What is missing and how to get it, in one line.
pub fn find_cluster() -> Result<Cluster, String> {
    let assets = std::env::var_os(ASSETS_VARIABLE).map(PathBuf::from).ok_or_else(|| {
        format!("missing: {ASSETS_VARIABLE}; set it to a folder with kube-apiserver, etcd and kubectl (`setup-envtest use -p path`)")
    })?;
    for program in ["kube-apiserver", "etcd", "kubectl"] {
        if !assets.join(program).is_file() {
            return Err(format!(
                "missing: {program} in {} ({ASSETS_VARIABLE}); get it with `setup-envtest use`",
                assets.display()
            ));
        }
    }
    Ok(Cluster { assets })
}

/// As [`helm`], with what is missing as the error.
///
/// # Errors
/// What is missing and how to get it, in one line.
pub fn find_helm() -> Result<PathBuf, String> {
    file_named_by(HELM_VARIABLE)
}

/// As [`kernels`], with what is missing as the error.
///
/// # Errors
/// What is missing and how to get it, in one line.
pub fn find_kernels() -> Result<Netns, String> {
    let need = find_netns()?;
    match crate::pktgen::is_there() {
        true => Ok(need),
        false => {
            Err("missing: the kernel's module pktgen; `cargo xtask test --tier kernels` brings a kernel"
                .into())
        }
    }
}

fn met_or_skipped<T>(tier: &str, found: Result<T, String>) -> Option<T> {
    let missing = match found {
        Ok(need) => return Some(need),
        Err(missing) => missing,
    };
    let required = std::env::var(REQUIRE_VARIABLE).unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == tier),
        "{REQUIRE_VARIABLE} asks for the tier {tier}, but {missing}"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not `eprintln!`: the test harness would swallow it.
    let written = writeln!(std::io::stderr(), "skipped {test}: {missing}");
    // A closed standard error leaves nobody to tell.
    drop(written);
    None
}

fn file_named_by(variable: &str) -> Result<PathBuf, String> {
    let value: OsString =
        std::env::var_os(variable).ok_or_else(|| format!("missing: {variable}; {REMEDY}"))?;
    let path = PathBuf::from(value);
    if !path.is_file() {
        return Err(format!("missing: the file {} ({variable}); {REMEDY}", path.display()));
    }
    Ok(path)
}

fn bpf_works() -> Result<(), String> {
    for (kind, name) in [(ProgramType::Xdp, "XDP"), (ProgramType::SchedClassifier, "tc")] {
        match aya::sys::is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => {
                return Err(format!("missing: {name} programs in this kernel; run Linux 6.6 or newer"));
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                return Err(format!(
                    "missing: the right to load BPF programs ({cause}); run as root outside a container, or with \
                     CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
                ));
            }
        }
    }
    Ok(())
}

fn namespaces_work() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("missing: root, to make network namespaces; run as root".into());
    }
    let name = format!("podway-need-{}", std::process::id());
    let ip = |action: &str| Command::new("ip").args(["netns", action, &name]).output();
    let made = ip("add").map_err(|error| format!("missing: the program ip ({error}); install iproute2"))?;
    if !made.status.success() {
        return Err(format!(
            "missing: the right to make network namespaces ({}); run as root outside a container",
            String::from_utf8_lossy(&made.stderr).trim()
        ));
    }
    ip("delete").map_err(|error| format!("cannot remove the network namespace {name}: {error}"))?;
    Ok(())
}
