//! What a `BackendConfig` says of requests. Fields, bounds and defaults are those of GKE ("Ingress configuration":
//! `timeoutSec`, `customRequestHeaders`, `customResponseHeaders`, `sessionAffinity`, `logging`).
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::Faults;
use super::fields::{Reader, Setting};
use crate::model::{HeaderField, HttpPolicy, RequestAffinity, RequestLogging};

const TIMEOUT_S: Setting = Setting { field: "timeoutSec", min: 1, max: 2_147_483_647, default: 0 };
/// Two weeks; zero is the client's session.
const COOKIE_TTL_S: Setting = Setting { field: "affinityCookieTtlSec", min: 0, max: 1_209_600, default: 0 };

/// Most headers that are added to a request or an answer; the others are left out.
const HEADERS_MAX: usize = 16;
/// Longest value of one, bytes.
const HEADER_BYTES_MAX: usize = 4_096;

/// Names that frame a message or belong to one connection (RFC 9110 §7.6.1; RFC 9112 §6): setting one of them would
/// let an endpoint see another request than the one that was routed.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const MILLION: f64 = 1e6;

/// Reads one field of `spec` into the policy; `false` where it is none of it.
pub(super) fn read(policy: &mut HttpPolicy, field: &str, value: &Value, faults: &mut Faults) -> bool {
    match field {
        "timeoutSec" => policy.timeout_s = timeout_s(value, faults),
        "customRequestHeaders" => {
            policy.request_headers = headers("spec.customRequestHeaders", value, faults);
        }
        "customResponseHeaders" => {
            policy.response_headers = headers("spec.customResponseHeaders", value, faults);
        }
        "sessionAffinity" => policy.affinity = affinity(value, faults),
        "logging" => policy.logging = logging(value, faults),
        _ => return false,
    }
    true
}

fn timeout_s(value: &Value, faults: &mut Faults) -> Option<u32> {
    let spec = serde_json::json!({ TIMEOUT_S.field: value });
    Reader::of("spec", &spec, faults)?.number(&TIMEOUT_S)
}

/// `headers: ["NAME:VALUE", …]`; each bad one is left out alone.
fn headers(name: &'static str, value: &Value, faults: &mut Faults) -> Vec<HeaderField> {
    let Some(mut reader) = Reader::of(name, value, faults) else { return Vec::new() };
    let mut fields = Vec::new();
    match reader.take("headers") {
        None => {}
        Some(Value::Array(texts)) => {
            for text in &texts {
                match header(text) {
                    Ok(_) if fields.len() == HEADERS_MAX => {
                        reader.fault(
                            "headers",
                            &format!("{text}: there are more than {HEADERS_MAX}; it is left out"),
                        );
                    }
                    Ok(field) => fields.push(field),
                    Err(reason) => reader.fault("headers", &format!("{text} {reason}; it is left out")),
                }
            }
        }
        Some(other) => reader.fault("headers", &format!("{other} is not a list; it is left out")),
    }
    reader.name_unknown();
    fields
}

fn header(text: &Value) -> Result<HeaderField, String> {
    let parts = text.as_str().and_then(|text| text.split_once(':'));
    let (name, value) = parts.ok_or("is not NAME:VALUE")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| "has a name that no header has")?;
    if RESERVED.contains(&name.as_str()) {
        return Err("is of the message or the connection itself".to_owned());
    }
    let value = value.trim();
    if value.len() > HEADER_BYTES_MAX || HeaderValue::from_str(value).is_err() {
        return Err(format!("has a value of more than {HEADER_BYTES_MAX} bytes, or one that no header has"));
    }
    Ok(HeaderField { name: name.as_str().into(), value: value.into() })
}

fn affinity(value: &Value, faults: &mut Faults) -> RequestAffinity {
    let Some(mut reader) = Reader::of("spec.sessionAffinity", value, faults) else {
        return RequestAffinity::None;
    };
    let kind = reader.take("affinityType");
    let ttl_s = reader.number_or_default(&COOKIE_TTL_S);
    let affinity = match kind.as_ref().map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("NONE" | "") => RequestAffinity::None,
        Some("CLIENT_IP") => RequestAffinity::ClientIp,
        Some("GENERATED_COOKIE") => RequestAffinity::GeneratedCookie { ttl_s },
        Some(other) => {
            let what = format!("{other:?} is not NONE, CLIENT_IP or GENERATED_COOKIE; NONE is used");
            reader.fault("affinityType", &what);
            RequestAffinity::None
        }
    };
    reader.name_unknown();
    affinity
}

