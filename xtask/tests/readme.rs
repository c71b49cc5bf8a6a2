//! The README says what is there.
use std::path::Path;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

#[test]
fn table_of_maps_has_every_map_once_in_the_order_of_the_abi() {
    let readme = readme();
    let (_, maps) = readme.split_once("### Maps").unwrap();
    let (maps, _) = maps.split_once("\n## ").unwrap();
    let rows: Vec<&str> =
        maps.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows, lb_common::maps::ALL);
}

#[test]
fn continuous_integration_runs_the_command_of_the_readme() {
    let run = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run")).unwrap();
    let command = run.lines().last().unwrap();
    assert_eq!(command, "cargo xtask test");
    assert!(readme().contains(&format!("```sh\n{command}\n```")));
}
