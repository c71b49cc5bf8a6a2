//! Which requests are plain, and what their endpoint gets. Pure, but for the draw of a name.
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::l7::path::is_plain_query;
use crate::l7::serve::client::{Client, Told};
use crate::l7::serve::forward::{forwarded_text, hex};
use crate::l7::serve::grpc::is_grpc;
use crate::l7::serve::settings::{HEADERS_MAX, Limits};
use crate::l7::serve::snapshot::{Affinity, Backend, BackendService, Listener, Plain, Protocol, Scheme};
use crate::l7::{Host, NormalPath};

/// Methods that say nothing about connections or ways.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// A request that was read, and goes to a backend service.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) host: Host<'a>,
    pub(super) service: Arc<BackendService>,
    pub(super) is_head: bool,
    /// Safe, and without a body: it may be sent again (RFC 9110 §9.2.2).
    pub(super) is_repeatable: bool,
    /// Whether its client wants nothing more on the connection.
    pub(super) is_last: bool,
    /// Its name in all logs.
    pub(super) id: [u8; 32],
}

/// What a field of a request is to the front-end.
enum Kind {
    /// Nothing: it is passed on.
    Kept,
    /// One that is for this connection only, or that the front-end says itself.
    Left,
    Host,
    Via,
    Connection,
    Length,
    /// There is one of it.
    Cookie,
    MediaType,
    /// Not plain.
    Other,
}

/// Fields of which there is one, and what they say.
#[derive(Default)]
struct Found<'a> {
    host: Option<&'a str>,
    via: Option<&'a [u8]>,
    length: Option<usize>,
    has_cookie: bool,
    is_last: bool,
}

/// Reads a request that is whole in `bytes` and framed as [`Scanner`](crate::l7::serve::wire::Scanner) asks, and writes
/// to `out` what its endpoint gets. None, and anything in `out`, where it is not plain.
pub(super) fn pass<'a>(
    bytes: &'a [u8],
    client: &Client,
    listener: &Listener,
    limits: &Limits,
    id: impl FnOnce() -> u128,
    out: &mut Vec<u8>,
) -> Option<Asked<'a>> {
    if client.is_trusted || bytes.len() > limits.head_bytes_max || has_policies(listener) {
        return None;
    }
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(length)) = head.parse_with_uninit_headers(bytes, &mut fields) else {
        return None;
    };
    let (method, target) = (head.method?, head.path?);
    let is_plain = head.version == Some(1) && METHODS.contains(&method);
    if !is_plain || head.headers.len() > limits.headers_max || target.len() > limits.uri_bytes_max {
        return None;
    }
    for piece in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
    let mut found = Found::default();
    for field in &*head.headers {
        found.take(field, out)?;
    }
    let body = &bytes[length..];
    let is_whole = body.len() == found.length.unwrap_or(0);
    if !is_whole || limits.body_bytes_max.is_some_and(|bytes_max| body.len() as u64 > bytes_max) {
        return None;
    }
    let host = Host::of(found.host?).ok()?;
    let path = NormalPath::of(target).ok().filter(NormalPath::is_as_sent)?;
    let query = target.get(path.as_str().len()..)?;
    if !is_plain_query(query) {
        return None;
    }
    let service = backend(listener, &host, &path, client)?;
    let id = hex(id());
    say_who_asks(client, &host, out);
    add_via(found.via, "1.1", out);
    out.extend_from_slice(b"x-request-id: ");
    out.extend_from_slice(&id);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
    let path = &target[..path.as_str().len()];
    let is_head = method == "HEAD";
    let is_repeatable = (is_head || method == "GET") && found.length.is_none();
    let is_last = found.is_last;
    Some(Asked { method, path, host, service, is_head, is_repeatable, is_last, id })
}

/// Whether requests over TLS are judged by their connection.
fn has_policies(listener: &Listener) -> bool {
    matches!(&listener.scheme, Scheme::Https(certificates) if certificates.has_policies())
}

fn backend(
    listener: &Listener,
    host: &Host<'_>,
    path: &NormalPath<'_>,
    client: &Client,
) -> Option<Arc<BackendService>> {
    let route = listener.site.url_map.find(host, path)?.target;
    if client.tls.is_none() && route.plain != Plain::Served {
        return None;
    }
    let Backend::To(slot) = &route.backend else { return None };
    Some(slot.load()).filter(|service| is_plain(service))
}

