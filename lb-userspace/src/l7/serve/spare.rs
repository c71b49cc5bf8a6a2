//! A request's head, kept in case its connection closes under it.
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::body::RequestBody;

/// The head of a request without a body. Nearly none is ever sent again, so it is kept in the form that takes least time
/// to make, not in the one that is sent.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// `name:value` and a line feed each: no name has a colon in it, no value a line feed.
    fields: Vec<u8>,
}

impl Spare {
    /// Of a request that has no body.
    pub(super) fn of(request: &Request<RequestBody>) -> Self {
        let fields = request.headers();
        let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 2;
        let mut bytes = Vec::with_capacity(fields.iter().map(length).sum());
        for (name, value) in fields {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
        }
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields: bytes,
        }
    }

    /// The request once more.
    pub(super) fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        for field in self.fields.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', field) else { continue };
            let (name, value) = (&field[..colon], &field[colon + 1..]);
            // Both were a name and a value before.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                request.headers_mut().append(name, value);
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_is_the_request_once_more() {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = Uri::from_static("/cart?item=7");
        *request.version_mut() = Version::HTTP_2;
        let fields: [(&'static str, &[u8]); 5] = [
            ("host", b"shop.example:8080"),
            ("accept", b"text/html"),
            ("accept", b"\xe4;q=0.5"),
            ("x-empty", b""),
            ("x-tab", b"a\tb"),
        ];
        for (name, value) in fields {
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let again = Spare::of(&request).into_request();
        assert_eq!(again.method(), Method::OPTIONS);
        assert_eq!(again.uri(), "/cart?item=7");
        assert_eq!(again.version(), Version::HTTP_2);
        assert_eq!(again.headers(), request.headers());
    }
}
