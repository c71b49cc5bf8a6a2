//! What becomes of a message's fields on its way through.
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HeaderName, MAX_FORWARDS, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::client::{Client, Hosted};
use super::custom_header::CustomHeader;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// A client's certificate (RFC 9440).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// The field that names a request in all logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that a request gets at most, of all that are in this module.
pub(super) const FIELDS_MAX: usize = 8;

/// Takes out what is for one connection only (RFC 9110 §7.6.1). `TE: trailers` stays, since trailers pass.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = connection_tokens(headers)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !is_needed(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    let has_trailers = headers.remove(TE).is_some_and(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.split(',').any(|token| token.trim().eq_ignore_ascii_case("trailers")))
    });
    if headers.remove(TRANSFER_ENCODING).is_some() {
        // The coding framed the message, so a length beside it is wrong (RFC 9112 §6.3).
        headers.remove(CONTENT_LENGTH);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE] {
        headers.remove(name);
    }
    if has_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The tokens of all Connection fields.
fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

/// Fields that a client may not have taken out by naming them in Connection: the front-end's own, and what frames or
/// names the message.
fn is_needed(name: &HeaderName) -> bool {
    let own = [FOR, HOST, PORT, PROTO, FORWARDED, VIA, REQUEST_ID, TE];
    let other = [http::header::HOST, CONTENT_LENGTH, http::header::AUTHORIZATION, COOKIE];
    own.contains(name) || other.contains(name)
}

/// [`is_needed`] of a name in any case.
pub(super) fn is_needed_text(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| is_needed(&name))
}

/// The protocol that a request wants to go over to: one that says so in Connection too (RFC 9110 §7.8).
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_meant = connection_tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut values = headers.get_all(UPGRADE).iter();
    // HTTP/2 in the clear by upgrade is gone (RFC 9113 §3.1), and would carry requests that nobody judges.
    let value =
        values.next().filter(|value| is_meant && !value.as_bytes().to_ascii_lowercase().starts_with(b"h2"));
    value.filter(|_| values.next().is_none()).cloned()
}

/// The client's address, as far as those are believed who passed the request on: the last one named by a trusted peer.
/// To be asked after [`say_who_asks`].
pub(super) fn client_address(headers: &HeaderMap, client: &Client) -> IpAddr {
    let named = || {
        let mut list = headers.get(FOR)?.to_str().ok()?.rsplit(',').map(str::trim);
        // The last is the peer itself.
        list.nth(1)?.parse().ok()
    };
    let named = if client.is_trusted { named() } else { None };
    named.unwrap_or(client.peer.ip())
}

/// Says in a request's fields who asks, in the client's place. What a client says of those before it is believed
/// where it is trusted, else it is replaced.
pub(super) fn say_who_asks(headers: &mut HeaderMap, client: &Client, host: &HeaderValue) {
    if client.is_trusted {
        append_to_list(headers, &FOR, &client.address_text);
        headers.entry(PROTO).or_insert(HeaderValue::from_static(client.scheme()));
        headers.entry(HOST).or_insert_with(|| host.clone());
        headers.entry(PORT).or_insert_with(|| client.port_text.clone());
    } else {
        headers.insert(FOR, client.address_text.clone());
        headers.insert(PROTO, HeaderValue::from_static(client.scheme()));
        headers.insert(HOST, host.clone());
        headers.insert(PORT, client.port_text.clone());
        headers.remove(FORWARDED);
    }
    if let Some(element) = forwarded(client, host) {
        append_to_list(headers, &FORWARDED, &element);
    }
}

/// Shows the certificate of a client that was verified (RFC 9440 §2.2). Where clients are verified nobody says himself
/// who he is; the chain is not passed on.
pub(super) fn show_certificate(headers: &mut HeaderMap, client: &Client) {
    let Some(tls) = client.tls.as_ref().filter(|tls| tls.verified_by.is_some()) else { return };
    headers.remove(CLIENT_CERT_CHAIN);
    match &tls.certificate {
        Some(certificate) => drop(headers.insert(CLIENT_CERT, certificate.field.clone())),
        None => drop(headers.remove(CLIENT_CERT)),
    }
}

