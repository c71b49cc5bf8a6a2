//! Answers that the front-end makes itself.
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use super::settings::ReasonHeader;

/// The field that says why.
pub const REASON: HeaderName = HeaderName::from_static("x-podway-reason");

/// Why a request has no answer of an endpoint. The names are the ones that the field, logs and counters carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No rule of the URL map takes the host and path.
    NoRule,
    /// The rule names a backend service that is not there.
    NoBackendService,
    /// No endpoint takes requests.
    NoEndpoint,
    /// All endpoints have as many requests as they may.
    Overload,
    /// No connection to an endpoint came about.
    ConnectFailed,
    /// The endpoint hung up, or said what is not HTTP.
    Protocol,
    /// The endpoint took longer than the backend service allows.
    Timeout,
    /// The client's body did not come in time.
    BodyTimeout,
    /// The client's body was cut off or badly framed.
    BodyBroken,
    /// The request's body is too long.
    BodyTooLong,
    /// The request's target is too long.
    UriTooLong,
    /// The request has too many fields.
    HeadersTooMany,
    /// The request names no host, two, or one that cannot be.
    Host,
    /// The request's target and its Host field name different hosts.
    HostMismatch,
    /// The request's path cannot be.
    Path,
    /// CONNECT, or a target that is no path.
    Target,
    /// The host asks for another verification of its clients, or a later TLS, than the connection was opened with.
    Misdirected,
    /// Only a redirect is served over plain HTTP.
    Redirect,
    /// Its `Max-Forwards` lets the request go no further.
    LastHop,
}

impl Reason {
    /// The name that never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRule => "no-rule",
            Self::NoBackendService => "no-backend-service",
            Self::NoEndpoint => "no-endpoint",
            Self::Overload => "overload",
            Self::ConnectFailed => "connect-failed",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::BodyTimeout => "body-timeout",
            Self::BodyBroken => "body-broken",
            Self::BodyTooLong => "body-too-long",
            Self::UriTooLong => "uri-too-long",
            Self::HeadersTooMany => "headers-too-many",
            Self::Host => "host",
            Self::HostMismatch => "host-mismatch",
            Self::Path => "path",
            Self::Target => "target",
            Self::Misdirected => "misdirected",
            Self::Redirect => "redirect",
            Self::LastHop => "last-hop",
        }
    }

    /// The code that a client gets; a redirect has its site's.
    #[must_use]
    pub const fn code(self) -> StatusCode {
        match self {
            Self::NoRule | Self::NoBackendService => StatusCode::NOT_FOUND,
            Self::NoEndpoint | Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed | Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooMany => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Redirect => StatusCode::MOVED_PERMANENTLY,
            Self::LastHop => StatusCode::OK,
            Self::BodyBroken | Self::Host | Self::HostMismatch | Self::Path | Self::Target => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// Why, for people.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::NoRule => "no rule takes this host and path",
            Self::NoBackendService => "the backend service of this host and path does not exist",
            Self::NoEndpoint => "no endpoint serves this now",
            Self::Overload => "all endpoints have as many requests as they may",
            Self::ConnectFailed => "no endpoint could be connected to",
            Self::Protocol => "the endpoint gave no whole answer",
            Self::Timeout => "the endpoint took too long",
            Self::BodyTimeout => "the request's body did not come in time",
            Self::BodyBroken => "the request's body is cut off or badly framed",
            Self::BodyTooLong => "the request's body is too long",
            Self::UriTooLong => "the request's target is too long",
            Self::HeadersTooMany => "the request has too many header fields",
            Self::Host => "the request needs one valid host",
            Self::HostMismatch => "the request names two hosts",
            Self::Path => "the request's path cannot be told for certain",
            Self::Target => "the request's target must be a path",
            Self::Misdirected => "this host needs a connection that was opened for it",
            Self::Redirect => "this is served over https",
            Self::LastHop => "the request goes no further",
        }
    }

    /// Why, as a client that shows bodies sees it.
    fn text(self) -> String {
        match self.code() {
            code if code.is_client_error() || code.is_server_error() => {
                format!("{}: {}\n", code.as_u16(), self.why())
            }
            _ => format!("{}\n", self.why()),
        }
    }

    /// Whether what follows on an HTTP/1 connection cannot be trusted to be a request.
    const fn is_closing(self) -> bool {
        let is_understood =
            matches!(self, Self::NoRule | Self::NoBackendService | Self::Redirect | Self::LastHop);
        self.code().as_u16() < 500 && !is_understood
    }

    /// The answer. A HEAD request's has the same head.
    pub(super) fn response(self, header: ReasonHeader) -> Response<Bytes> {
        let mut response = Response::new(self.text().into());
        *response.status_mut() = self.code();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if header == ReasonHeader::Sent {
            headers.insert(REASON, HeaderValue::from_static(self.name()));
        }
        if self.is_closing() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
