//! What is sent back, as JSON.
use serde_json::{Value, json};

use super::store::{Page, Resource};

/// A `Status` object of a failure.
pub(super) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": message, "reason": reason, "code": code,
    })
}

/// A page of a list. As from a real server, its items carry no `kind` and `apiVersion`.
pub(super) fn list(resource: Resource, page: Page) -> Value {
    let (api_version, kind) = resource.kind();
    let mut items = page.items;
    for object in items.iter_mut().filter_map(Value::as_object_mut) {
        object.remove("kind");
        object.remove("apiVersion");
    }
    json!({
        "kind": format!("{kind}List"), "apiVersion": api_version,
        "metadata": {"resourceVersion": page.version.to_string(), "continue": page.next.unwrap_or_default()},
        "items": items,
    })
}

/// One line of a watch, with the type first as from a real server: a client need not keep the object until
/// it knows that.
pub(super) fn event(kind: &str, object: impl std::fmt::Display) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// A bookmark, which may end the list that a watch begins with.
pub(super) fn bookmark(resource: Resource, version: u64, ends_list: bool) -> String {
    let (api_version, kind) = resource.kind();
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))
}
