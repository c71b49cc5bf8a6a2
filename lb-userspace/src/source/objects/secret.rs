//! A `Secret` as the certificate or the authorities that it holds. Whether that can be used is found where it is parsed: the front-end keeps
//! the last good one.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::{Converted, Faults, name_of, uid_of};
use crate::model::{Change, TlsSecret};
use crate::source::Interner;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";

/// The fact that a `Secret` stands for: none unless it has a certificate, a key or authorities.
#[must_use]
pub fn secret(object: &Secret, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let faults = Faults::of("Secret", &name);
    let bytes = |key: &str| -> Option<Arc<[u8]>> {
        let data = object.data.as_ref().and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]);
        let plain = object.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
        // `stringData` goes before `data` (Kubernetes API reference, Secret v1).
        plain.or(data).map(Arc::from)
    };
    let (certificate, key, authority) = (bytes(CERTIFICATE), bytes(KEY), bytes(AUTHORITY));
    if certificate.is_none() && key.is_none() && authority.is_none() {
        return faults.with(Change::SecretGone(name));
    }
    let resource_version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
    faults.with(Change::Secret(TlsSecret {
        name,
        resource_version,
        uid: uid_of(&object.metadata),
        certificate_pem: certificate.unwrap_or_default(),
        key_pem: key.unwrap_or_default(),
        authority_pem: authority.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;
    use crate::model::ObjectName;

    fn with(data: &[(&str, &[u8])], plain: &[(&str, &str)]) -> Converted {
        let mut object = Secret::default();
        object.metadata.namespace = Some("shop".into());
        object.metadata.name = Some("tls".into());
        object.data =
            Some(data.iter().map(|(key, value)| ((*key).into(), ByteString(value.to_vec()))).collect());
        let plain: BTreeMap<_, _> =
            plain.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        object.string_data = Some(plain);
        secret(&object, &mut Interner::default())
    }

    #[test]
    fn a_secret_is_its_certificate_and_key() {
        let Change::Secret(secret) = with(&[("tls.crt", b"C"), ("tls.key", b"K")], &[]).change else {
            panic!()
        };
        assert_eq!((&*secret.certificate_pem, &*secret.key_pem), (&b"C"[..], &b"K"[..]));
        assert!(!format!("{secret:?}").contains("75"), "a key is never shown");
    }

    #[test]
    fn plain_text_goes_before_data() {
        let Change::Secret(secret) =
            with(&[("tls.crt", b"C"), ("tls.key", b"K")], &[("tls.key", "P")]).change
        else {
            panic!()
        };
        assert_eq!(&*secret.key_pem, b"P");
    }

    #[test]
    fn a_secret_may_hold_authorities_alone() {
        let Change::Secret(secret) = with(&[("ca.crt", b"A")], &[]).change else { panic!() };
        assert_eq!((&*secret.authority_pem, &*secret.certificate_pem), (&b"A"[..], &b""[..]));
    }

    #[test]
    fn other_secrets_are_none_of_ours() {
        let gone = Change::SecretGone(ObjectName::new("shop", "tls"));
        assert_eq!(with(&[("password", b"x")], &[]).change, gone);
    }
}
