//! Errors of the front-end's own in gRPC's form: a client of gRPC reads its status, and not HTTP's.
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::refusal::Reason;
use super::settings::ReasonHeader;

/// The media type of gRPC, and what those of its kin begin with (gRPC over HTTP/2, "Requests").
const MEDIA_TYPE: &[u8] = b"application/grpc";
/// The fields of a status.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The media type of a request of gRPC, with its message format: its answer has the same.
pub(super) fn media_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(CONTENT_TYPE)?;
    is_grpc(value.as_bytes()).then(|| value.clone())
}

/// Whether a media type is gRPC's.
pub(super) fn is_grpc(media_type: &[u8]) -> bool {
    media_type.split_at_checked(MEDIA_TYPE.len()).is_some_and(|(name, rest)| {
        let is_whole = rest.first().is_none_or(|next| b"+-; ".contains(next));
        name.eq_ignore_ascii_case(MEDIA_TYPE) && is_whole
    })
}

/// An error as an answer that is trailers alone: 200, the status, no body.
pub(super) fn response(
    reason: Reason,
    media_type: HeaderValue,
    header: ReasonHeader,
) -> Option<Response<Bytes>> {
    let status = status(reason)?;
    let mut response = reason.response(header).map(|_| Bytes::new());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(GRPC_STATUS, status);
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.why()));
    Some(response)
}

/// The status of an error, by gRPC's table for codes of HTTP ("HTTP to gRPC Status Code Mapping"), but for 504: the time
/// that is over is one that a request was given. `None` for what is no error.
fn status(reason: Reason) -> Option<HeaderValue> {
    let status = match reason.code() {
        StatusCode::BAD_REQUEST => "13",                                   // INTERNAL
        StatusCode::NOT_FOUND => "12",                                     // UNIMPLEMENTED
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14", // UNAVAILABLE
        StatusCode::GATEWAY_TIMEOUT => "4",                                // DEADLINE_EXCEEDED
        code if code.is_client_error() || code.is_server_error() => "2",   // UNKNOWN
        _ => return None,
    };
    Some(HeaderValue::from_static(status))
}

#[cfg(test)]
mod tests {
    use super::super::refusal::REASON;
    use super::*;

    fn asked(content_type: &'static str) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        media_type(&headers)
    }

    #[test]
    fn requests_of_grpc_are_told_by_their_media_type() {
        for grpc in
            ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b", "application/grpc-web"]
        {
            assert_eq!(asked(grpc).expect(grpc), grpc);
        }
        for other in ["application/grpcx", "application/json", "application/gr", "text/plain"] {
            assert_eq!(asked(other), None, "{other}");
        }
        assert_eq!(media_type(&HeaderMap::new()), None);
    }

    #[test]
    fn each_error_has_the_status_of_its_code() {
        let cases = [
            (Reason::NoRule, "12"),
            (Reason::NoBackendService, "12"),
            (Reason::NoEndpoint, "14"),
            (Reason::Overload, "14"),
            (Reason::ConnectFailed, "14"),
            (Reason::Protocol, "14"),
            (Reason::Timeout, "4"),
            (Reason::HostMismatch, "13"),
            (Reason::BodyTooLong, "2"),
            (Reason::Misdirected, "2"),
        ];
        for (reason, wanted) in cases {
            let media_type = HeaderValue::from_static("application/grpc+proto");
            let answer = response(reason, media_type, ReasonHeader::Sent).expect("an error");
            let headers = answer.headers();
            assert_eq!(
                (answer.status(), headers[GRPC_STATUS].as_bytes()),
                (StatusCode::OK, wanted.as_bytes())
            );
            assert_eq!(headers[CONTENT_TYPE], "application/grpc+proto");
            assert_eq!(headers[REASON], reason.name());
            assert!(answer.body().is_empty());
        }
    }

    #[test]
    fn the_message_says_why_without_the_code_of_http() {
        let media_type = HeaderValue::from_static("application/grpc");
        let answer = response(Reason::NoEndpoint, media_type, ReasonHeader::Withheld).expect("an error");
        assert_eq!(answer.headers()[GRPC_MESSAGE], "no endpoint serves this now");
        assert!(!answer.headers().contains_key(REASON));
    }

    #[test]
    fn what_is_no_error_has_no_status() {
        for reason in [Reason::Redirect, Reason::LastHop] {
            assert!(
                response(reason, HeaderValue::from_static("application/grpc"), ReasonHeader::Sent).is_none()
            );
        }
    }
}
