//! Secrets that come, change, spoil and go, and what is told of them.
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;
use crate::model::{ClassChoice, ClientVerification, ClientVerify, Ingress, IngressTls, Snapshot};
use crate::plan::fixture::{ip, node};
use crate::plan::url_maps;

/// `tls.crt` and `tls.key` for a.example.
fn pem(until_year: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(until_year, 1, 1);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// URL maps of an Ingress with the certificate `shop/cert`, whose clients `shop/clients` signs for.
fn maps() -> UrlMaps {
    let mut snapshot = Snapshot::default();
    let secret = ObjectName::new("shop", "clients");
    let ingress = Ingress {
        class: ClassChoice::Annotation("podway".into()),
        vips: vec![ip("203.0.113.80")],
        tls: vec![IngressTls { hosts: vec!["a.example".into()], secret: "cert".into() }],
        client_verification: Some(ClientVerification { secret, verify: ClientVerify::Require }),
        default_backend: Some(crate::model::IngressBackend::Unusable),
        ..Ingress::new(ObjectName::new("shop", "web"))
    };
    snapshot.ingresses.insert(ingress.name.clone(), ingress.into());
    url_maps(&snapshot, &node())
}

#[derive(Default)]
struct World {
    known: KnownCertificates,
    secrets: BTreeMap<ObjectName, Arc<TlsSecret>>,
}

impl World {
    fn put(&mut self, name: &str, certificate: &str, key: &str, authority: &str) {
        let name = ObjectName::new("shop", name);
        let secret = TlsSecret {
            name: name.clone(),
            resource_version: "1".into(),
            uid: "".into(),
            certificate_pem: certificate.as_bytes().into(),
            key_pem: key.as_bytes().into(),
            authority_pem: authority.as_bytes().into(),
        };
        self.secrets.insert(name, secret.into());
    }

    fn follow(&mut self) -> bool {
        self.known.follow(&maps(), &self.secrets)
    }

    fn problems(&self) -> Vec<String> {
        self.known.problems().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn secrets_that_are_not_there_are_named_for_what_they_are_needed() {
    let mut world = World::default();
    assert!(world.follow());
    assert_eq!(
        world.problems(),
        [
            "Secret shop/cert: cannot serve TLS from it: it is not there; its hosts have no certificate",
            "Secret shop/clients: cannot verify clients by it: it is not there; no client is let in to its hosts",
        ]
    );
    assert!(!world.follow(), "nothing is new");
    assert!(world.known.of(&maps().maps()[0]).is_none());
}

#[test]
fn a_secret_that_is_spoilt_leaves_the_last_good_one() {
    let mut world = World::default();
    let ((certificate, key), (_, other_key)) = (pem(2100), pem(2100));
    world.put("cert", &certificate, &key, "");
    world.put("clients", "", "", &certificate);
    assert!(world.follow());
    assert_eq!(world.problems(), [""; 0]);
    for (spoilt_certificate, spoilt_key, fault) in [
        (&*certificate, &*other_key, "the private key is not the certificate's own"),
        ("no certificate", &key, "cannot read the certificate"),
        ("", "", "cannot read the certificate"),
    ] {
        world.put("cert", spoilt_certificate, spoilt_key, "");
        assert!(world.follow());
        let [problem] = &world.problems()[..] else { panic!("{:?}", world.problems()) };
        assert!(problem.starts_with("Secret shop/cert: cannot serve TLS from it: "), "{problem}");
        assert!(
            problem.contains(fault) && problem.ends_with("; the last good certificate is served"),
            "{problem}"
        );
        assert!(world.known.of(&maps().maps()[0]).is_some());
    }
    world.put("cert", &certificate, &key, "");
    world.put("clients", "", "", "no certificate");
    assert!(world.follow());
    let [problem] = &world.problems()[..] else { panic!("{:?}", world.problems()) };
    assert!(problem.ends_with("; the last good authorities are used"), "{problem}");
    world.secrets.clear();
    assert!(world.follow());
    assert_eq!(world.problems().len(), 2);
    assert!(world.known.of(&maps().maps()[0]).is_some());
}

#[test]
fn an_expired_certificate_is_served_and_told() {
    let mut world = World::default();
    let (certificate, key) = pem(2001);
    world.put("cert", &certificate, &key, "");
    world.put("clients", "", "", &certificate);
    assert!(world.follow());
    let expected = "Secret shop/cert: its certificate has expired (Jan  1 00:00:00 2001 +00:00); it is served all the \
                    same; give another";
    assert_eq!(world.problems(), [expected]);
    assert!(world.known.of(&maps().maps()[0]).is_some());
    assert!(!world.known.are_remarks_due());
    world.known.remarks.clear();
    assert!(world.known.are_remarks_due(), "time has made it expire since the last look");
}
