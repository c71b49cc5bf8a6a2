//! `cargo xtask bench --against`, as a user sees it: two saved runs, and what got slower between them.
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A saved run of one figure that less is better of, and one that more is.
fn saved(name: &str, cost_ns: [f64; 3], packets_per_second: [f64; 3]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text = format!(
        r#"[{{"bench": "forwarding",
"machine": {{"cpu": "AMD EPYC", "cores": 2, "kernel": "6.18.0", "date": "2026-11-24", "commit": "f3fa44c1b2d3"}},
"rows": [
{{"group": "cost", "case": "tc", "parameters": {{"flows": 10}}, "unit": "ns", "better": "less", "samples": {cost_ns:?}}},
{{"group": "rate", "case": "tc", "unit": "packets/s", "better": "more", "samples": {packets_per_second:?}}}]}}]"#
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn compare(before: &Path, after: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["bench", "--against"]).arg(before).arg("--run").arg(after).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn what_got_slower_is_said_and_is_exit_status_1() {
    let before = saved("slower-before.json", [100.0, 101.0, 102.0], [5_000.0, 5_010.0, 5_020.0]);
    let after = saved("slower-after.json", [120.0, 121.0, 122.0], [5_000.0, 5_010.0, 5_020.0]);
    let output = compare(&before, &after);
    assert_eq!(
        text(&output.stdout),
        "slower: forwarding: cost, tc, flows 10: 101.00 to 121.00 ns (+20 %)\n\
         2 figures compared, 1 got slower beyond noise\n"
    );
    assert_eq!(text(&output.stderr), "error: 1 of 2 figures got slower than in the saved run\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_got_faster_is_said_and_is_exit_status_0() {
    let before = saved("faster-before.json", [100.0, 101.0, 102.0], [5_000.0, 5_010.0, 5_020.0]);
    let after = saved("faster-after.json", [100.0, 101.0, 102.0], [6_000.0, 6_012.0, 6_024.0]);
    let output = compare(&before, &after);
    assert_eq!(
        text(&output.stdout),
        "faster: forwarding: rate, tc: 5010.00 to 6012.00 packets/s (+20 %)\n\
         2 figures compared, 0 got slower beyond noise\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_that_is_no_saved_run_is_told_before_anything_is_measured() {
    let before = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-run.json");
    std::fs::write(&before, "{}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--against"]).arg(&before).output();
    let error = format!("error: {} is no saved run of benches", before.display());
    assert!(text(&output.unwrap().stderr).starts_with(&error));
}
