//! Creating and patching, of Events alone: an agent writes nothing else.
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::Value;

use super::answer::status;
use super::store::Resource;
use super::{Fault, Request, State};

/// Carries out a write; the status code and what is answered.
pub(super) fn write(state: &mut State, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let rest = path.strip_prefix("/apis/events.k8s.io/v1/namespaces/").unwrap_or_default();
    let parts: Vec<&str> = rest.split('/').collect();
    let (namespace, name) = match (method, &parts[..]) {
        ("POST", [namespace, "events"]) => {
            (*namespace, body["metadata"]["name"].as_str().unwrap_or_default())
        }
        ("PATCH", [namespace, "events", name]) => (*namespace, *name),
        _ => return (404, status(404, "no such path")),
    };
    let (resource, is_watch) = (Resource::Events, false);
    state.requests.push(Request { resource, is_watch, query: BTreeMap::new(), at: Instant::now() });
    let fault = state.faults.get_mut(&(resource, is_watch)).and_then(VecDeque::pop_front);
    if let Some(Fault::Status(code, _)) = fault {
        return (code, status(code, "by the test"));
    }
    let object = match (method, state.store.get(resource, namespace, name).cloned()) {
        ("POST", Some(_)) => return (409, status(409, "the object exists")),
        ("POST", None) => body.clone(),
        (_, None) => return (404, status(404, "no such object")),
        (_, Some(mut object)) => {
            merge(&mut object, body);
            object
        }
    };
    state.store.put(resource, object.clone());
    (if method == "POST" { 201 } else { 200 }, object)
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (field, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().map(|object| object.remove(field))),
            value => merge(&mut target[field], value),
        }
    }
}
