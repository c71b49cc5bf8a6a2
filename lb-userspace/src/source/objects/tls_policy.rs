//! What annotations of an Ingress or a FrontendConfig ask of TLS.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Faults, annotations};
use crate::model::{ClientVerification, ClientVerify, ObjectName, TlsVersion};
use crate::source::Interner;

/// On an Ingress or a FrontendConfig: `1.2` or `1.3`.
pub(super) const MIN_TLS_VERSION: &str = "podway.io/min-tls-version";
/// On an Ingress: the Secret whose `ca.crt` signs the certificates of its clients.
pub(super) const CLIENT_CA: &str = "podway.io/client-ca";
/// On an Ingress: `require` or `optional`.
pub(super) const CLIENT_VERIFY: &str = "podway.io/client-verify";

/// The least version of TLS that is asked for.
pub(super) fn min_tls_version(meta: &ObjectMeta, faults: &mut Faults) -> Option<TlsVersion> {
    let text = annotations::text(meta, MIN_TLS_VERSION)?.trim();
    let version = TlsVersion::named(text);
    if version.is_none() {
        faults.add(format!(
            "annotation {MIN_TLS_VERSION} {text:?} is neither \"1.2\" nor \"1.3\"; 1.2 is the least without it"
        ));
    }
    version
}

/// Who signs clients' certificates. A word that is not known must not let in who has none.
pub(super) fn client_verification(
    ingress: &ObjectName,
    meta: &ObjectMeta,
    interner: &mut Interner,
    faults: &mut Faults,
) -> Option<ClientVerification> {
    let text = |name| annotations::text(meta, name).map(str::trim);
    let Some(secret) = text(CLIENT_CA).filter(|secret| !secret.is_empty()) else {
        if text(CLIENT_CA).is_some() || text(CLIENT_VERIFY).is_some() {
            faults.add(format!(
                "annotation {CLIENT_CA} names no Secret; name one with ca.crt; clients are not verified"
            ));
        }
        return None;
    };
    let verify = match text(CLIENT_VERIFY) {
        None | Some("require") => ClientVerify::Require,
        Some("optional") => ClientVerify::Optional,
        Some(other) => {
            faults.add(format!(
                "annotation {CLIENT_VERIFY} {other:?} is unknown; use \"require\" or \"optional\"; require is used"
            ));
            ClientVerify::Require
        }
    };
    let (namespace, name) = (ingress.namespace.clone(), interner.shared(secret));
    Some(ClientVerification { secret: ObjectName { namespace, name }, verify })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() }
    }

    fn faults() -> Faults {
        Faults::of("Ingress", &ObjectName::new("shop", "web"))
    }

    fn messages(faults: Faults) -> Vec<String> {
        faults.problems.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn the_least_version_is_one_that_is_served() {
        let of = |text| {
            let mut faults = faults();
            let version = min_tls_version(&meta(&[(MIN_TLS_VERSION, text)]), &mut faults);
            (version, messages(faults))
        };
        assert_eq!(of("1.2"), (Some(TlsVersion::V1_2), vec![]));
        assert_eq!(of(" 1.3 "), (Some(TlsVersion::V1_3), vec![]));
        let fault = "annotation podway.io/min-tls-version \"1.1\" is neither \"1.2\" nor \"1.3\"; 1.2 is the least \
                     without it";
        assert_eq!(of("1.1"), (None, vec![fault.to_owned()]));
    }

    #[test]
    fn clients_are_verified_by_the_authority_that_is_named() {
        let of = |annotations: &[_]| {
            let mut faults = faults();
            let ingress = ObjectName::new("shop", "web");
            let read =
                client_verification(&ingress, &meta(annotations), &mut Interner::default(), &mut faults);
            (read.map(|read| (read.secret.to_string(), read.verify)), messages(faults))
        };
        let clients = |verify| Some(("shop/clients".to_owned(), verify));
        assert_eq!(of(&[]), (None, vec![]));
        assert_eq!(of(&[(CLIENT_CA, "clients")]), (clients(ClientVerify::Require), vec![]));
        let optional = [(CLIENT_CA, "clients"), (CLIENT_VERIFY, "optional")];
        assert_eq!(of(&optional), (clients(ClientVerify::Optional), vec![]));
        let (read, faults) = of(&[(CLIENT_CA, "clients"), (CLIENT_VERIFY, "on")]);
        assert_eq!(read, clients(ClientVerify::Require));
        assert_eq!(
            faults,
            [
                "annotation podway.io/client-verify \"on\" is unknown; use \"require\" or \"optional\"; require is used"
            ]
        );
        let none =
            "annotation podway.io/client-ca names no Secret; name one with ca.crt; clients are not verified";
        assert_eq!(of(&[(CLIENT_VERIFY, "require")]), (None, vec![none.to_owned()]));
        assert_eq!(of(&[(CLIENT_CA, "")]), (None, vec![none.to_owned()]));
    }
}
