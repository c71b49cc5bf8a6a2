//! Fields that a backend service adds to its requests and answers, with Google's variables ("Create custom headers",
//! Cloud Load Balancing).
use std::net::SocketAddr;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Version};

use super::client::{Client, TlsFacts};
use super::client_certificate::ClientCertificate;

/// A variable that the front-end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    ClientAddress,
    ClientPort,
    LocalAddress,
    LocalPort,
    IsEncrypted,
    Protocol,
    ServerName,
    TlsVersion,
    Cipher,
    HasCertificate,
    CertificateError,
    CertificateFingerprint,
    CertificateSerial,
    CertificateSubject,
    CertificateIssuer,
    Certificate,
}

const KNOWN: [(&str, Variable); 17] = [
    ("client_ip_address", Variable::ClientAddress),
    ("client_port", Variable::ClientPort),
    ("server_ip_address", Variable::LocalAddress),
    ("server_port", Variable::LocalPort),
    ("client_encrypted", Variable::IsEncrypted),
    ("client_protocol", Variable::Protocol),
    ("tls_sni_hostname", Variable::ServerName),
    ("tls_version", Variable::TlsVersion),
    ("tls_cipher_suite", Variable::Cipher),
    ("client_cert_present", Variable::HasCertificate),
    // One that does not hold is refused.
    ("client_cert_chain_verified", Variable::HasCertificate),
    ("client_cert_error", Variable::CertificateError),
    ("client_cert_sha256_fingerprint", Variable::CertificateFingerprint),
    ("client_cert_serial_number", Variable::CertificateSerial),
    ("client_cert_subject_dn", Variable::CertificateSubject),
    ("client_cert_issuer_dn", Variable::CertificateIssuer),
    ("client_cert_leaf", Variable::Certificate),
];

/// Variables that Google fills and that stay empty here: where the client is, what its device is, what a CDN did, and
/// some of a client's certificate, which `Client-Cert` has as a whole.
const UNKNOWABLE: [&str; 19] = [
    "client_region",
    "client_region_subdivision",
    "client_city",
    "client_city_lat_long",
    "client_rtt_msec",
    "device_request_type",
    "user_agent_family",
    "origin_request_header",
    "cdn_cache_id",
    "cdn_cache_status",
    "tls_ja3_fingerprint",
    "tls_ja4_fingerprint",
    "client_cert_chain",
    "client_cert_dnsname_sans",
    "client_cert_spiffe_id",
    "client_cert_uri_sans",
    "client_cert_valid_not_after",
    "client_cert_valid_not_before",
    "server_region",
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// A field with its value's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomHeader {
    name: HeaderName,
    parts: Vec<Part>,
    /// Variables that are left empty.
    pub left_empty: Vec<&'static str>,
}

/// Why a custom header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomHeaderFault {
    /// No colon, or no name of a field before it.
    #[error("cannot read the custom header {0:?}: it is not of the form name:value")]
    Form(String),
    /// A field that frames the message or is the front-end's own.
    #[error("cannot set the header {0}: it is not a custom one; choose another name")]
    Reserved(HeaderName),
    /// A variable that does not exist.
    #[error("cannot read the custom header {header:?}: there is no variable {{{variable}}}")]
    Variable {
        /// The whole text.
        header: String,
        /// The variable's name.
        variable: String,
    },
    /// A character that no field may have.
    #[error("cannot read the custom header {0:?}: its value has a character that a field cannot have")]
    Value(String),
}

impl CustomHeader {
    /// Reads `name:value`, in whose value `{variable}` stands for what is known of a request.
    ///
    /// # Errors
    ///
    /// A field that cannot be, or may not be set: leave it out and name the object that has it.
    pub fn parse(text: &str) -> Result<Self, CustomHeaderFault> {
        let form = || CustomHeaderFault::Form(text.to_owned());
        let (name, value) = text.split_once(':').ok_or_else(form)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| form())?;
        let reserved = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "te",
            "trailer",
            "keep-alive",
        ];
        if reserved.contains(&name.as_str()) {
            return Err(CustomHeaderFault::Reserved(name));
        }
        HeaderValue::try_from(value.trim()).map_err(|_| CustomHeaderFault::Value(text.to_owned()))?;
        let mut header = Self { name, parts: Vec::new(), left_empty: Vec::new() };
        let mut rest = value.trim();
        while let Some((before, after)) = rest.split_once('{') {
            let (variable, after) = after.split_once('}').ok_or_else(form)?;
            header.push(before);
            if let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == variable) {
                header.parts.push(Part::Variable(*known));
            } else if let Some(unknowable) = UNKNOWABLE.iter().find(|name| **name == variable) {
                header.left_empty.push(unknowable);
            } else {
                let variable = variable.to_owned();
                return Err(CustomHeaderFault::Variable { header: text.to_owned(), variable });
            }
            rest = after;
        }
        header.push(rest);
        Ok(header)
    }

    pub(super) const fn name(&self) -> &HeaderName {
        &self.name
    }

    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            self.parts.push(Part::Text(text.to_owned()));
        }
    }

    /// Sets the field, in place of any that has its name.
    pub(super) fn set(&self, headers: &mut HeaderMap, client: &Client, version: Version) {
        let mut value = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Variable(variable) => value.push_str(&expand(*variable, client, version)),
            }
        }
        // A server name is the only part that a client chooses, and rustls lets only host names through.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(&self.name, value);
        }
    }
}

