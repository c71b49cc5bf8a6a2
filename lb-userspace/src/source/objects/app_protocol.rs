//! How requests reach the endpoints of a Service's ports.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServicePort as ObjectPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::HttpTransport;

/// On a Service: `{"PORT-NAME-OR-NUMBER": "HTTP2"}`; it goes before `appProtocol`, as in GKE.
const ANNOTATION: &str = "cloud.google.com/app-protocols";

/// What an annotation says, by a port's name or number.
pub(super) type AppProtocols = BTreeMap<String, HttpTransport>;

/// What the annotation says.
pub(super) fn of_annotation(meta: &ObjectMeta, faults: &mut Faults) -> AppProtocols {
    let Some(text) = meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION)) else {
        return AppProtocols::new();
    };
    let Ok(given) = serde_json::from_str::<BTreeMap<String, String>>(text) else {
        faults.add(format!(
            "annotation {ANNOTATION} {text:?} is no JSON object of texts; write for instance {{\"PORT\": \"HTTP2\"}}; \
             it is left out"
        ));
        return AppProtocols::new();
    };
    let mut protocols = AppProtocols::new();
    for (port, name) in given {
        let transport = match name.as_str() {
            "HTTP" => HttpTransport::Http1,
            "HTTPS" => HttpTransport::Https,
            "HTTP2" => HttpTransport::Http2,
            "H2C" => HttpTransport::H2c,
            _ => {
                faults.add(format!(
                    "annotation {ANNOTATION}: port {port:?} has {name:?}, which is not HTTP, HTTPS, HTTP2 or H2C; it is \
                     left out"
                ));
                continue;
            }
        };
        protocols.insert(port, transport);
    }
    protocols
}

/// How requests reach a port's endpoints. `appProtocol` may name any protocol (KEP-1422, KEP-3726): one that no
/// request is spoken in says nothing.
pub(super) fn of_port(object: &ObjectPort, annotated: &AppProtocols) -> HttpTransport {
    let by_name = object.name.as_deref().and_then(|name| annotated.get(name));
    if let Some(transport) = by_name.or_else(|| annotated.get(&object.port.to_string())) {
        return *transport;
    }
    match object.app_protocol.as_deref().unwrap_or_default() {
        "https" | "HTTPS" | "kubernetes.io/wss" => HttpTransport::Https,
        "HTTP2" => HttpTransport::Http2,
        "kubernetes.io/h2c" => HttpTransport::H2c,
        _ => HttpTransport::Http1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    /// How a port `web` (443) with an `appProtocol` is reached, beside an annotation, and the faults in that.
    fn transport(app_protocol: Option<&str>, annotation: Option<&str>) -> (HttpTransport, Vec<String>) {
        let mut faults = Faults::of("Service", &ObjectName::new("shop", "cart"));
        let annotations = annotation.map(|text| [(ANNOTATION.to_owned(), text.to_owned())].into());
        let annotated = of_annotation(&ObjectMeta { annotations, ..ObjectMeta::default() }, &mut faults);
        let port = ObjectPort {
            name: Some("web".to_owned()),
            port: 443,
            app_protocol: app_protocol.map(str::to_owned),
            ..ObjectPort::default()
        };
        let faults = faults.problems.into_iter().map(|problem| problem.message).collect();
        (of_port(&port, &annotated), faults)
    }

    #[test]
    fn app_protocol_says_how_an_endpoint_is_spoken_to() {
        let of = |name| transport(Some(name), None);
        let cases = [
            ("http", HttpTransport::Http1),
            ("HTTP", HttpTransport::Http1),
            ("https", HttpTransport::Https),
            ("HTTPS", HttpTransport::Https),
            ("HTTP2", HttpTransport::Http2),
            ("kubernetes.io/h2c", HttpTransport::H2c),
            ("kubernetes.io/ws", HttpTransport::Http1),
            ("kubernetes.io/wss", HttpTransport::Https),
            ("mysql", HttpTransport::Http1),
        ];
        for (name, expected) in cases {
            assert_eq!(of(name), (expected, vec![]), "{name}");
        }
        assert_eq!(transport(None, None).0, HttpTransport::Http1);
    }

    #[test]
    fn the_annotation_goes_before_it_by_name_then_by_number() {
        let of = |text| transport(Some("https"), Some(text)).0;
        assert_eq!(of(r#"{"web": "HTTP2", "443": "HTTP"}"#), HttpTransport::Http2);
        assert_eq!(of(r#"{"443": "H2C"}"#), HttpTransport::H2c);
        assert_eq!(of(r#"{"other": "HTTP2"}"#), HttpTransport::Https);
    }

    #[test]
    fn an_annotation_that_cannot_be_used_is_named() {
        assert_eq!(
            transport(None, Some("HTTPS")).1,
            [
                "annotation cloud.google.com/app-protocols \"HTTPS\" is no JSON object of texts; write for instance \
              {\"PORT\": \"HTTP2\"}; it is left out"
            ]
        );
        assert_eq!(
            transport(Some("https"), Some(r#"{"web": "SPDY"}"#)),
            (
                HttpTransport::Https,
                vec![
                    "annotation cloud.google.com/app-protocols: port \"web\" has \"SPDY\", which is not HTTP, HTTPS, \
                     HTTP2 or H2C; it is left out"
                        .to_owned()
                ]
            )
        );
    }
}
