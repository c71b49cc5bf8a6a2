//! The messages of `grpc.health.v1.Health/Check` (gRPC health checking protocol): one field each, in gRPC's frame
//! of a flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message").
use http::HeaderMap;
use hyper::body::Bytes;

use super::ReasonCode;

/// Path of the call.
pub(super) const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

/// `google.rpc.Code.OK`.
const OK: u32 = 0;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// Key of the only field of both messages: number 1, of a text and of a number.
const SERVICE_KEY: u8 = 1 << 3 | 2;
const STATUS_KEY: u8 = 1 << 3;
/// The frame's flag and length, bytes.
const FRAME_BYTES: usize = 5;

/// The request for a service.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    // Protocol buffers leave a field out that has its default.
    if !service.is_empty() {
        message.push(SERVICE_KEY);
        put_number(&mut message, service.len() as u64);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// The call's status; `None` where the headers or trailers have none.
pub(super) fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether the answer says that the service is serving; else what it says, and of what kind that is.
pub(super) fn serving(status: Option<u32>, body: &[u8]) -> Result<String, (ReasonCode, String)> {
    match status {
        Some(OK) => {}
        Some(status) => return Err((ReasonCode::GrpcStatus, format!("status {status}"))),
        None => return Err((ReasonCode::Protocol, "no gRPC status".to_owned())),
    }
    match state(body) {
        Some(SERVING) => Ok("serving".to_owned()),
        Some(state) => Err((ReasonCode::GrpcNotServing, format!("state {state}"))),
        None => Err((ReasonCode::Protocol, "no HealthCheckResponse".to_owned())),
    }
}

/// The state that a framed `HealthCheckResponse` holds.
fn state(body: &[u8]) -> Option<u64> {
    let (frame, message) = body.split_at_checked(FRAME_BYTES)?;
    let [flag, length @ ..] = frame else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    if *flag != 0 || length != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [STATUS_KEY, number @ ..] => number_of(number),
        _ => None,
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number of seven bits a byte, the low ones first, which takes all bytes.
fn number_of(bytes: &[u8]) -> Option<u64> {
    let (last, others) = bytes.split_last()?;
    let is_whole = bytes.len() <= 9 && last & 0x80 == 0 && others.iter().all(|byte| byte & 0x80 != 0);
    is_whole.then(|| bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_the_bytes_of_a_framed_message() {
        assert_eq!(request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(request("web")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
        let long = request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn only_serving_serves() {
        assert_eq!(serving(Some(0), &[0, 0, 0, 0, 2, 8, 1]), Ok("serving".into()));
        for (status, body, problem) in [
            (Some(0), &[0, 0, 0, 0, 2, 8, 2][..], (ReasonCode::GrpcNotServing, "state 2".into())),
            (Some(0), &[0, 0, 0, 0, 0], (ReasonCode::GrpcNotServing, "state 0".into())),
            (Some(5), &[], (ReasonCode::GrpcStatus, "status 5".into())),
            (None, &[0, 0, 0, 0, 2, 8, 1], (ReasonCode::Protocol, "no gRPC status".into())),
        ] {
            assert_eq!(serving(status, body), Err(problem));
        }
    }

    #[test]
    fn what_is_no_message_does_not_serve() {
        let bodies: [&[u8]; 6] = [
            &[],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 2, 16, 1],
            &[0, 0, 0, 0, 2, 8, 0x81],
            &[0, 0, 0, 0, 12, 8, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
        ];
        for body in bodies {
            let problem = (ReasonCode::Protocol, "no HealthCheckResponse".to_owned());
            assert_eq!(serving(Some(0), body), Err(problem), "{body:?}");
        }
    }
}
