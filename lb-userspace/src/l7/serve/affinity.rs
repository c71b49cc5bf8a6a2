//! Which endpoint a request belongs to, where its backend service keeps a client's requests together. Pure.
//!
//! The cookie names an endpoint and nothing else: its value is a keyed hash of the backend service's name and the
//! endpoint's address, so that it tells a client no address of a pod, and a client cannot make one up.
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use ring::hmac;

use super::choose::is_open;
use super::snapshot::{Affinity, BackendService, Endpoint};

/// The cookie that a Google load balancer sets is `GCLB`.
pub const COOKIE_NAME: &str = "PODWAYLB";
/// Bytes of the hash in the cookie: enough that none is found by trying.
const TAG_BYTES: usize = 16;

/// The endpoint that the request's client had before, if it still takes requests.
pub(super) fn kept<'a>(
    service: &'a BackendService,
    headers: &HeaderMap,
    client: IpAddr,
    key: &hmac::Key,
) -> Option<&'a Arc<Endpoint>> {
    match service.affinity {
        Affinity::None => None,
        Affinity::ClientIp => by_client(service, client),
        Affinity::Cookie(_) => {
            let tag = cookie_tag(headers)?;
            let mut open = service.endpoints.iter().filter(|endpoint| is_open(service, endpoint));
            open.find(|endpoint| {
                // The whole hash is as long as ring's; the cookie has its first half.
                tag.eq_ignore_ascii_case(&cookie_value(service, endpoint, key))
            })
        }
    }
}

/// Rendezvous hashing (Thaler and Ravishankar 1998): a client moves only where its endpoint goes.
fn by_client(service: &BackendService, client: IpAddr) -> Option<&Arc<Endpoint>> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let open = service.endpoints.iter().filter(|endpoint| is_open(service, endpoint));
    open.max_by_key(|endpoint| hasher.hash_one((client, endpoint.address)))
}

fn cookie_tag(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

fn cookie_value(service: &BackendService, endpoint: &Endpoint, key: &hmac::Key) -> String {
    let tag = hmac::sign(key, format!("{} {}", service.name, endpoint.address).as_bytes());
    tag.as_ref()[..TAG_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The field that gives a client its cookie.
pub(super) fn cookie(service: &BackendService, endpoint: &Endpoint, key: &hmac::Key) -> Option<HeaderValue> {
    let Affinity::Cookie(lifetime) = service.affinity else { return None };
    let value = cookie_value(service, endpoint, key);
    let age = if lifetime.is_zero() { String::new() } else { format!("; Max-Age={}", lifetime.as_secs()) };
    HeaderValue::try_from(format!("{COOKIE_NAME}={value}; Path=/; HttpOnly{age}")).ok()
}

/// Gives the client the cookie of the endpoint that answered, unless it came with it.
pub(super) fn set_cookie(
    answer: &mut HeaderMap,
    service: &BackendService,
    endpoint: &Endpoint,
    had: Option<&Arc<Endpoint>>,
    key: &hmac::Key,
) {
    if had.is_some_and(|had| had.address == endpoint.address) {
        return;
    }
    if let Some(value) = cookie(service, endpoint, key) {
        answer.append(SET_COOKIE, value);
    }
}
