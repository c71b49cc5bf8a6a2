//! `docs/gke.md` and the agent agree on which annotations and fields of GKE's objects mean something.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use lb_userspace::source::files;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/gke.md");
const BACKEND_CONFIG: &str =
    include_str!("../../deploy/chart/podway/crds/backendconfigs.cloud.google.com.yaml");
const FRONTEND_CONFIG: &str =
    include_str!("../../deploy/chart/podway/crds/frontendconfigs.networking.gke.io.yaml");

/// What annotations of GKE's begin with.
const PREFIXES: [&str; 5] = [
    "cloud.google.com/",
    "beta.cloud.google.com/",
    "networking.gke.io/",
    "ingress.gcp.kubernetes.io/",
    "kubernetes.io/ingress.",
];

/// The table after a marker of the page: what is said of each name.
fn table(marker: &str) -> BTreeMap<String, String> {
    let (_, after) = PAGE.split_once(&format!("<!-- {marker} -->\n")).expect("the marker");
    let rows =
        after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells =
        |row: &str| -> Vec<String> { row.split('|').map(|cell| cell.trim().replace('`', "")).collect() };
    rows.skip(2).map(|row| (cells(row)[1].clone(), cells(row)[2].clone())).collect()
}

fn is_supported(verdict: &str) -> bool {
    match verdict {
        "same" | "different" => true,
        "not supported" => false,
        other => panic!("{other:?} is no verdict"),
    }
}

/// The annotations that the agent's code names outside its tests.
fn annotations_of_code() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-userspace/src/source/objects");
    let files = std::fs::read_dir(folder).expect("the sources").map(|entry| entry.expect("a file").path());
    let sources = files.filter(|file| !file.to_string_lossy().ends_with("_tests.rs"));
    let mut found = BTreeSet::new();
    for source in sources.map(|file| std::fs::read_to_string(file).expect("a source")) {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let texts = code.match_indices('"').filter_map(|(start, _)| code[start + 1..].split('"').next());
        let is_annotation = |text: &&str| {
            let is_whole =
                !text.ends_with('/') && !text.ends_with('.') && !text.contains(char::is_whitespace);
            is_whole && !text.contains('{') && PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        };
        found.extend(texts.filter(is_annotation).map(str::to_owned));
    }
    found
}

/// What the agent says of an object.
fn problems(object: &Value) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("object.json"), object.to_string()).expect("a manifest");
    let (_, problems) = files::read_once(dir.path()).expect("read the folder");
    problems.into_iter().map(|problem| problem.message).collect()
}

/// Whether the agent says that a field is none that it serves.
fn is_refused(api_version: &str, kind: &str, field: &str) -> bool {
    let path: Vec<&str> = field.split('.').collect();
    let spec = path[1..].iter().rev().fold(json!("any"), |value, field| json!({ *field: value }));
    let metadata = json!({"name": "web", "namespace": "shop"});
    let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
    let says = |problem: &String| {
        problem.starts_with(field)
            && ["is unknown", "is not served", "is not followed"].iter().any(|says| problem.contains(says))
    };
    problems(&object).iter().any(says)
}

/// The fields of a definition, by their paths.
fn fields(definition: &str) -> Vec<String> {
    fn leaves(name: &str, schema: &JSONSchemaProps, into: &mut Vec<String>) {
        match &schema.properties {
            Some(fields) => {
                for (field, of) in fields {
                    leaves(&format!("{name}.{field}"), of, into);
                }
            }
            None => into.push(name.to_owned()),
        }
    }
    let definition: CustomResourceDefinition = serde_yaml_ng::from_str(definition).expect("a definition");
    let schema = definition.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema);
    let spec = schema.and_then(|schema| schema.properties?.remove("spec")).expect("a schema of spec");
    let mut all = Vec::new();
    leaves("spec", &spec, &mut all);
    all
}

#[test]
fn annotations_on_the_page_are_those_of_the_code() {
    let page: BTreeMap<String, String> =
        table("annotations of Ingress").into_iter().chain(table("annotations of Service")).collect();
    let supported: BTreeSet<String> =
        page.iter().filter(|(_, verdict)| is_supported(verdict)).map(|(name, _)| name.clone()).collect();
    assert_eq!(supported, annotations_of_code());
}

#[test]
fn annotations_of_an_ingress_that_are_not_supported_are_named_by_the_agent() {
    for (annotation, verdict) in table("annotations of Ingress") {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "web", "namespace": "shop", "annotations": { &*annotation: "true" }},
        });
        let is_named = problems(&object).iter().any(|problem| problem.contains("is not served"));
        assert_eq!(is_named, !is_supported(&verdict), "{annotation}");
    }
}

#[test]
fn fields_on_the_page_are_those_of_the_definitions_and_of_the_agent() {
    let kinds = [
        ("cloud.google.com/v1", "BackendConfig", BACKEND_CONFIG),
        ("networking.gke.io/v1beta1", "FrontendConfig", FRONTEND_CONFIG),
    ];
    for (api_version, kind, definition) in kinds {
        let page = table(&format!("fields of {kind}"));
        for field in fields(definition) {
            assert!(page.contains_key(&field), "{kind} {field} is not on the page");
        }
        for (field, verdict) in page {
            assert_eq!(is_refused(api_version, kind, &field), !is_supported(&verdict), "{kind} {field}");
        }
    }
}
