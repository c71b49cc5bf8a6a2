//! Creating, replacing, patching and deleting.
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::Value;

use super::answer::status;
use super::store::Resource;
use super::{Fault, Request, State};

/// What came with a write.
pub(super) enum Body {
    /// An object, or a JSON merge patch (RFC 7396).
    Plain(Value),
    /// A strategic merge patch: the conditions of a status are merged by their type.
    Strategic(Value),
}

/// Carries out a write; the status code and what is answered.
pub(super) fn write(state: &mut State, method: &str, path: &str, body: &Body) -> (u16, Value) {
    let Some((resource, Some(namespace), rest)) = Resource::of_path(path) else {
        return (404, status(404, "no such path"));
    };
    let is_watch = false;
    state.requests.push(Request { resource, is_watch, query: BTreeMap::new(), at: Instant::now() });
    let fault = state.faults.get_mut(&(resource, is_watch)).and_then(VecDeque::pop_front);
    if let Some(Fault::Status(code, _)) = fault {
        return (code, status(code, "by the test"));
    }
    let (Body::Plain(content) | Body::Strategic(content)) = body;
    let name = match (method, rest) {
        ("POST", "") => content["metadata"]["name"].as_str().unwrap_or_default(),
        (_, rest) => rest.split('/').next().unwrap_or_default(),
    };
    let before = state.store.get(resource, namespace, name).cloned();
    let differs = |field: &str| {
        let (asked, is) =
            (&content["metadata"][field], before.as_ref().map(|object| &object["metadata"][field]));
        !asked.is_null() && is.is_some_and(|is| is != asked)
    };
    let is_stale = differs("resourceVersion") || differs("uid");
    let object = match (method, before) {
        ("POST", Some(_)) => return (409, status(409, "the object exists")),
        ("POST", None) => {
            let mut object = content.clone();
            object["metadata"]["namespace"] = namespace.into();
            object
        }
        (_, None) => return (404, status(404, "no such object")),
        ("PUT" | "PATCH", Some(_)) if is_stale => return (409, status(409, "the object is another one")),
        ("DELETE", Some(object)) => {
            state.store.delete(resource, namespace, name);
            return (200, object);
        }
        ("PUT", Some(_)) => {
            let mut object = content.clone();
            object["metadata"]["namespace"] = namespace.into();
            object
        }
        (_, Some(mut object)) => {
            let conditions = object["status"]["conditions"].clone();
            merge(&mut object, content);
            if matches!(body, Body::Strategic(_)) {
                object["status"]["conditions"] = by_type(&conditions, &content["status"]["conditions"]);
            }
            object
        }
    };
    state.store.put(resource, object);
    let stored = state.store.get(resource, namespace, name).cloned().unwrap_or_default();
    (if method == "POST" { 201 } else { 200 }, stored)
}

/// Conditions with others in their place or after them.
fn by_type(before: &Value, patch: &Value) -> Value {
    let empty = Vec::new();
    let of = |value| -> &Vec<Value> { Value::as_array(value).unwrap_or(&empty) };
    let mut conditions = of(before).clone();
    for condition in of(patch) {
        match conditions.iter_mut().find(|known| known["type"] == condition["type"]) {
            Some(known) => merge(known, condition),
            None => conditions.push(condition.clone()),
        }
    }
    conditions.into()
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
