//! The text of one manifest file to Kubernetes objects. Each document stands alone: one that cannot
//! be read is named with its place and hides no other.
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, ServiceCIDR};
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use crate::source::objects::{BackendConfigObject, FrontendConfigObject, LoadBalancerPoolObject};

/// An object of a kind that Podway reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCIDR>),
    BackendConfig(Box<BackendConfigObject>),
    Secret(Box<Secret>),
    Ingress(Box<Ingress>),
    IngressClass(Box<IngressClass>),
    FrontendConfig(Box<FrontendConfigObject>),
    LoadBalancerPool(Box<LoadBalancerPoolObject>),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Objects with the number of their document, counted from 1.
    pub(super) objects: Vec<(usize, Object)>,
    /// Documents, or items of lists, that cannot be read.
    pub(super) faults: Vec<String>,
    /// Kinds that Podway does not read, as `apiVersion kind`.
    pub(super) ignored_kinds: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

impl Syntax {
    /// By the end of the file's name; `None` is no manifest.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// One document of a file.
struct Document<'a> {
    number: usize,
    /// Lines of the file before it.
    lines_before: usize,
    text: &'a str,
    syntax: Syntax,
}

/// Reads a file.
pub(super) fn read(text: &str, syntax: Syntax) -> Manifest {
    let mut manifest = Manifest::default();
    let documents = match syntax {
        Syntax::Yaml => yaml_documents(text),
        Syntax::Json => json_documents(text),
    };
    for document in documents {
        if let Err(reason) = read_document(&document, &mut manifest) {
            let Document { number, lines_before, .. } = document;
            manifest.faults.push(format!("document {number} (from line {}): {reason}", lines_before + 1));
        }
    }
    manifest
}

/// Splits at lines that start with the marker `---` (YAML 1.2 §9.1.2: it may stand at the start of a
/// line nowhere else). Splitting before parsing keeps a syntax error inside its document.
fn yaml_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut add = |from: usize, to: usize, lines_before: usize| {
        if !is_blank(&text[from..to]) {
            let number = documents.len() + 1;
            documents.push(Document { number, lines_before, text: &text[from..to], syntax: Syntax::Yaml });
        }
    };
    let mut position = 0;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker {
            add(start, position, lines_before);
            (start, lines_before) = (position, line_number);
        }
        position += line.len();
    }
    add(start, text.len(), lines_before);
    documents
}

/// Whether a document has nothing but markers and comments.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line == "---" || line.starts_with('#'))
}

/// Documents of a JSON file: values one after the other. A syntax error ends the last one.
fn json_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut start = 0;
    loop {
        let (end, is_last) = match values.next() {
            Some(Ok(_)) => (values.byte_offset(), false),
            Some(Err(_)) => (text.len(), true),
            None => return documents,
        };
        let number = documents.len() + 1;
        start += text[start..end].len() - text[start..end].trim_start().len();
        let lines_before = text[..start].matches('\n').count();
        documents.push(Document { number, lines_before, text: &text[start..end], syntax: Syntax::Json });
        if is_last {
            return documents;
        }
        start = end;
    }
}

impl Document<'_> {
    /// Reads the document as a `T`. In the error, line numbers are those of the file.
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        let parse = |text: &str| match self.syntax {
            Syntax::Yaml => serde_yaml_ng::from_str(text).map_err(|error| error.to_string()),
            Syntax::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
        };
        parse(self.text).or_else(|reason| {
            // Empty lines in front make the parser count as the reader of the file does.
            let padded = "\n".repeat(self.lines_before) + self.text;
            parse(&padded).and(Err(reason))
        })
    }
}

fn read_document(document: &Document<'_>, manifest: &mut Manifest) -> Result<(), String> {
    let mut value: Value = document.parse()?;
    let has_merge_keys = document.text.contains("<<:");
    if has_merge_keys {
        value.apply_merge().map_err(|error| error.to_string())?;
    }
    if value.is_null() {
        return Ok(());
    }
    let kind = text_of(&value, "kind")?;
    let api_version = text_of(&value, "apiVersion")?;
    if let Some(item_kind) = kind.strip_suffix("List") {
        return read_list(document.number, &value, &api_version, item_kind, manifest);
    }
    // The tree is there already. Only what it does not give is looked for in the text once more: a text field whose
    // value looks like a number, and the line of an error.
    let of_tree = object(&api_version, &kind, &Text::Value(&value));
    let object = match of_tree {
        Err(_) if !has_merge_keys => object(&api_version, &kind, &Text::Document(document)),
        of_tree => of_tree,
    };
    add(document.number, object?, &api_version, &kind, manifest)
}

