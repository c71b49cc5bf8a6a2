//! The health check that a Service's annotations ask for.
use std::collections::BTreeMap;
use std::sync::Arc;

use http::uri::PathAndQuery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::{CheckKind, HealthCheck, HttpTransport};

/// Switches the check on and says what is asked.
const CHECK: &str = "podway.io/health-check";
const PORT: &str = "podway.io/health-check-port";
const PATH: &str = "podway.io/health-check-path";
const HOST: &str = "podway.io/health-check-host";
const EXPECTED_CODES: &str = "podway.io/health-check-expected-codes";
const GRPC_SERVICE: &str = "podway.io/health-check-grpc-service";

/// The codes that pass a kubelet's probe.
const EXPECTED_CODES_DEFAULT: (u16, u16) = (200, 399);
/// Longest path, host or service name, bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Most ranges of codes.
const CODE_RANGES_MAX: usize = 16;

/// An annotation with a number, its bounds and what holds without it.
struct Setting {
    annotation: &'static str,
    min: u32,
    max: u32,
    default: u32,
}

/// The defaults are those of a Kubernetes probe where it has them (`successThreshold` 1,
/// `failureThreshold` 3, `timeoutSeconds` 1), with a shorter interval: a check that is slower than
/// the kubelet's adds nothing to readiness.
const INTERVAL_MS: Setting =
    Setting { annotation: "podway.io/health-check-interval-ms", min: 100, max: 3_600_000, default: 2_000 };
const TIMEOUT_MS: Setting =
    Setting { annotation: "podway.io/health-check-timeout-ms", min: 10, max: 60_000, default: 1_000 };
const HEALTHY_THRESHOLD: Setting =
    Setting { annotation: "podway.io/health-check-healthy-threshold", min: 1, max: 100, default: 1 };
const UNHEALTHY_THRESHOLD: Setting =
    Setting { annotation: "podway.io/health-check-unhealthy-threshold", min: 1, max: 100, default: 3 };

/// The annotations of a Service, and what is wrong with them.
struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    faults: &'a mut Faults,
}

/// The check, or `None` where readiness alone decides. A bad value gives a fault and the default.
pub(super) fn of_annotations(meta: &ObjectMeta, faults: &mut Faults) -> Option<HealthCheck> {
    let annotations = meta.annotations.as_ref()?;
    let word = annotations.get(CHECK)?;
    let mut reader = Reader { annotations, faults };
    let kind = reader.kind(word)?;
    Some(HealthCheck {
        kind,
        port: reader.port(),
        interval_ms: reader.number(&INTERVAL_MS),
        timeout_ms: reader.number(&TIMEOUT_MS),
        healthy_threshold: reader.number(&HEALTHY_THRESHOLD),
        unhealthy_threshold: reader.number(&UNHEALTHY_THRESHOLD),
    })
}

impl Reader<'_> {
    fn kind(&mut self, word: &str) -> Option<CheckKind> {
        let transport = match word {
            "tcp" => return Some(CheckKind::Tcp),
            "grpc" | "grpcs" => {
                let service = self.text(GRPC_SERVICE, "a name", str::is_ascii);
                let service = service.unwrap_or_default();
                return Some(CheckKind::Grpc { is_tls: word == "grpcs", service });
            }
            "http" => HttpTransport::Http1,
            "https" => HttpTransport::Https,
            "http2" => HttpTransport::Http2,
            "h2c" => HttpTransport::H2c,
            other => {
                self.faults.add(format!(
                    "annotation {CHECK} {other:?} is unknown; use tcp, http, https, http2, h2c, grpc or grpcs; \
                     readiness alone decides"
                ));
                return None;
            }
        };
        let is_path = |text: &str| text.starts_with('/') && text.parse::<PathAndQuery>().is_ok();
        let is_host = |text: &str| text.parse::<http::uri::Authority>().is_ok();
        Some(CheckKind::Http {
            transport,
            path: self.text(PATH, "a path that begins with a slash", is_path).unwrap_or_else(|| "/".into()),
            host: self.text(HOST, "a host", is_host),
            expected_codes: self.expected_codes(),
        })
    }

    /// A text; one that cannot be used gives a fault and `None`.
    fn text(&mut self, annotation: &str, what: &str, is_good: impl Fn(&str) -> bool) -> Option<Arc<str>> {
        let text = self.annotations.get(annotation)?;
        if text.len() <= TEXT_BYTES_MAX && is_good(text) {
            return Some(text.as_str().into());
        }
        self.faults.add(format!(
            "annotation {annotation} {text:?} is not {what} of up to {TEXT_BYTES_MAX} bytes; it is left out"
        ));
        None
    }

    fn port(&mut self) -> Option<u16> {
        let text = self.annotations.get(PORT)?;
        let port = text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.faults
                .add(format!("annotation {PORT} {text:?} is not a port; the endpoint's own is probed"));
        }
        port
    }

    fn expected_codes(&mut self) -> Arc<[(u16, u16)]> {
        let Some(text) = self.annotations.get(EXPECTED_CODES) else {
            return Arc::new([EXPECTED_CODES_DEFAULT]);
        };
        let ranges: Option<Vec<(u16, u16)>> = text.split(',').map(range).collect();
        if let Some(ranges) = ranges.filter(|ranges| ranges.len() <= CODE_RANGES_MAX) {
            return ranges.into();
        }
        self.faults.add(format!(
            "annotation {EXPECTED_CODES} {text:?} are not codes; write for instance 200-299,401; 200-399 are used"
        ));
        Arc::new([EXPECTED_CODES_DEFAULT])
    }

    fn number(&mut self, setting: &Setting) -> u32 {
        let Some(text) = self.annotations.get(setting.annotation) else { return setting.default };
        match text.parse::<u32>() {
            Ok(value) if (setting.min..=setting.max).contains(&value) => value,
            _ => {
                let Setting { annotation, min, max, default } = setting;
                self.faults.add(format!(
                    "annotation {annotation} {text:?} is not a number between {min} and {max}; {default} is used"
                ));
                setting.default
            }
        }
    }
}

/// `200` or `200-299`.
fn range(text: &str) -> Option<(u16, u16)> {
    let code = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (code(first)?, code(last)?),
        None => (code(text)?, code(text)?),
    };
    (first <= last).then_some((first, last))
}
