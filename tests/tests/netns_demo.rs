//! The demo itself, as a user runs it: every expectation holds, and nothing stays behind.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::need;
use lb_tests::netns::namespace_names;
use lb_tests::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podway-demo"));
    command.args(["--json", "--manifests", EXAMPLES]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a demo with this pid has left: namespaces, pins and cgroups.
fn leftovers(pid: u32) -> Vec<String> {
    let in_directory = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let cgroup: PathBuf = lb_tests::cgroup::mount_point().unwrap();
    let names = [namespace_names(), in_directory(Path::new("/sys/fs/bpf")), in_directory(&cgroup)].concat();
    let prefixes = [format!("pw{pid}-"), format!("podway-{pid}-")];
    names.into_iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect()
}

#[test]
fn every_expectation_of_the_demo_holds() {
    let Some(_) = need::netns() else { return };
    let child = demo().spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = results["steps"].as_array().unwrap();
    assert_eq!(results["ok"], true, "{story}");
    assert_eq!(steps.len(), 30, "{story}");
    assert!(steps.iter().all(|step| step["ok"] == true), "{story}");
    let maps = results["tables"]["url-maps"].as_array().unwrap();
    assert!(maps.iter().any(|map| map["name"] == "shop/store"), "{maps:?}");
    assert!(
        story.contains("\n$ podway explain --url https://store.example/cart/7 --vip 198.51.100.81\n"),
        "{story}"
    );
    assert_eq!(leftovers(pid), Vec::<String>::new());
}

#[test]
fn interrupted_demo_fails_and_leaves_nothing() {
    let Some(_) = need::netns() else { return };
    let mut child = demo().spawn().unwrap();
    let pid = child.id();
    let client = format!("pw{pid}-0-client");
    wait_until(Duration::from_secs(20), "the demo's client", || namespace_names().contains(&client)).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    wait_until(Duration::from_secs(20), "the demo's end", || child.try_wait().unwrap().is_some()).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(leftovers(pid), Vec::<String>::new());
}