/// Items of `v1 List`, which carry their kinds, and of typed lists, which may not. A bad item hides
/// no other.
fn read_list(
    document_number: usize,
    list: &Value,
    list_api_version: &str,
    item_kind: &str,
    manifest: &mut Manifest,
) -> Result<(), String> {
    let items = list.get("items").and_then(Value::as_sequence);
    for (index, item) in items.ok_or("a list without items")?.iter().enumerate() {
        let result = (|| {
            let kind = text_of(item, "kind")
                .or_else(|e| if item_kind.is_empty() { Err(e) } else { Ok(item_kind.to_owned()) })?;
            let api_version = text_of(item, "apiVersion").unwrap_or_else(|_| list_api_version.to_owned());
            let object = object(&api_version, &kind, &Text::Value(item))?;
            add(document_number, object, &api_version, &kind, manifest)
        })();
        if let Err(reason) = result {
            manifest.faults.push(format!("document {document_number}, items[{index}]: {reason}"));
        }
    }
    Ok(())
}

/// What an object is read from.
enum Text<'a> {
    Document(&'a Document<'a>),
    Value(&'a Value),
}

impl Text<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<Box<T>, String> {
        match self {
            Self::Document(document) => document.parse(),
            Self::Value(value) => T::deserialize(*value).map_err(|error| error.to_string()),
        }
        .map(Box::new)
    }
}

