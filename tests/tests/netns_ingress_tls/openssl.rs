//! OpenSSL's command line: certificates of all kinds, and a client that says what came of its handshake.
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::World;

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pem {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    Rsa,
    Ecdsa,
}

impl Key {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Rsa => &["-newkey", "rsa:2048"],
            Self::Ecdsa => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        }
    }
}

/// A certificate of its own for `names`, of which the first is its subject too; an authority without names.
pub(crate) fn certificate(dir: &Path, key: Key, subject: &str, names: &[&str]) -> Pem {
    let names = names.iter().map(|name| format!("DNS:{name}")).collect::<Vec<_>>().join(",");
    let extension =
        if names.is_empty() { "keyUsage=keyCertSign".to_owned() } else { format!("subjectAltName={names}") };
    let is_authority = if names.is_empty() { "TRUE" } else { "FALSE" };
    let constraints = format!("basicConstraints=critical,CA:{is_authority}");
    made(
        dir,
        &[
            &["req", "-x509", "-days", "30"],
            key.arguments(),
            &["-addext", &extension, "-addext", &constraints],
        ]
        .concat(),
        subject,
    )
}

/// A client's certificate, which `authority` signed.
pub(crate) fn signed(dir: &Path, subject: &str, authority: &Pem) -> Pem {
    let (certificate, key) = (dir.join("authority.crt.pem"), dir.join("authority.key.pem"));
    std::fs::write(&certificate, &authority.certificate).unwrap();
    std::fs::write(&key, &authority.key).unwrap();
    let by = ["-CA", certificate.to_str().unwrap(), "-CAkey", key.to_str().unwrap()];
    let begin: &[&str] = &["req", "-x509", "-days", "30", "-addext", "basicConstraints=critical,CA:FALSE"];
    made(dir, &[begin, Key::Ecdsa.arguments(), &by].concat(), subject)
}

fn made(dir: &Path, arguments: &[&str], subject: &str) -> Pem {
    let (certificate, key) = (dir.join("made.crt.pem"), dir.join("made.key.pem"));
    let mut command = Command::new("openssl");
    command.args(arguments).args(["-noenc", "-subj", &format!("/CN={subject}")]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let output = command.output().expect("the program openssl; install it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let read = |path| std::fs::read_to_string(path).unwrap();
    Pem { certificate: read(&certificate), key: read(&key) }
}

/// What `openssl s_client` says of a connection.
#[derive(Debug)]
pub(crate) struct Said {
    text: String,
    pub(crate) is_success: bool,
}

impl Said {
    /// The common name of the certificate that it was shown.
    pub(crate) fn subject(&self) -> Option<&str> {
        let subject = self.text.lines().find_map(|line| line.strip_prefix("subject="))?;
        Some(subject.rsplit('=').next()?.trim())
    }

    /// The protocol of ALPN.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix("ALPN protocol: "))
    }

    /// Whether a session was resumed, and by which version: as `New TLSv1.3`.
    pub(crate) fn session(&self) -> Option<String> {
        let line =
            self.text.lines().find(|line| line.starts_with("New, ") || line.starts_with("Reused, "))?;
        let mut parts = line.split(", ");
        Some(format!("{} {}", parts.next()?, parts.next()?))
    }

    /// How the server signed: as `RSA-PSS`.
    pub(crate) fn signature(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix("Peer signature type: "))
    }

    /// The code of the answer to the request.
    pub(crate) fn code(&self) -> Option<u16> {
        let line = self.text.lines().find_map(|line| line.strip_prefix("HTTP/1.1 "))?;
        line.get(..3)?.parse().ok()
    }

    /// A field of the answer.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Opens a connection with these arguments; nothing is asked on it.
pub(crate) fn connect(world: &World, arguments: &[&str]) -> Said {
    run(world, arguments, "")
}

/// Opens a connection for `name` and asks for `host` on it.
pub(crate) fn ask(world: &World, name: &str, host: &str, arguments: &[&str]) -> Said {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    run(world, &[&["-ign_eof", "-servername", name], arguments].concat(), &request)
}

fn run(world: &World, arguments: &[&str], input: &str) -> Said {
    let mut command = world.client().command("openssl");
    command.args(["s_client", "-connect", &world.https().to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program openssl; install it");
    // It may have ended before it read all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Said { text: String::from_utf8_lossy(&text).into_owned(), is_success: output.status.success() }
}
