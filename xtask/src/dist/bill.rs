//! What a release is made of, crate by crate: a software bill of materials in the form of CycloneDX 1.5.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::project::{Project, output_of};

/// The packages that become the program and the eBPF object in it.
const ROOTS: [&str; 2] = ["lb-userspace", "lb-ebpf"];

/// What `cargo metadata` says, as far as it is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Where it comes from; none is this repository.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `dev` or `build`; none is a normal one.
    kind: Option<String>,
}

/// The bill, which has no time and no serial number, so that it is the same from the same `Cargo.lock`.
pub(super) fn of_materials(project: &Project) -> Result<String> {
    let mut cargo = project.cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
    cargo.args(["--filter-platform", super::TARGET]);
    let text = output_of(&mut cargo).context("cannot list the crates: `cargo metadata --locked` failed")?;
    let metadata: Metadata = serde_json::from_str(&text).context("cannot read what `cargo metadata` says")?;
    Ok(serde_json::to_string_pretty(&bill(&metadata))? + "\n")
}

fn bill(metadata: &Metadata) -> Value {
    let reached = reached(metadata);
    let mut components: Vec<&Package> =
        metadata.packages.iter().filter(|package| reached.contains(package.id.as_str())).collect();
    components.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let components: Vec<Value> = components.into_iter().map(component).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": "podway", "name": "podway", "version": env!("CARGO_PKG_VERSION"),
            },
        },
        "components": components,
    })
}

fn component(package: &Package) -> Value {
    let Package { name, version, .. } = package;
    let mut component = json!({
        "type": "library", "bom-ref": format!("{name}@{version}"), "name": name, "version": version,
    });
    if package.source.is_some() {
        component["purl"] = format!("pkg:cargo/{name}@{version}").into();
    }
    if let Some(license) = &package.license {
        // Older manifests have a slash where SPDX has OR.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ").replace("  ", " ")}]);
    }
    component
}

/// The packages that end in the release: by normal dependencies from the roots, these included.
fn reached(metadata: &Metadata) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let roots = metadata.packages.iter().filter(|package| ROOTS.contains(&package.name.as_str()));
    let mut open: Vec<&str> = roots.map(|package| package.id.as_str()).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !reached.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let normal =
            dependencies.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        open.extend(normal.map(|dependency| dependency.pkg.as_str()));
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, license: &str) -> Value {
        json!({"id": name, "name": name, "version": "1.0.0", "license": license, "source": "registry"})
    }

    #[test]
    fn what_only_tests_and_builds_need_is_not_in_the_bill() {
        let dependency = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("lb-userspace", "MIT"), package("b", "MIT/Apache-2.0"), package("c", "MIT"),
                package("d", "MIT"), package("e", "ISC"),
            ],
            "resolve": {"nodes": [
                {"id": "lb-userspace", "deps": [
                    dependency("b", Value::Null), dependency("c", "dev".into()), dependency("d", "build".into()),
                ]},
                {"id": "b", "deps": [dependency("e", Value::Null)]},
                {"id": "c", "deps": []}, {"id": "d", "deps": []}, {"id": "e", "deps": []},
            ]},
        });
        let bill = bill(&serde_json::from_value(metadata).unwrap());
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
        assert_eq!(names, ["b", "e", "lb-userspace"]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][1]["purl"], "pkg:cargo/e@1.0.0");
    }
}