/// Takes out fields whose names become those of the front-end's own, or of `others`, once an endpoint reads `_` as `-`
/// as CGI and what came of it do (RFC 3875 §4.1.18): a client could say of itself what it likes.
pub(super) fn remove_look_alikes(headers: &mut HeaderMap, others: &[CustomHeader]) {
    let is_alike = |name: &HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        let mut own =
            [FOR, HOST, PORT, PROTO, FORWARDED, REQUEST_ID, CLIENT_CERT, CLIENT_CERT_CHAIN].into_iter();
        own.any(|own| own == *dashed) || others.iter().any(|other| *other.name() == *dashed)
    };
    let is_suspect = |name: &&HeaderName| name.as_str().contains('_') && is_alike(name);
    let alike: Vec<HeaderName> = headers.keys().filter(is_suspect).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
}

/// An element of RFC 7239 §4. A connection's requests are mostly for one host: the last one made is kept.
fn forwarded(client: &Client, host: &HeaderValue) -> Option<HeaderValue> {
    let mut last = client.hosted.borrow_mut();
    if let Some(hosted) = last.as_ref().filter(|hosted| hosted.host == *host) {
        return Some(hosted.forwarded.clone());
    }
    let forwarded = forwarded_element(client, host)?;
    *last = Some(Hosted { host: host.clone(), forwarded: forwarded.clone() });
    Some(forwarded)
}

fn forwarded_element(client: &Client, host: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::try_from(forwarded_text(client, host.to_str().ok()?)).ok()
}

/// An element of `Forwarded`.
pub(super) fn forwarded_text(client: &Client, host: &str) -> String {
    let proto = client.scheme();
    match client.peer.ip() {
        IpAddr::V4(address) => format!("for={address};host=\"{host}\";proto={proto}"),
        // §6: brackets, and quotes for the colons.
        IpAddr::V6(address) => format!("for=\"[{address}]\";host=\"{host}\";proto={proto}"),
    }
}

/// Appends to a list that may be spread over several fields (RFC 9110 §5.3): one field comes of it.
fn append_to_list(headers: &mut HeaderMap, name: &HeaderName, element: &HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name, element.clone());
        return;
    }
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(name, value);
    }
}

/// Adds the front-end to the ways of a message that came in `version` (RFC 9110 §7.6.3).
pub(super) fn add_via(headers: &mut HeaderMap, version: Version) {
    let element = match version {
        Version::HTTP_10 => "1.0 podway",
        Version::HTTP_2 => "2 podway",
        _ => "1.1 podway",
    };
    append_to_list(headers, &VIA, &HeaderValue::from_static(element));
}

/// The request's name: the one that a trusted client gave it, else one made of `random`.
pub(super) fn request_id(headers: &mut HeaderMap, client: &Client, random: u128) -> HeaderValue {
    if client.is_trusted
        && let Some(id) = headers.get(REQUEST_ID)
    {
        return id.clone();
    }
    // The request, its answer and its line in the log share it.
    let digits = Bytes::from_owner(hex(random));
    let id = HeaderValue::from_maybe_shared(digits).unwrap_or(HeaderValue::from_static("0"));
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// All 32 digits.
pub(super) fn hex(number: u128) -> [u8; 32] {
    let bytes = number.to_be_bytes();
    std::array::from_fn(|place| {
        let byte = bytes[place / 2];
        let digit = if place % 2 == 0 { byte >> 4 } else { byte & 15 };
        b"0123456789abcdef"[usize::from(digit)]
    })
}

/// HTTP/2 may spread cookies over several fields, HTTP/1 may not (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    if values.next().is_none() || values.next().is_none() {
        return;
    }
    let values: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::try_from(values.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// How many more times a request may be passed on, where it says so and its method heeds it (RFC 9110 §7.6.2).
pub(super) fn hops_left(parts: &Parts) -> Option<u64> {
    if !matches!(parts.method, Method::OPTIONS | Method::TRACE) {
        return None;
    }
    parts.headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()
}

/// The front-end itself answers `100 Continue` once it reads the body, so nobody behind it need.
pub(super) fn remove_expectation(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