/// Whether a backend service asks nothing of requests' fields, and is spoken to as its clients speak.
fn is_plain(service: &BackendService) -> bool {
    service.protocol == Protocol::Http
        && service.proxy_protocol.is_none()
        && service.affinity == Affinity::None
        && service.request_headers.is_empty()
        && service.response_headers.is_empty()
}

impl<'a> Found<'a> {
    /// Notes a field, or passes it on.
    fn take(&mut self, field: &httparse::Header<'a>, out: &mut Vec<u8>) -> Option<()> {
        match kind(field.name) {
            Kind::Left => return Some(()),
            Kind::Host => {
                let value = std::str::from_utf8(field.value).ok()?;
                return self.host.replace(value).is_none().then_some(());
            }
            Kind::Via => return self.via.replace(field.value).is_none().then_some(()),
            Kind::Connection if field.value.eq_ignore_ascii_case(b"close") => {
                self.is_last = true;
                return Some(());
            }
            Kind::Connection => return field.value.eq_ignore_ascii_case(b"keep-alive").then_some(()),
            // The bytes' watcher has made sure that it is a number, and one only.
            Kind::Length => self.length = Some(std::str::from_utf8(field.value).ok()?.parse().ok()?),
            Kind::Cookie if std::mem::replace(&mut self.has_cookie, true) => return None,
            // An error's form depends on it.
            Kind::MediaType if is_grpc(field.value) => return None,
            Kind::Kept | Kind::Cookie | Kind::MediaType => {}
            Kind::Other => return None,
        }
        write_field(field.name, field.value, out);
        Some(())
    }
}

/// Writes a field, its name in lower case, as hyper has it.
pub(super) fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn kind(name: &str) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Kind::Left,
        3 if is("via") => Kind::Via,
        4 if is("host") => Kind::Host,
        6 if is("cookie") => Kind::Cookie,
        6 if is("expect") => Kind::Other,
        7 if is("upgrade") => Kind::Other,
        9 if is("forwarded") => Kind::Left,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::Left,
        12 if is("content-type") => Kind::MediaType,
        12 if is("x-request-id") => Kind::Left,
        14 if is("content-length") => Kind::Length,
        15 if is("x-forwarded-for") => Kind::Left,
        16 if is("x-forwarded-host") || is("x-forwarded-port") || is("proxy-connection") => Kind::Left,
        17 if is("x-forwarded-proto") => Kind::Left,
        17 if is("transfer-encoding") => Kind::Other,
        // It may look like one of the front-end's own.
        _ if name.contains('_') => Kind::Other,
        _ => Kind::Kept,
    }
}

/// Writes the fields that say who asks, and the host. A connection's requests are mostly for one host: what was written
/// last is kept.
fn say_who_asks(client: &Client, host: &Host<'_>, out: &mut Vec<u8>) {
    let mut last = client.told.borrow_mut();
    if let Some(told) = &*last
        && *told.host == *host.as_str()
        && host.port().is_none()
    {
        out.extend_from_slice(&told.fields);
        return;
    }
    let begin = out.len();
    let authority = host.to_string();
    let forwarded = forwarded_text(client, &authority);
    let fields: [(&str, &[u8]); 6] = [
        ("host", authority.as_bytes()),
        ("x-forwarded-for", client.address_text.as_bytes()),
        ("x-forwarded-proto", client.scheme().as_bytes()),
        ("x-forwarded-host", authority.as_bytes()),
        ("x-forwarded-port", client.port_text.as_bytes()),
        ("forwarded", forwarded.as_bytes()),
    ];
    for (name, value) in fields {
        write_field(name, value, out);
    }
    if host.port().is_none() {
        *last = Some(Told { host: host.as_str().into(), fields: out[begin..].into() });
    }
}

/// Adds the front-end to the ways of a message that came in that version of HTTP (RFC 9110 §7.6.3).
pub(super) fn add_via(before: Option<&[u8]>, version: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"via: ");
    if let Some(before) = before {
        out.extend_from_slice(before);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b" podway\r\n");
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
