//! gRPC, by tonic on both sides: calls of all four kinds, their status in trailers, their deadlines and their ends.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use futures::channel::mpsc;
use futures::{SinkExt as _, Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_userspace::l7::serve::{BackendService, Protocol, REASON, Route, Settings};
use lb_userspace::l7::{HostPattern, HostRule, UrlMap};
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tower::service_fn as tower_fn;

use crate::stand::{DEADLINE, HOST, HTTP_2, Stand, endpoint_tls, service};

/// Messages of a stream.
const MESSAGES: usize = 200;
/// Bytes of a large message: tonic takes 4 MiB.
const LARGE_BYTES: usize = 3 * 1024 * 1024;

/// Messages are text as it is.
#[derive(Clone, Copy, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        String::from_utf8(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// What the endpoint notes.
#[derive(Default)]
struct Noted {
    was_cancelled: AtomicBool,
    had_deadline: AtomicBool,
}

/// Notes its drop.
struct Cancelled(Arc<Noted>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.was_cancelled.store(true, Ordering::SeqCst);
    }
}

fn failure() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", "it is gone".parse().unwrap());
    Status::with_metadata(Code::NotFound, "no such thing", metadata)
}

async fn unary(
    noted: Arc<Noted>,
    request: tonic::Request<String>,
) -> Result<tonic::Response<String>, Status> {
    let has_deadline = request.metadata().contains_key("grpc-timeout");
    noted.had_deadline.fetch_or(has_deadline, Ordering::SeqCst);
    match request.get_ref().as_str() {
        "fail" => Err(failure()),
        "wait" => {
            let _cancelled = Cancelled(noted);
            std::future::pending().await
        }
        _ => {
            let mut answer = tonic::Response::new(request.get_ref().clone());
            answer.metadata_mut().insert("x-answered", "yes".parse().unwrap());
            Ok(answer)
        }
    }
}

/// Many messages, and at last a failure if it is asked for.
async fn many(
    request: tonic::Request<String>,
) -> Result<tonic::Response<impl Stream<Item = Result<String, Status>>>, Status> {
    let last = (request.get_ref() == "fail").then(|| Err(failure()));
    let messages = (0..MESSAGES).map(|number| Ok(number.to_string()));
    Ok(tonic::Response::new(stream::iter(messages.chain(last))))
}

async fn joined(request: tonic::Request<Streaming<String>>) -> Result<tonic::Response<String>, Status> {
    let mut messages = request.into_inner();
    let mut text = String::new();
    while let Some(message) = messages.message().await? {
        text.push_str(&message);
        text.push(' ');
    }
    Ok(tonic::Response::new(text))
}

async fn echoed(
    request: tonic::Request<Streaming<String>>,
) -> Result<tonic::Response<Streaming<String>>, Status> {
    Ok(tonic::Response::new(request.into_inner()))
}

async fn call(
    noted: Arc<Noted>,
    request: Request<Incoming>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(Text);
    Ok(match request.uri().path() {
        "/test.Echo/Unary" => {
            grpc.unary(tower_fn(move |request| unary(Arc::clone(&noted), request)), request).await
        }
        "/test.Echo/Many" => grpc.server_streaming(tower_fn(many), request).await,
        "/test.Echo/Joined" => grpc.client_streaming(tower_fn(joined), request).await,
        _ => grpc.streaming(tower_fn(echoed), request).await,
    })
}

/// An endpoint that serves the calls, by TLS where its protocol wants it.
async fn endpoint(protocol: Protocol) -> (SocketAddr, Arc<Noted>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let noted = Arc::<Noted>::default();
    let of_calls = Arc::clone(&noted);
    let tls = (protocol == Protocol::Http2).then(|| endpoint_tls(HTTP_2));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (noted, tls) = (Arc::clone(&of_calls), tls.clone());
            tokio::spawn(async move {
                let calls = service_fn(move |request| call(Arc::clone(&noted), request));
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A connection's end is its client's matter.
                let _ = match tls {
                    Some(tls) => {
                        let stream = TokioIo::new(tls.accept(stream).await.unwrap());
                        builder.serve_connection(stream, calls).await
                    }
                    None => builder.serve_connection(TokioIo::new(stream), calls).await,
                };
            });
        }
    });
    (address, noted)
}

type Client = tonic::client::Grpc<Channel>;

/// A client that dials the front-end by TLS.
async fn client(stand: &Arc<Stand>) -> Client {
    let stand = Arc::clone(stand);
    let connector = tower_fn(move |_: Uri| {
        let stand = Arc::clone(&stand);
        async move { Ok::<_, Infallible>(TokioIo::new(stand.dial_tls(HTTP_2).await)) }
    });
    let endpoint = Endpoint::from_static("https://shop.example");
    let mut client = tonic::client::Grpc::new(endpoint.connect_with_connector(connector).await.unwrap());
    client.ready().await.unwrap();
    client
}

async fn asked(
    client: &mut Client,
    request: tonic::Request<String>,
) -> Result<tonic::Response<String>, Status> {
    client.ready().await.unwrap();
    client.unary(request, PathAndQuery::from_static("/test.Echo/Unary"), Text).await
}

