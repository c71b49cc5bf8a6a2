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

    const fn text(self) -> &'static str {
        match self {
            Self::NoRule => "404: no rule takes this host and path\n",
            Self::NoBackendService => "404: the backend service of this host and path does not exist\n",
            Self::NoEndpoint => "503: no endpoint serves this now\n",
            Self::Overload => "503: all endpoints have as many requests as they may\n",
            Self::ConnectFailed => "502: no endpoint could be connected to\n",
            Self::Protocol => "502: the endpoint gave no whole answer\n",
            Self::Timeout => "504: the endpoint took too long\n",
            Self::BodyTimeout => "408: the request's body did not come in time\n",
            Self::BodyBroken => "400: the request's body is cut off or badly framed\n",
            Self::BodyTooLong => "413: the request's body is too long\n",
            Self::UriTooLong => "414: the request's target is too long\n",
            Self::HeadersTooMany => "431: the request has too many header fields\n",
            Self::Host => "400: the request needs one valid host\n",
            Self::HostMismatch => "400: the request names two hosts\n",
            Self::Path => "400: the request's path cannot be told for certain\n",
            Self::Target => "400: the request's target must be a path\n",
            Self::Misdirected => "421: this host needs a connection that was opened for it\n",
            Self::Redirect => "this is served over https\n",
            Self::LastHop => "the request goes no further\n",
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
        let mut response = Response::new(Bytes::from_static(self.text().as_bytes()));
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
