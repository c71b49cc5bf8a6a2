//! GKE's annotations for NEGs on a Service.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::Faults;
use crate::model::{NegRequest, NegStatus, NegType};

/// Which ports of a Service have NEGs: `{"ingress": true}`, `{"exposed_ports": {"80": {"name": "web"}}}`.
const NEG: &str = "cloud.google.com/neg";

/// On a Service: what Ingresses send its requests to, `GCE_POD` or `GCE_VM_IP_PORT`, whatever [`NEG`] says.
const NEG_TYPE: &str = "podway.io/neg-type";

/// Which NEGs these are.
pub const NEG_STATUS: &str = "cloud.google.com/neg-status";

/// Beside a status that an agent wrote.
pub const NEG_STATUS_WRITER: &str = "podway.io/neg-status";

/// Longest name of a NEG.
const NAME_BYTES_MAX: usize = 63;

#[derive(Deserialize)]
struct Asked {
    ingress: Option<bool>,
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
    let is_for_ingress = asked.ingress == Some(true);
    let is_none = !is_for_ingress && exposed_ports.is_empty();
    (!is_none).then_some(NegRequest { is_for_ingress, exposed_ports })
}

/// What a Service says of what Ingresses send its requests to. `{"ingress": false}` means the nodes, as in GKE ("Container-native
/// load balancing": without it an Ingress uses node ports). `{"ingress": true}` says no more than the default: GKE writes it by
/// itself. What is wrong with [`NEG`] is named by [`request`].
pub(super) fn neg_type(meta: &ObjectMeta, faults: &mut Faults) -> Option<NegType> {
    let asked = text(meta, NEG).and_then(|json| serde_json::from_str::<Asked>(json).ok());
    let of_gke = asked.filter(|asked| asked.ingress == Some(false)).map(|_| NegType::NodePort);
    match text(meta, NEG_TYPE) {
        None => of_gke,
        Some("GCE_POD") => Some(NegType::Pod),
        Some("GCE_VM_IP_PORT") => Some(NegType::NodePort),
        Some(other) => {
            faults.add(format!(
                "annotation {NEG_TYPE} {other:?} is unknown; use \"GCE_POD\" or \"GCE_VM_IP_PORT\"; it is left out"
            ));
            of_gke
        }
    }
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
    fn the_nodes_are_meant_by_the_type_or_by_an_ingress_without_pods() {
        let cases = [
            (None, None, None),
            (None, Some(r#"{"ingress": true}"#), None),
            (None, Some(r#"{"exposed_ports": {"80": {}}}"#), None),
            (None, Some(r#"{"ingress": false}"#), Some(NegType::NodePort)),
            (None, Some(r#"{"ingress": false, "exposed_ports": {"80": {}}}"#), Some(NegType::NodePort)),
            (Some("GCE_POD"), Some(r#"{"ingress": false}"#), Some(NegType::Pod)),
            (Some("GCE_VM_IP_PORT"), Some(r#"{"ingress": true}"#), Some(NegType::NodePort)),
            (Some("GCE_VM_IP"), None, None),
        ];
        for (own, gke, expected) in cases {
            let given = [(NEG_TYPE, own), (NEG, gke)].into_iter();
            let given = given.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
            let meta = ObjectMeta { annotations: Some(given.collect()), ..ObjectMeta::default() };
            let mut faults = Faults::of("Service", &ObjectName::new("shop", "cart"));
            assert_eq!(neg_type(&meta, &mut faults), expected, "{own:?} {gke:?}");
            let is_unknown = own == Some("GCE_VM_IP");
            assert_eq!(faults.problems.len(), usize::from(is_unknown), "{:?}", faults.problems);
        }
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