/// Without `sampleRate` every request is logged.
fn logging(value: &Value, faults: &mut Faults) -> Option<RequestLogging> {
    let mut reader = Reader::of("spec.logging", value, faults)?;
    let is_enabled = reader.boolean("enable").unwrap_or(true);
    let rate = match reader.take("sampleRate") {
        None => 1.0,
        Some(value) => {
            let rate = value.as_f64().filter(|rate| (0.0..=1.0).contains(rate));
            rate.unwrap_or_else(|| {
                reader.fault("sampleRate", &format!("{value} is not between 0 and 1; 1 is used"));
                1.0
            })
        }
    };
    reader.name_unknown();
    Some(RequestLogging { per_million: if is_enabled { (rate * MILLION).round() as u32 } else { 0 } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    /// The policy of a `spec`, and the faults in it.
    fn policy(spec: &str) -> (HttpPolicy, Vec<String>) {
        let spec: Value = serde_yaml_ng::from_str(spec).expect("test YAML");
        let mut faults = Faults::of("BackendConfig", &ObjectName::new("shop", "web"));
        let mut policy = HttpPolicy::default();
        for (field, value) in spec.as_object().expect("fields") {
            assert!(read(&mut policy, field, value, &mut faults), "{field}");
        }
        (policy, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    fn field(name: &str, value: &str) -> HeaderField {
        HeaderField { name: name.into(), value: value.into() }
    }

    #[test]
    fn everything_that_is_said_of_requests_is_read() {
        let expected = HttpPolicy {
            timeout_s: Some(40),
            request_headers: vec![field("x-region", "{client_region}:a"), field("x-empty", "")],
            response_headers: vec![field("strict-transport-security", "max-age=60")],
            affinity: RequestAffinity::GeneratedCookie { ttl_s: 50 },
            logging: Some(RequestLogging { per_million: 250_000 }),
        };
        let spec = "
            timeoutSec: 40
            customRequestHeaders: {headers: ['X-Region: {client_region}:a', 'X-Empty:']}
            customResponseHeaders: {headers: ['Strict-Transport-Security:max-age=60']}
            sessionAffinity: {affinityType: GENERATED_COOKIE, affinityCookieTtlSec: 50}
            logging: {enable: true, sampleRate: 0.25}
        ";
        assert_eq!(policy(spec), (expected, vec![]));
    }

    #[test]
    fn affinity_is_none_by_address_or_by_cookie() {
        let of = |text: &str| policy(&format!("sessionAffinity: {text}")).0.affinity;
        assert_eq!(of("{}"), RequestAffinity::None);
        assert_eq!(of("{affinityType: NONE}"), RequestAffinity::None);
        assert_eq!(of("{affinityType: CLIENT_IP}"), RequestAffinity::ClientIp);
        assert_eq!(of("{affinityType: GENERATED_COOKIE}"), RequestAffinity::GeneratedCookie { ttl_s: 0 });
    }

    #[test]
    fn logging_that_is_on_without_a_rate_is_of_every_request() {
        let of =
            |text: &str| policy(&format!("logging: {text}")).0.logging.map(|logging| logging.per_million);
        assert_eq!(of("{enable: true}"), Some(1_000_000));
        assert_eq!(of("{sampleRate: 0.5}"), Some(500_000));
        assert_eq!(of("{enable: false, sampleRate: 1}"), Some(0));
        assert_eq!(of("null"), None);
    }

    #[test]
    fn each_value_that_cannot_be_used_is_named_and_the_rest_holds() {
        let spec = "
            timeoutSec: 0
            customRequestHeaders: {headers: ['X-Good: 1', 'no colon', 'bad name: 1', 'Host: other', 7]}
            customResponseHeaders: {headers: none, other: 1}
            sessionAffinity: {affinityType: HEADER, affinityCookieTtlSec: 1209601}
            logging: {enable: 1, sampleRate: 1.5}
        ";
        let (policy, faults) = policy(spec);
        assert_eq!(policy.request_headers, [field("x-good", "1")]);
        assert_eq!((policy.timeout_s, policy.affinity), (None, RequestAffinity::None));
        assert_eq!(policy.logging, Some(RequestLogging { per_million: 1_000_000 }));
        assert_eq!(
            faults,
            [
                "spec.customRequestHeaders.headers \"no colon\" is not NAME:VALUE; it is left out",
                "spec.customRequestHeaders.headers \"bad name: 1\" has a name that no header has; it is left out",
                "spec.customRequestHeaders.headers \"Host: other\" is of the message or the connection itself; it is \
                 left out",
                "spec.customRequestHeaders.headers 7 is not NAME:VALUE; it is left out",
                "spec.customResponseHeaders.headers \"none\" is not a list; it is left out",
                "spec.customResponseHeaders.other is unknown; the rest holds",
                "spec.logging.enable 1 is neither true nor false; it is left out",
                "spec.logging.sampleRate 1.5 is not between 0 and 1; 1 is used",
                "spec.sessionAffinity.affinityCookieTtlSec 1209601 is not a whole number between 0 and 1209600; it is \
                 left out",
                "spec.sessionAffinity.affinityType \"HEADER\" is not NONE, CLIENT_IP or GENERATED_COOKIE; NONE is used",
                "spec.timeoutSec 0 is not a whole number between 1 and 2147483647; it is left out",
            ]
        );
    }

    #[test]
    fn headers_past_the_bound_are_left_out() {
        let all: Vec<String> = (0..17).map(|index| format!("'x-{index}: 1'")).collect();
        let (policy, faults) = policy(&format!("customRequestHeaders: {{headers: [{}]}}", all.join(", ")));
        assert_eq!(policy.request_headers.len(), 16);
        assert_eq!(
            faults,
            ["spec.customRequestHeaders.headers \"x-16: 1\": there are more than 16; it is left out"]
        );
    }
}
