//! A client's certificate as fields carry it: made once for all requests of a connection.
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderValue;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Bytes of a client's certificate; one that is longer is refused, since it would not fit in a head.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// A client's certificate, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientCertificate {
    /// The whole of it, as the field `Client-Cert` has it (RFC 9440 §2.2).
    pub(super) field: HeaderValue,
    /// SHA-256 of it: base64 without padding, as Google's variable.
    pub(super) fingerprint: String,
    /// In hexadecimal digits.
    pub(super) serial: String,
    /// The distinguished name in base64 of its DER, as Google's variable.
    pub(super) subject: String,
    /// Likewise.
    pub(super) issuer: String,
}

impl ClientCertificate {
    /// `None`: it is longer than [`CERTIFICATE_BYTES_MAX`], or not one after all.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return None;
        }
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            field: HeaderValue::try_from(format!(":{}:", STANDARD.encode(der))).ok()?,
            fingerprint: STANDARD_NO_PAD.encode(digest(&SHA256, der)),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            subject: STANDARD.encode(parsed.subject().as_raw()),
            issuer: STANDARD.encode(parsed.issuer().as_raw()),
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

    use super::*;

    fn certificate(common_name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(vec![0x0a, 0x0b]));
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    #[test]
    fn a_certificate_is_told_in_googles_form() {
        let der = certificate("a");
        let told = ClientCertificate::of(&der).expect("a certificate");
        assert_eq!(told.serial, "0a0b");
        // SEQUENCE { SET { SEQUENCE { 2.5.4.3, UTF8String "a" } } }
        let name = [0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, b'a'];
        assert_eq!(STANDARD.decode(&told.subject).expect("base64"), name);
        assert_eq!(told.issuer, told.subject);
        assert_eq!(told.fingerprint.len(), 43);
        let field = told.field.to_str().expect("text").trim_matches(':').to_owned();
        assert_eq!(STANDARD.decode(field).expect("base64"), &der[..]);
    }

    #[test]
    fn a_certificate_that_fits_in_no_head_is_none() {
        let der = certificate(&"a".repeat(CERTIFICATE_BYTES_MAX));
        assert_eq!(ClientCertificate::of(&der), None);
        assert_eq!(ClientCertificate::of(&CertificateDer::from(vec![0])), None);
    }
}
