//! Annotations about the PROXY protocol: of an Ingress for its clients, of a Service for its endpoints.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Faults, annotations};
use crate::model::{ProxyVersion, ProxyVersions};

/// On an Ingress: `v1`, `v2` or `any`; on a Service: `v1` or `v2`.
pub(super) const PROXY_PROTOCOL: &str = "podway.io/proxy-protocol";

/// The versions that connections to an Ingress's VIPs begin with.
pub(super) fn of_clients(meta: &ObjectMeta, faults: &mut Faults) -> Option<ProxyVersions> {
    let text = annotations::text(meta, PROXY_PROTOCOL)?.trim();
    let versions = ProxyVersions::named(text);
    if versions.is_none() {
        faults.add(format!(
            "annotation {PROXY_PROTOCOL} {text:?} is unknown; use \"v1\", \"v2\" or \"any\"; none is spoken"
        ));
    }
    versions
}

/// The version that connections to a Service's endpoints begin with.
pub(super) fn to_endpoints(meta: &ObjectMeta, faults: &mut Faults) -> Option<ProxyVersion> {
    let text = annotations::text(meta, PROXY_PROTOCOL)?.trim();
    let version = ProxyVersion::named(text);
    if version.is_none() {
        faults.add(format!(
            "annotation {PROXY_PROTOCOL} {text:?} is unknown; use \"v1\" or \"v2\"; none is spoken"
        ));
    }
    version
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn read<T>(value: &str, reader: fn(&ObjectMeta, &mut Faults) -> T) -> (T, Vec<String>) {
        let annotations = [(PROXY_PROTOCOL.to_owned(), value.to_owned())].into();
        let meta = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let mut faults = Faults::of("Ingress", &ObjectName::new("shop", "web"));
        let read = reader(&meta, &mut faults);
        (read, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn clients_may_speak_either_version_and_endpoints_hear_one() {
        assert_eq!(read("v1", of_clients), (Some(ProxyVersions::One(ProxyVersion::V1)), vec![]));
        assert_eq!(read("any", of_clients), (Some(ProxyVersions::Any), vec![]));
        assert_eq!(read("v2", to_endpoints), (Some(ProxyVersion::V2), vec![]));
        assert_eq!(
            read("on", of_clients).1,
            [
                "annotation podway.io/proxy-protocol \"on\" is unknown; use \"v1\", \"v2\" or \"any\"; none is spoken"
            ]
        );
        assert_eq!(
            read("any", to_endpoints).1,
            ["annotation podway.io/proxy-protocol \"any\" is unknown; use \"v1\" or \"v2\"; none is spoken"]
        );
    }
}