fn expand(variable: Variable, client: &Client, version: Version) -> String {
    let address = |place: SocketAddr| place.ip().to_string();
    let tls = client.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    let of_certificate =
        |part: fn(&ClientCertificate) -> &str| certificate.map_or_else(String::new, |it| part(it).to_owned());
    match variable {
        Variable::ClientAddress => address(client.peer),
        Variable::ClientPort => client.peer.port().to_string(),
        Variable::LocalAddress => address(client.local),
        Variable::LocalPort => client.local.port().to_string(),
        Variable::IsEncrypted => tls.is_some().to_string(),
        Variable::Protocol => if version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        Variable::ServerName => tls.and_then(|tls| tls.server_name.clone()).unwrap_or_default(),
        Variable::TlsVersion => tls.map_or("", TlsFacts::version).to_owned(),
        Variable::Cipher => tls.map_or("", |tls| tls.cipher).to_owned(),
        Variable::HasCertificate => certificate.is_some().to_string(),
        Variable::CertificateError => String::new(),
        Variable::CertificateFingerprint => of_certificate(|it| &it.fingerprint),
        Variable::CertificateSerial => of_certificate(|it| &it.serial),
        Variable::CertificateSubject => of_certificate(|it| &it.subject),
        Variable::CertificateIssuer => of_certificate(|it| &it.issuer),
        // Base64 is text.
        Variable::Certificate => of_certificate(|it| it.field.to_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(tls: Option<TlsFacts>) -> Client {
        let address = |text: &str| text.parse().expect("an address");
        Client::new(address("192.0.2.9:40000"), address("203.0.113.1:443"), tls, false)
    }

    fn value(text: &str, client: &Client) -> String {
        let mut headers = HeaderMap::new();
        let header = CustomHeader::parse(text).expect("a header");
        header.set(&mut headers, client, Version::HTTP_2);
        headers["x-a"].to_str().expect("text").to_owned()
    }

    #[test]
    fn known_variables_are_filled() {
        let tls = TlsFacts {
            server_name: Some("shop.example".to_owned()),
            version_number: crate::model::TlsVersion::V1_3,
            cipher: "TLS13_AES_256_GCM_SHA384",
            ..TlsFacts::default()
        };
        let client = client(Some(tls));
        let text = "X-A: {client_ip_address}:{client_port} to {server_ip_address}:{server_port}";
        assert_eq!(value(text, &client), "192.0.2.9:40000 to 203.0.113.1:443");
        let text =
            "X-A:{client_encrypted} {client_protocol} {tls_sni_hostname} {tls_version} {tls_cipher_suite}";
        assert_eq!(value(text, &client), "true HTTP/2 shop.example TLSv1.3 TLS13_AES_256_GCM_SHA384");
    }

    #[test]
    fn unknowable_variables_are_left_empty_and_told() {
        let header = CustomHeader::parse("X-A:region={client_region}.").expect("a header");
        assert_eq!(header.left_empty, ["client_region"]);
        assert_eq!(value("X-A:region={client_region}.", &client(None)), "region=.");
    }

    #[test]
    fn what_cannot_be_a_header_is_refused_with_the_reason() {
        let fault = |text| CustomHeader::parse(text).expect_err("a fault").to_string();
        assert_eq!(
            fault("no colon"),
            "cannot read the custom header \"no colon\": it is not of the form name:value"
        );
        assert_eq!(
            fault("Content-Length:3"),
            "cannot set the header content-length: it is not a custom one; choose another name"
        );
        assert_eq!(
            fault("X-A:{client_shoe_size}"),
            "cannot read the custom header \"X-A:{client_shoe_size}\": there is no variable {client_shoe_size}"
        );
        assert!(matches!(CustomHeader::parse("X-A:a\r\nX-B: b"), Err(CustomHeaderFault::Value(_))));
    }
}