/// Both ways to an endpoint that speak HTTP/2, and therefore gRPC.
const PROTOCOLS: [Protocol; 2] = [Protocol::H2c, Protocol::Http2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unary_call_has_its_answer_and_its_status() {
    for protocol in PROTOCOLS {
        let (address, _) = endpoint(protocol).await;
        let mut client = client(&Arc::new(Stand::with(address, protocol))).await;
        let answer = asked(&mut client, tonic::Request::new("hello".into())).await.unwrap();
        assert_eq!(answer.metadata().get("x-answered").unwrap(), "yes");
        assert_eq!(answer.into_inner(), "hello", "{protocol:?}");
        let large = "x".repeat(LARGE_BYTES);
        let answer = asked(&mut client, tonic::Request::new(large.clone())).await.unwrap();
        assert!(answer.into_inner() == large, "{protocol:?}: a large message comes back whole");
        let status = asked(&mut client, tonic::Request::new("fail".into())).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such thing"), "{protocol:?}");
        assert_eq!(status.metadata().get("x-why").unwrap(), "it is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_answers_ends_with_the_status_in_its_trailers() {
    for protocol in PROTOCOLS {
        let (address, _) = endpoint(protocol).await;
        let mut client = client(&Arc::new(Stand::with(address, protocol))).await;
        for (message, code) in [("all", Code::Ok), ("fail", Code::NotFound)] {
            client.ready().await.unwrap();
            let path = PathAndQuery::from_static("/test.Echo/Many");
            let answer = client.server_streaming(tonic::Request::new(message.into()), path, Text);
            let mut messages: Streaming<String> = answer.await.unwrap().into_inner();
            for number in 0..MESSAGES {
                assert_eq!(messages.message().await.unwrap(), Some(number.to_string()), "{protocol:?}");
            }
            match messages.message().await {
                Ok(None) => assert_eq!(code, Code::Ok),
                Ok(Some(surplus)) => panic!("{surplus}"),
                Err(status) => {
                    assert_eq!((status.code(), status.message()), (code, "no such thing"));
                    assert_eq!(status.metadata().get("x-why").unwrap(), "it is gone");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_requests_has_one_answer() {
    for protocol in PROTOCOLS {
        let (address, _) = endpoint(protocol).await;
        let mut client = client(&Arc::new(Stand::with(address, protocol))).await;
        let messages = stream::iter((0..MESSAGES).map(|number| number.to_string()));
        let path = PathAndQuery::from_static("/test.Echo/Joined");
        let answer: tonic::Response<String> =
            client.client_streaming(tonic::Request::new(messages), path, Text).await.unwrap();
        let expected: String = (0..MESSAGES).map(|number| format!("{number} ")).collect();
        assert_eq!(answer.into_inner(), expected, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_a_stream_both_ways_passes_before_the_next_is_sent() {
    for protocol in PROTOCOLS {
        let (address, _) = endpoint(protocol).await;
        let mut client = client(&Arc::new(Stand::with(address, protocol))).await;
        let (mut sender, messages) = mpsc::channel(1);
        sender.send("first".to_owned()).await.unwrap();
        let path = PathAndQuery::from_static("/test.Echo/Both");
        let answer = client.streaming(tonic::Request::new(messages), path, Text).await.unwrap();
        let mut echoes: Streaming<String> = answer.into_inner();
        assert_eq!(echoes.next().await.unwrap().unwrap(), "first", "{protocol:?}");
        for number in 0..MESSAGES {
            sender.send(number.to_string()).await.unwrap();
            let echo = tokio::time::timeout(DEADLINE, echoes.next()).await.expect("an echo in time");
            assert_eq!(echo.unwrap().unwrap(), number.to_string(), "{protocol:?}");
        }
        drop(sender);
        assert!(echoes.next().await.is_none(), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_deadline_is_over_ends_at_the_endpoint_too() {
    for protocol in PROTOCOLS {
        let (address, noted) = endpoint(protocol).await;
        let mut client = client(&Arc::new(Stand::with(address, protocol))).await;
        let mut request = tonic::Request::new("wait".to_owned());
        request.set_timeout(Duration::from_millis(300));
        let status = asked(&mut client, request).await.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{protocol:?}: {status}");
        let ended = tokio::time::timeout(DEADLINE, async {
            while !noted.was_cancelled.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
        });
        ended.await.expect("the endpoint's call ends");
        assert!(noted.had_deadline.load(Ordering::SeqCst), "{protocol:?}: the endpoint is told the deadline");
        // The connection serves on.
        let answer = asked(&mut client, tonic::Request::new("next".into())).await.unwrap();
        assert_eq!(answer.into_inner(), "next", "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_longer_than_its_backend_service_allows_exceeds_its_deadline() {
    let (address, noted) = endpoint(Protocol::H2c).await;
    let mut limited = service(address, Protocol::H2c);
    limited.request_timeout = Duration::from_millis(200);
    let settings = Settings { threads: 1, ..Settings::default() };
    let mut client = client(&Arc::new(Stand::of(settings, limited))).await;
    let status = asked(&mut client, tonic::Request::new("wait".into())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "the endpoint took too long"));
    let ended = tokio::time::timeout(DEADLINE, async {
        while !noted.was_cancelled.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    });
    ended.await.expect("the endpoint's call ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_front_end_are_statuses_that_a_client_reads() {
    let nobody = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let stand = Arc::new(Stand::with(nobody, Protocol::H2c));
    let mut client = client(&stand).await;
    let empty = BackendService::new("shop/web:80", Vec::new());
    let rule = |service| {
        let host = HostPattern::Exact(HOST.into());
        UrlMap::new(vec![HostRule { host, paths: Vec::new(), default: Some(Route::to(service)) }], None)
    };
    let cases = [
        (
            rule(service(nobody, Protocol::H2c)),
            Code::Unavailable,
            "no endpoint could be connected to",
            "connect-failed",
        ),
        (rule(empty), Code::Unavailable, "no endpoint serves this now", "no-endpoint"),
        (UrlMap::new(Vec::new(), None), Code::Unimplemented, "no rule takes this host and path", "no-rule"),
    ];
    for (url_map, code, message, reason) in cases {
        stand.serve(url_map);
        let status = asked(&mut client, tonic::Request::new("hello".into())).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
        assert_eq!(status.metadata().get(REASON.as_str()).unwrap(), reason);
    }
}