/// The object by its kind, or `None` for a kind that Podway does not read.
fn object(api_version: &str, kind: &str, text: &Text<'_>) -> Result<Option<Object>, String> {
    Ok(Some(match (api_version, kind) {
        ("v1", "Service") => Object::Service(text.read()?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::EndpointSlice(text.read()?),
        ("v1", "Node") => Object::Node(text.read()?),
        ("networking.k8s.io/v1", "ServiceCIDR") => Object::ServiceCidr(text.read()?),
        ("cloud.google.com/v1", "BackendConfig") => Object::BackendConfig(text.read()?),
        ("v1", "Secret") => Object::Secret(text.read()?),
        ("networking.k8s.io/v1", "Ingress") => Object::Ingress(text.read()?),
        ("networking.k8s.io/v1", "IngressClass") => Object::IngressClass(text.read()?),
        ("networking.gke.io/v1beta1", "FrontendConfig") => Object::FrontendConfig(text.read()?),
        ("podway.io/v1alpha1", "LoadBalancerPool") => Object::LoadBalancerPool(text.read()?),
        _ => return Ok(None),
    }))
}

fn add(
    document_number: usize,
    object: Option<Object>,
    api_version: &str,
    kind: &str,
    manifest: &mut Manifest,
) -> Result<(), String> {
    let Some(mut object) = object else {
        manifest.ignored_kinds.insert(format!("{api_version} {kind}"));
        return Ok(());
    };
    let (meta, is_namespaced) = match &mut object {
        Object::Service(service) => (&mut service.metadata, true),
        Object::EndpointSlice(slice) => (&mut slice.metadata, true),
        Object::Node(node) => (&mut node.metadata, false),
        Object::ServiceCidr(cidr) => (&mut cidr.metadata, false),
        Object::BackendConfig(config) => (&mut config.metadata, true),
        Object::Secret(secret) => (&mut secret.metadata, true),
        Object::Ingress(ingress) => (&mut ingress.metadata, true),
        Object::IngressClass(class) => (&mut class.metadata, false),
        Object::FrontendConfig(config) => (&mut config.metadata, true),
        Object::LoadBalancerPool(pool) => (&mut pool.metadata, false),
    };
    if meta.name.as_deref().is_none_or(str::is_empty) {
        return Err(format!("{kind} without metadata.name"));
    }
    if !is_namespaced {
        meta.namespace = None;
    } else if meta.namespace.as_deref().is_none_or(str::is_empty) {
        meta.namespace = Some("default".to_owned());
    }
    manifest.objects.push((document_number, object));
    Ok(())
}

fn text_of(value: &Value, field: &str) -> Result<String, String> {
    let text = value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| format!("no field {field}: not a Kubernetes object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(manifest: &Manifest) -> Vec<(usize, String)> {
        let name = |object: &Object| match object {
            Object::Service(service) => format!("Service {}", service.metadata.name.as_deref().unwrap_or("")),
            Object::EndpointSlice(slice) => format!("Slice {}", slice.metadata.name.as_deref().unwrap_or("")),
            Object::Node(node) => format!("Node {}", node.metadata.name.as_deref().unwrap_or("")),
            Object::ServiceCidr(cidr) => {
                format!("ServiceCIDR {}", cidr.metadata.name.as_deref().unwrap_or(""))
            }
            Object::BackendConfig(config) => {
                format!("BackendConfig {}", config.metadata.name.as_deref().unwrap_or(""))
            }
            Object::Secret(secret) => format!("Secret {}", secret.metadata.name.as_deref().unwrap_or("")),
            other => format!("{other:?}"),
        };
        manifest.objects.iter().map(|(number, object)| (*number, name(object))).collect()
    }

    #[test]
    fn bad_documents_are_named_with_their_lines_and_hide_no_other() {
        let manifest = read(
            "# a comment
---
apiVersion: v1
kind: Service
metadata: {name: first}
---
apiVersion: v1
kind: Service
metadata: {name: broken
spec: [
---
apiVersion: v1
kind: Service
metadata: {name: mistyped}
spec:
  ports:
  - port: eighty
---
apiVersion: v1
kind: Node
metadata: {name: last}
",
            Syntax::Yaml,
        );
        assert_eq!(names(&manifest), [(1, "Service first".into()), (4, "Node last".into())]);
        assert_eq!(
            manifest.faults,
            [
                "document 2 (from line 6): did not find expected ',' or '}' at line 10 column 5, \
                 while parsing a flow mapping at line 9 column 11",
                "document 3 (from line 11): spec.ports[0].port: invalid type: string \"eighty\", \
                 expected i32 at line 17 column 11",
            ]
        );
    }

    #[test]
    fn repeated_key_is_a_fault() {
        let manifest =
            read("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nmetadata: {name: b}\n", Syntax::Yaml);
        assert_eq!(manifest.faults, ["document 1 (from line 1): duplicate entry with key \"metadata\""]);
    }

    #[test]
    fn items_of_lists_are_read_one_by_one() {
        let manifest = read(
            "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: x}]}}
- {apiVersion: v1, kind: Service, metadata: {}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: c}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- {metadata: {name: a-1}, addressType: IPv4, endpoints: []}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}}
",
            Syntax::Yaml,
        );
        assert_eq!(
            names(&manifest),
            [(1, "Service a".into()), (2, "Slice a-1".into()), (3, "ServiceCIDR kubernetes".into())]
        );
        assert_eq!(manifest.ignored_kinds, BTreeSet::from(["apps/v1 Deployment".to_owned()]));
        assert_eq!(
            manifest.faults,
            [
                "document 1, items[1]: invalid type: string \"x\", expected i32",
                "document 1, items[2]: Service without metadata.name",
            ]
        );
    }

    #[test]
    fn json_documents_follow_each_other_and_an_error_has_its_line() {
        let manifest = read(
            "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}
{\"apiVersion\": \"v1\",
 \"kind\": \"Node\", \"metadata\": {\"name\": 5}}
{\"apiVersion\": ",
            Syntax::Json,
        );
        assert_eq!(names(&manifest), [(1, "Service a".into())]);
        assert_eq!(
            manifest.faults,
            [
                "document 2 (from line 2): invalid type: integer `5`, expected a string at line 3 column 39",
                "document 3 (from line 4): EOF while parsing a value at line 4 column 15",
            ]
        );
    }

    #[test]
    fn merge_keys_and_anchors_are_understood() {
        let manifest = read(
            "apiVersion: v1
kind: Service
metadata: &meta {name: a, labels: {app: a}}
spec:
  selector: {<<: {app: b}, tier: c}
",
            Syntax::Yaml,
        );
        assert_eq!(manifest.faults, [""; 0]);
        let Object::Service(service) = &manifest.objects[0].1 else { panic!("not a Service") };
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        assert_eq!(
            selector.into_iter().collect::<Vec<_>>(),
            [("app".into(), "b".into()), ("tier".into(), "c".into())]
        );
    }

    #[test]
    fn text_that_looks_like_a_number_stays_text() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: 1e3}\nspec: {clusterIP: 1.10}\n";
        let manifest = read(text, Syntax::Yaml);
        assert_eq!(names(&manifest), [(1, "Service 1e3".to_owned())]);
        let Object::Service(service) = &manifest.objects[0].1 else { panic!("no Service") };
        assert_eq!(service.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("1.10"));
    }

    #[test]
    fn namespace_is_default_unless_given() {
        let manifest = read("{apiVersion: v1, kind: Service, metadata: {name: a}}", Syntax::Yaml);
        let Object::Service(service) = &manifest.objects[0].1 else { panic!("not a Service") };
        assert_eq!(service.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn text_that_is_no_object_is_a_fault() {
        let manifest = read("just words", Syntax::Yaml);
        assert_eq!(manifest.faults, ["document 1 (from line 1): no field kind: not a Kubernetes object"]);
    }
}
