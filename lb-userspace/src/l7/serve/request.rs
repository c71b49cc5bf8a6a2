//! Where a request goes, or why it is refused. Pure.
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Version};

use super::client::Client;
use super::refusal::Reason;
use super::settings::Limits;
use super::snapshot::{Route, Site};
use crate::l7::{Host, NormalPath, PathFault};

/// A request that was judged.
#[derive(Debug)]
pub(super) struct Target {
    /// Where it goes; none where no rule takes it.
    pub(super) route: Option<Route>,
    /// The host that chose the rule, with the client's port: what the endpoint gets as Host or `:authority`.
    pub(super) authority: HeaderValue,
    /// The path that chose the rule, with the query, where it is not the one that was sent.
    pub(super) rewritten: Option<String>,
}

/// Judges a request of `client` by its head.
pub(super) fn judge(parts: &Parts, client: &Client, site: &Site, limits: &Limits) -> Result<Target, Reason> {
    if parts.headers.len() > limits.headers_max {
        return Err(Reason::HeadersTooMany);
    }
    if parts.method == Method::CONNECT {
        return Err(Reason::Target);
    }
    let sent = parts.uri.path_and_query().ok_or(Reason::Target)?.as_str();
    if sent.len() > limits.uri_bytes_max {
        return Err(Reason::UriTooLong);
    }
    let raw = host(parts, client.scheme())?;
    let host = Host::of(raw).map_err(|_| Reason::Host)?;
    let path = NormalPath::of(sent).map_err(|fault| match fault {
        PathFault::TooLong => Reason::UriTooLong,
        _ => Reason::Path,
    })?;
    let route = site.url_map.find(&host, &path).map(|found| found.target.clone());
    let rewritten = (!path.is_as_sent()).then(|| with_query(path.as_str(), sent));
    let last = client.hosted.borrow();
    let known = [parts.headers.get(HOST), last.as_ref().map(|hosted| &hosted.host)];
    Ok(Target { route, authority: authority(&known, &host)?, rewritten })
}

/// The host in its normal form with its port: nearly always one of `known`, the very field that the client sent or what
/// its request before was for.
fn authority(known: &[Option<&HeaderValue>], host: &Host<'_>) -> Result<HeaderValue, Reason> {
    let made = match host.port() {
        Some(_) => HeaderValue::try_from(host.to_string()),
        None => match known.iter().flatten().find(|known| **known == host.as_str()) {
            Some(known) => return Ok(HeaderValue::clone(known)),
            None => HeaderValue::from_str(host.as_str()),
        },
    };
    made.map_err(|_| Reason::Host)
}

fn with_query(path: &str, sent: &str) -> String {
    match sent.split_once('?') {
        Some((_, query)) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// The request's one host: of the target (`:authority`, RFC 9113 §8.3.1; absolute form, RFC 9112 §3.2.2) and of the
/// Host field, which must agree.
fn host<'a>(parts: &'a Parts, scheme: &str) -> Result<&'a str, Reason> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next().map(|value| value.to_str().map_err(|_| Reason::Host)).transpose()?;
    if fields.next().is_some() {
        return Err(Reason::Host);
    }
    if parts.version != Version::HTTP_2 && field.is_none() {
        return Err(Reason::Host);
    }
    if parts.uri.scheme_str().is_some_and(|named| named != "http" && named != "https") {
        return Err(Reason::Target);
    }
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    match (target, field) {
        (Some(target), Some(field)) if !is_same(target, field, scheme)? => Err(Reason::HostMismatch),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Reason::Host),
    }
}

/// Whether two hosts with their ports are one; no port is the scheme's own.
fn is_same(one: &str, other: &str, scheme: &str) -> Result<bool, Reason> {
    let own = if scheme == "https" { 443 } else { 80 };
    let one = Host::of(one).map_err(|_| Reason::Host)?;
    let other = Host::of(other).map_err(|_| Reason::Host)?;
    let is_same_port = one.port().unwrap_or(own) == other.port().unwrap_or(own);
    Ok(one.as_str() == other.as_str() && is_same_port)
}
