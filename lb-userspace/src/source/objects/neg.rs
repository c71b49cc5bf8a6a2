//! GKE's annotations for NEGs on a Service.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::Faults;
use crate::model::{NegRequest, NegStatus};

/// Which ports of a Service have NEGs: `{"ingress": true}`, `{"exposed_ports": {"80": {"name": "web"}}}`.
const NEG: &str = "cloud.google.com/neg";

/// Which NEGs these are.
pub const NEG_STATUS: &str = "cloud.google.com/neg-status";

/// Beside a status that an agent wrote.
pub const NEG_STATUS_WRITER: &str = "podway.io/neg-status";

/// Longest name of a NEG.
const NAME_BYTES_MAX: usize = 63;

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    ingress: bool,
    #[serde(default)]
    exposed_ports: BTreeMap<String, Option<Attributes>>,
}

#[derive(Default, Deserialize)]
struct Attributes {
    name: Option<String>,
}

fn text<'a>(meta: &'a ObjectMeta, annotation: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(annotation).map(String::as_str)
}

/// What a Service asks for; `None` where it asks for nothing.
pub(super) fn request(meta: &ObjectMeta, faults: &mut Faults) -> Option<NegRequest> {
    let asked: Asked = match serde_json::from_str(text(meta, NEG)?) {
        Ok(asked) => asked,
        Err(error) => {
            faults.add(format!("annotation {NEG} is not to be read ({error}); it is left out"));
            return None;
        }
    };
    let mut exposed_ports = BTreeMap::new();
    for (port, attributes) in asked.exposed_ports {
        let Some(number) = port.parse().ok().filter(|number| *number != 0) else {
            faults.add(format!("annotation {NEG}: {port:?} is no port number; it is left out"));
            continue;
        };
        let name = attributes.unwrap_or_default().name.filter(|name| !name.is_empty());
        let is_name = name.as_ref().is_none_or(|name| is_name(name));
        if !is_name {
            faults.add(format!(
                "annotation {NEG}: the name for port {port} is not one of at most {NAME_BYTES_MAX} lower-case letters, \
                 digits and dashes; another one is used"
            ));
        }
        exposed_ports.insert(number, name.filter(|_| is_name).map(Into::into));
    }
    let is_none = !asked.ingress && exposed_ports.is_empty();
    (!is_none).then_some(NegRequest { is_for_ingress: asked.ingress, exposed_ports })
}

/// A name in Compute Engine (RFC 1035 §2.3.1, in lower case).
fn is_name(name: &str) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let bytes = name.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(is_inner)
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|byte| *byte != b'-')
}

/// What a Service is annotated with.
pub(super) fn status(meta: &ObjectMeta) -> NegStatus {
    NegStatus {
        text: text(meta, NEG_STATUS).map(Into::into),
        is_ours: text(meta, NEG_STATUS_WRITER).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn read(json: &str) -> (Option<NegRequest>, Vec<String>) {
        let annotations = Some([(NEG.to_owned(), json.to_owned())].into());
        let meta = ObjectMeta { annotations, ..ObjectMeta::default() };
        let mut faults = Faults::of("Service", &ObjectName::new("shop", "cart"));
        let request = request(&meta, &mut faults);
        (request, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn ports_are_exposed_with_or_without_a_name() {
        let json = r#"{"exposed_ports": {"80": {}, "443": {"name": "web-neg"}}}"#;
        let expected = NegRequest {
            is_for_ingress: false,
            exposed_ports: [(80, None), (443, Some("web-neg".into()))].into(),
        };
        assert_eq!(read(json), (Some(expected), vec![]));
        let ingress = NegRequest { is_for_ingress: true, ..NegRequest::default() };
        assert_eq!(read(r#"{"ingress": true}"#), (Some(ingress), vec![]));
        assert_eq!(read(r#"{"ingress": false}"#), (None, vec![]));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_left_out() {
        let (request, faults) = read(r#"{"exposed_ports": {"http": {}, "80": {"name": "Web"}}}"#);
        assert_eq!(request.expect("a port").exposed_ports, [(80, None)].into());
        assert_eq!(
            faults,
            [
                "annotation cloud.google.com/neg: the name for port 80 is not one of at most 63 lower-case letters, \
                 digits and dashes; another one is used",
                "annotation cloud.google.com/neg: \"http\" is no port number; it is left out"
            ]
        );
        let (request, faults) = read("yes");
        assert_eq!((request, faults.len()), (None, 1));
    }
}
