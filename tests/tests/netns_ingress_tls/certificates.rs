//! Certificates that change while requests flow, and such as clients would not take.
use std::io::{BufRead as _, BufReader, Error, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::openssl::{Key, Pem, ask, certificate};
use crate::world::{DEADLINE, World};

const SHOP: &str = "shop.example";
/// Certificates that follow the first.
const SUCCESSORS: usize = 5;
/// Requests on old connections between two of them.
const REQUESTS: usize = 100;

#[test]
fn certificates_change_under_load_and_no_request_fails() {
    let Some(world) = World::start(&[]) else { return };
    let dir = world.dir.path();
    let named = |number: usize| certificate(dir, Key::Ecdsa, &format!("number {number}"), &[SHOP]);
    let all: Vec<Pem> = (0..=SUCCESSORS).map(named).collect();
    world.put_secret("cert", Some(&all[0]), None);
    world.put_ingress("shop", &[SHOP], &[("cert", &[SHOP])], &[]);
    world.wait("the first certificate", || ask(&world, SHOP, SHOP, &[]).code() == Some(200));

    let trusted = trusting(&all);
    let (is_over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    // Two that keep a connection, two that open one for each request.
    let clients: Vec<_> = [true, true, false, false]
        .map(|is_kept| {
            let dial = dialler(&world, &trusted);
            let (is_over, answers) = (Arc::clone(&is_over), Arc::clone(&answers));
            thread::spawn(move || {
                let mut kept = dial()?;
                while !is_over.load(Ordering::SeqCst) {
                    if !is_kept {
                        kept = dial()?;
                    }
                    request(&mut kept)?;
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<_, Error>(())
            })
        })
        .into();
    for (number, pem) in all.iter().enumerate().skip(1) {
        world.put_secret("cert", Some(pem), None);
        let subject = format!("number {number}");
        world.wait("the next certificate", || ask(&world, SHOP, SHOP, &[]).subject() == Some(&subject));
        let goal = answers.load(Ordering::SeqCst) + REQUESTS;
        world.wait("requests", || {
            answers.load(Ordering::SeqCst) >= goal || clients.iter().any(thread::JoinHandle::is_finished)
        });
    }
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap().unwrap();
    }
}

#[test]
fn what_clients_would_not_take_is_served_and_named_and_what_cannot_be_is_kept_away() {
    let Some(world) = World::start(&[]) else { return };
    let dir = world.dir.path();
    let good = certificate(dir, Key::Ecdsa, "good", &[SHOP]);
    let issuer = certificate(dir, Key::Rsa, "issuer", &[]);
    let put = |certificate: &str, key: &str| {
        world.put_secret(
            "cert",
            Some(&Pem { certificate: certificate.to_owned(), key: key.to_owned() }),
            None,
        );
    };
    let shows = |subject: &str| {
        let said = ask(&world, SHOP, SHOP, &[]);
        said.subject() == Some(subject) && said.code() == Some(200)
    };
    put(&good.certificate, &good.key);
    world.put_ingress("shop", &[SHOP], &[("cert", &[SHOP])], &[]);
    world.wait("the good certificate", || shows("good"));
    let both = |first: &Pem, second: &Pem| format!("{}{}", first.certificate, second.certificate);
    for (certificate, key, fault) in [
        (good.certificate.clone(), &issuer.key, "the private key is not the certificate's own"),
        (both(&issuer, &good), &good.key, "the private key is that of certificate 2 of the chain"),
        ("garbage".to_owned(), &good.key, "cannot read the certificate"),
        (String::new(), &good.key, "no certificate in it"),
        (good.certificate.clone(), &String::new(), "cannot read the private key"),
    ] {
        put(&certificate, key);
        let told =
            || world.agent.log().lines().any(|line| line.contains(fault) && line.contains("last good"));
        world.wait(fault, told);
        assert!(shows("good"), "{fault}");
    }
    for (name, pem, remark) in [
        ("expired", expired(), "its certificate has expired"),
        (
            "elsewhere",
            certificate(dir, Key::Ecdsa, "elsewhere", &["other.example"]),
            "no certificate of its has the name shop.example",
        ),
        (
            "unordered",
            {
                let own = certificate(dir, Key::Ecdsa, "unordered", &[SHOP]);
                Pem { certificate: both(&own, &issuer), ..own }
            },
            "certificate 1 of its chain is not issued by the one that follows",
        ),
    ] {
        put(&pem.certificate, &pem.key);
        world.wait(name, || shows(name));
        world.wait(remark, || world.agent.log().contains(remark));
    }
}

/// One whose time is over.
fn expired() -> Pem {
    let mut params = rcgen::CertificateParams::new(vec![SHOP.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "expired");
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    Pem { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn trusting(all: &[Pem]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pem in all {
        roots.add(CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Opens connections from the client's namespace, whatever thread asks.
fn dialler(world: &World, config: &Arc<ClientConfig>) -> impl Fn() -> std::io::Result<Stream> + Send + use<> {
    let (config, to) = (Arc::clone(config), world.https());
    let namespace = lb_tests::netns::Namespace::open(world.client().namespace().name()).unwrap();
    move || {
        let stream = namespace.run(|| TcpStream::connect_timeout(&to, DEADLINE)).map_err(Error::other)??;
        stream.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(SHOP).map_err(Error::other)?;
        let session = ClientConnection::new(Arc::clone(&config), name).map_err(Error::other)?;
        Ok(BufReader::new(StreamOwned::new(session, stream)))
    }
}

fn request(stream: &mut Stream) -> std::io::Result<()> {
    write!(stream.get_mut(), "GET / HTTP/1.1\r\nhost: {SHOP}\r\n\r\n")?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(Error::other(format!("ended after {head:?}")));
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    if head.starts_with("http/1.1 200") { Ok(()) } else { Err(Error::other(head)) }
}
