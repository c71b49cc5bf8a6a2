//! Clients that are verified.
use std::net::SocketAddr;

use lb_tests::web;

use crate::openssl::{Key, Pem, ask, certificate, signed};
use crate::world::{VIP, World};

const OPEN: &str = "open.example";
const MEMBERS: &str = "members.example";

#[test]
fn clients_are_verified_where_their_ingress_says_so() {
    let Some(world) = World::start(&[]) else { return };
    let dir = world.dir.path();
    let authority = certificate(dir, Key::Ecdsa, "members", &[]);
    let stranger = certificate(dir, Key::Ecdsa, "strangers", &[]);
    let shared = certificate(dir, Key::Ecdsa, OPEN, &[OPEN, MEMBERS]);
    world.put_secret("cert", Some(&shared), None);
    world.put_secret("members-ca", None, Some(&authority));
    world.put_ingress("open", &[OPEN], &[("cert", &[])], &[]);
    world.put_ingress("members", &[MEMBERS], &[("cert", &[])], &[("podway.io/client-ca", "members-ca")]);
    let member = Files::write(&world, "member", &signed(dir, "a member", &authority));
    let other = Files::write(&world, "other", &signed(dir, "a stranger", &stranger));
    world.wait("a member to be let in", || {
        ask(&world, MEMBERS, MEMBERS, &member.arguments()).code() == Some(200)
    });
    for version in ["-tls1_2", "-tls1_3"] {
        let nobody = ask(&world, MEMBERS, MEMBERS, &[version]);
        assert_eq!(nobody.code(), None, "{nobody:?}");
        let stranger = ask(&world, MEMBERS, MEMBERS, &[&[version][..], &other.arguments()].concat());
        assert_eq!(stranger.code(), None, "{stranger:?}");
        assert_eq!(ask(&world, OPEN, OPEN, &[version]).code(), Some(200));
        let around = ask(&world, OPEN, MEMBERS, &[version]);
        assert_eq!(
            (around.code(), around.field("x-podway-reason")),
            (Some(421), Some("misdirected")),
            "{around:?}"
        );
    }
    let plain = web::ask(world.client(), SocketAddr::new(VIP, 80), MEMBERS, "/").unwrap();
    assert_eq!(plain.code, 404, "{plain:?}");

    // An authority that is spoilt stays the one it was; a new one decides from then on.
    world.put_secret("members-ca", None, Some(&Pem { certificate: "none".into(), ..authority.clone() }));
    world.wait("the problem", || world.agent.log().contains("the last good authorities are used"));
    assert_eq!(ask(&world, MEMBERS, MEMBERS, &member.arguments()).code(), Some(200));
    world.put_secret("members-ca", None, Some(&stranger));
    world.wait("the other authority", || {
        ask(&world, MEMBERS, MEMBERS, &other.arguments()).code() == Some(200)
    });
    assert_eq!(ask(&world, MEMBERS, MEMBERS, &member.arguments()).code(), None);
}

/// A certificate and its key as OpenSSL takes them.
struct Files([String; 2]);

impl Files {
    fn write(world: &World, name: &str, pem: &Pem) -> Self {
        let file = |kind: &str, text: &str| {
            let path = world.dir.path().join(format!("{name}.{kind}.pem"));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self([file("crt", &pem.certificate), file("key", &pem.key)])
    }

    fn arguments(&self) -> [&str; 4] {
        ["-cert", &self.0[0], "-key", &self.0[1]]
    }
}
