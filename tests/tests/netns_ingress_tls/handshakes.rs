//! Handshakes by version, kind of key, name and protocol.
use crate::openssl::{Key, Said, ask, certificate, connect};
use crate::world::World;

const RSA: &str = "rsa.example";
const ECDSA: &str = "ecdsa.example";
const EXACT: &str = "exact.wild.example";
const WILDCARD: &str = "*.wild.example";
const STRICT: &str = "strict.example";

/// Names that a client asks for, the subject that it is shown and how that signs with TLS 1.3 and 1.2.
const NAMES: [(Option<&str>, &str, [&str; 2]); 6] = [
    (Some(RSA), RSA, ["RSA-PSS", "RSA-PSS"]),
    (Some(ECDSA), ECDSA, ["ECDSA", "ECDSA"]),
    (Some(EXACT), EXACT, ["ECDSA", "ECDSA"]),
    (Some("other.wild.example"), WILDCARD, ["RSA-PSS", "RSA-PSS"]),
    // The first certificate of all.
    (Some("none.example"), RSA, ["RSA-PSS", "RSA-PSS"]),
    (None, RSA, ["RSA-PSS", "RSA-PSS"]),
];

type Offer = (Option<&'static str>, Result<Option<&'static str>, ()>);

/// What a client offers, and what comes of it; `Err` is no connection (RFC 7301 §3.2).
const PROTOCOLS: [Offer; 4] = [
    (Some("http/1.1,h2"), Ok(Some("h2"))),
    (Some("http/1.1"), Ok(Some("http/1.1"))),
    (None, Ok(None)),
    (Some("spdy/3"), Err(())),
];

fn world() -> Option<World> {
    let world = World::start(&[])?;
    let dir = world.dir.path();
    let secrets = [
        ("rsa", Key::Rsa, RSA),
        ("ecdsa", Key::Ecdsa, ECDSA),
        ("wild", Key::Rsa, WILDCARD),
        ("exact", Key::Ecdsa, EXACT),
    ];
    for (secret, key, name) in secrets {
        world.put_secret(secret, Some(&certificate(dir, key, name, &[name])), None);
    }
    let secrets = secrets.map(|(secret, _, _)| (secret, &[][..]));
    world.put_ingress("all", &[RSA, ECDSA, WILDCARD], &secrets, &[]);
    world.put_secret("strict", Some(&certificate(dir, Key::Ecdsa, STRICT, &[STRICT])), None);
    world.put_ingress("strict", &[STRICT], &[("strict", &[])], &[("podway.io/min-tls-version", "1.3")]);
    world.wait("all certificates", || ask(&world, EXACT, RSA, &[]).code() == Some(200));
    world.wait("the other Ingress", || ask(&world, STRICT, STRICT, &[]).code() == Some(200));
    Some(world)
}

fn handshake(world: &World, version: &str, name: Option<&str>, protocols: Option<&str>) -> Said {
    let mut arguments = vec![version];
    match name {
        Some(name) => arguments.extend(["-servername", name]),
        None => arguments.push("-noservername"),
    }
    arguments.extend(protocols.map(|list| ["-alpn", list]).into_iter().flatten());
    connect(world, &arguments)
}

#[test]
fn handshakes_come_out_as_clients_ask() {
    let Some(world) = world() else { return };
    for (index, (flag, version)) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")].into_iter().enumerate() {
        for (name, subject, signatures) in NAMES {
            for (offered, expected) in PROTOCOLS {
                let said = handshake(&world, flag, name, offered);
                let what = format!("{version} {name:?} {offered:?}: {said:?}");
                let Ok(protocol) = expected else {
                    assert!(!said.is_success && said.subject().is_none(), "{what}");
                    continue;
                };
                assert!(said.is_success, "{what}");
                assert_eq!(said.session(), Some(format!("New {version}")), "{what}");
                assert_eq!(said.subject(), Some(subject), "{what}");
                assert_eq!(said.signature(), Some(signatures[index]), "{what}");
                assert_eq!(said.protocol(), protocol, "{what}");
            }
        }
        sessions_are_resumed(&world, flag, version);
    }
    for flag in ["-tls1", "-tls1_1"] {
        // A client that would still speak it, were it let.
        let said = connect(&world, &[flag, "-cipher", "DEFAULT@SECLEVEL=0", "-servername", RSA]);
        assert!(!said.is_success && said.subject().is_none(), "{flag}: {said:?}");
    }
    a_host_may_ask_for_a_later_version(&world);
}

fn sessions_are_resumed(world: &World, flag: &str, version: &str) {
    let file = world.dir.path().join("session.pem");
    let file = file.to_str().unwrap();
    let first = ask(world, RSA, RSA, &[flag, "-sess_out", file]);
    assert_eq!((first.session(), first.code()), (Some(format!("New {version}")), Some(200)), "{first:?}");
    let second = ask(world, RSA, RSA, &[flag, "-sess_in", file]);
    assert_eq!(
        (second.session(), second.code()),
        (Some(format!("Reused {version}")), Some(200)),
        "{second:?}"
    );
    let other = ask(world, ECDSA, ECDSA, &[flag, "-sess_in", file]);
    assert_eq!((other.session(), other.code()), (Some(format!("New {version}")), Some(200)), "{other:?}");
}

fn a_host_may_ask_for_a_later_version(world: &World) {
    let refused = connect(world, &["-tls1_2", "-servername", STRICT]);
    assert!(!refused.is_success && refused.subject().is_none(), "{refused:?}");
    assert_eq!(ask(world, STRICT, STRICT, &["-tls1_3"]).code(), Some(200));
    let by_another = ask(world, RSA, STRICT, &["-tls1_2"]);
    assert_eq!(by_another.code(), Some(421), "{by_another:?}");
    assert_eq!(by_another.field("x-podway-reason"), Some("misdirected"));
    assert_eq!(ask(world, RSA, STRICT, &["-tls1_3"]).code(), Some(200));
}
