//! The host of a request in its normal form.
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::net::Ipv6Addr;

/// Longest name, bytes (RFC 1035 §2.3.4, without the root's dot).
pub const NAME_BYTES_MAX: usize = 253;
/// Longest label of a name, bytes (RFC 1035 §2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a host is refused; the answer is 400 (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Nothing before the port.
    #[error("the host is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the host is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A label that is empty or longer than [`LABEL_BYTES_MAX`].
    #[error("the host has a label that is empty or longer than {LABEL_BYTES_MAX} bytes")]
    BadLabel,
    /// A byte that is in no name: user information, escapes and names that are not in ASCII among them.
    #[error("the host has a character other than letters, digits, `-`, `_` and `.`")]
    BadCharacter,
    /// Brackets without an IPv6 address in them.
    #[error("the host has brackets without an IPv6 address")]
    BadAddress,
    /// What follows the colon is no port.
    #[error("the host's port is not a number from 0 to 65535")]
    BadPort,
}

/// A host in its normal form: lower case, without port and without the root's dot; an IPv6 address in brackets
/// (RFC 3986 §3.2.2) as RFC 5952 writes it. Internationalised names stay A-labels (RFC 5890 §2.3.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Of a `Host` field, an `:authority` or the authority of a URL: `host[:port]`.
    ///
    /// # Errors
    /// It is none that a rule could be meant for; the request is answered with 400.
    pub fn of(raw: &'a str) -> Result<Self, HostFault> {
        if raw.starts_with('[') {
            return Self::of_literal(raw);
        }
        let (name, port) = match raw.split_once(':') {
            Some((name, digits)) => (name, port(digits)?),
            None => (raw, None),
        };
        if name.is_empty() {
            return Err(HostFault::Empty);
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        check_name(name)?;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        Ok(Self { name, port })
    }

    fn of_literal(raw: &str) -> Result<Self, HostFault> {
        let (literal, rest) = raw[1..].split_once(']').ok_or(HostFault::BadAddress)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| HostFault::BadAddress)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if rest.is_empty() => None,
            None => return Err(HostFault::BadPort),
        };
        Ok(Self { name: Cow::Owned(format!("[{address}]")), port })
    }

    /// The normal form, by which rules are found.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The port beside it.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

/// With the port, as an endpoint gets it.
impl Display for Host<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)?;
        match self.port {
            Some(port) => write!(out, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Digits, or nothing (RFC 3986 §3.2.3: a port may be empty).
fn port(digits: &str) -> Result<Option<u16>, HostFault> {
    if digits.is_empty() {
        return Ok(None);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostFault::BadPort);
    }
    digits.parse().map(Some).map_err(|_| HostFault::BadPort)
}

/// Whether a name is one that DNS could hold. The underscore is in no host name (RFC 952) but in many a name.
pub(super) fn check_name(name: &str) -> Result<(), HostFault> {
    if name.len() > NAME_BYTES_MAX {
        return Err(HostFault::TooLong);
    }
    let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(is_in_name) {
        return Err(HostFault::BadCharacter);
    }
    let is_bad = |label: &str| label.is_empty() || label.len() > LABEL_BYTES_MAX;
    if name.split('.').any(is_bad) { Err(HostFault::BadLabel) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(raw: &str) -> Result<(String, Option<u16>), HostFault> {
        Host::of(raw).map(|host| (host.as_str().to_owned(), host.port()))
    }

    #[test]
    fn hosts_have_one_normal_form() {
        let cases = [
            ("shop.example.com", "shop.example.com", None),
            ("Shop.EXAMPLE.com", "shop.example.com", None),
            ("shop.example.com.", "shop.example.com", None),
            ("shop.example.com:8080", "shop.example.com", Some(8080)),
            ("shop.example.com.:443", "shop.example.com", Some(443)),
            ("shop.example.com:", "shop.example.com", None),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
            ("my_app.example", "my_app.example", None),
            ("localhost", "localhost", None),
            ("192.0.2.7:80", "192.0.2.7", Some(80)),
            ("[2001:DB8:0::7]", "[2001:db8::7]", None),
            ("[2001:db8::7]:443", "[2001:db8::7]", Some(443)),
        ];
        for (raw, name, port) in cases {
            assert_eq!(normal(raw), Ok((name.to_owned(), port)), "{raw}");
        }
    }

    #[test]
    fn a_host_is_told_with_the_port_that_it_came_with() {
        let told = |raw| Host::of(raw).unwrap().to_string();
        assert_eq!(told("Shop.EXAMPLE.com"), "shop.example.com");
        assert_eq!(told("[2001:DB8:0::7]:8080"), "[2001:db8::7]:8080");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a"; 128].join(".");
        let cases = [
            ("", HostFault::Empty),
            (":80", HostFault::Empty),
            (".", HostFault::BadLabel),
            ("a..example", HostFault::BadLabel),
            (".example", HostFault::BadLabel),
            ("a.example..", HostFault::BadLabel),
            (&long_label, HostFault::BadLabel),
            (&long_name, HostFault::TooLong),
            ("user@a.example", HostFault::BadCharacter),
            ("a%2eexample", HostFault::BadCharacter),
            ("bücher.example", HostFault::BadCharacter),
            ("a.example/x", HostFault::BadCharacter),
            ("a.example b", HostFault::BadCharacter),
            ("a,b.example", HostFault::BadCharacter),
            ("*.example", HostFault::BadCharacter),
            ("2001:db8::7", HostFault::BadPort),
            ("a.example:80x", HostFault::BadPort),
            ("a.example:+80", HostFault::BadPort),
            ("a.example:65536", HostFault::BadPort),
            ("a.example:80:80", HostFault::BadPort),
            ("[2001:db8::7", HostFault::BadAddress),
            ("[192.0.2.7]", HostFault::BadAddress),
            ("[fe80::1%25eth0]", HostFault::BadAddress),
            ("[2001:db8::7]80", HostFault::BadPort),
        ];
        for (raw, fault) in cases {
            assert_eq!(normal(raw), Err(fault), "{raw}");
        }
    }
}
