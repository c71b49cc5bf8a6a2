//! Every crate of a release is under a licence that `deny.toml` allows, and from the registry; `cargo xtask audit` looks
//! deeper, and needs a tool for it.
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The licences that are allowed, as `deny.toml` lists them.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml")).unwrap();
    let (_, list) = text.split_once("allow = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression holds: `OR` binds less than `AND`. An inner pair of parentheses stands for what it comes to.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    if let Some(open) = expression.rfind('(') {
        let (before, rest) = expression.split_at(open);
        let (inner, after) = rest[1..].split_once(')').unwrap();
        // A word of the list, or one that is none.
        let word = if is_met(inner, allowed) { "MIT" } else { "none" };
        return is_met(&format!("{before}{word}{after}"), allowed);
    }
    let is_alternative_met = |words: &str| words.split(" AND ").all(|word| allowed.contains(word.trim()));
    expression.split(" OR ").any(is_alternative_met)
}

#[test]
fn expressions_hold_as_spdx_says() {
    let allowed: BTreeSet<String> = ["MIT", "ISC"].map(str::to_owned).into();
    for met in ["MIT", "GPL-3.0-only OR MIT", "(GPL-3.0-only OR MIT) AND ISC"] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for refused in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "(GPL-3.0-only AND MIT) OR Zlib"] {
        assert!(!is_met(refused, &allowed), "{refused}");
    }
}

#[test]
fn every_crate_is_from_the_registry_and_under_an_allowed_licence() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let name = &package["name"];
        let licence =
            package["license"].as_str().unwrap_or_default().replace(" / ", "/").replace('/', " OR ");
        assert!(is_met(&licence, &allowed), "{name} is under {licence:?}");
        let source = package["source"].as_str().unwrap_or_default();
        let is_ours = package["source"].is_null();
        assert!(
            is_ours || source == "registry+https://github.com/rust-lang/crates.io-index",
            "{name}: {source}"
        );
    }
}
