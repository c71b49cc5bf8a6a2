//! TLS and HTTP/2, on both sides.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::*;
use super::tls_fixture::*;
use super::*;
use crate::health::tls::{HTTP_1, HTTP_2};

fn tls_stand(settings: Settings, service: BackendService) -> Stand {
    let rules = vec![rule("shop.example", "/", Route::to(service))];
    Stand::start(settings, snapshot(https(&["shop.example"]), site(rules, Plain::Served)))
}

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http_2(stand: &Stand) -> Sender {
    let stream = dial(stand, "shop.example", HTTP_2).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HTTP_2));
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = made.expect("a connection");
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://shop.example{path}");
    Request::builder().uri(uri).body(Full::default()).expect("a request")
}

async fn text(answer: Response<Incoming>) -> String {
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How an endpoint of hyper's speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    H2c,
    Https,
    Http2,
}

/// An endpoint that answers with what it was asked, and counts its connections.
async fn hyper_endpoint(speaks: Speaks) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let acceptor = acceptor(if speaks == Speaks::Http2 { HTTP_2 } else { HTTP_1 });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match speaks {
                    Speaks::H2c => serve_http_2(TokioIo::new(stream)).await,
                    Speaks::Http2 => {
                        serve_http_2(TokioIo::new(acceptor.accept(stream).await.expect("TLS"))).await;
                    }
                    Speaks::Https => {
                        let stream = acceptor.accept(stream).await.expect("TLS");
                        let connection = hyper::server::conn::http1::Builder::new();
                        let _ = connection.serve_connection(TokioIo::new(stream), service_fn(told)).await;
                    }
                }
            });
        }
    });
    (address, accepted)
}

fn acceptor(protocol: &[u8]) -> TlsAcceptor {
    use rustls::pki_types::pem::PemObject as _;
    let (pem, key) = pem(&["pod.example"]);
    let chain =
        vec![rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config =
        builder.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve_http_2(stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static) {
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = connection.serve_connection(stream, service_fn(told)).await;
}

/// Says how it was asked; `/grpc` is answered as a gRPC call is, with trailers.
async fn told(request: Request<Incoming>) -> Result<Response<BoxBody>, Infallible> {
    let said = format!(
        "{:?} {} host={:?} te={:?} proto={:?} ",
        request.version(),
        request.uri(),
        request.headers().get("host"),
        request.headers().get("te"),
        request.headers().get("x-forwarded-proto"),
    );
    let is_grpc = request.uri().path() == "/grpc";
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let data = Ok::<_, Infallible>(Frame::data([said.as_bytes(), &body].concat().into()));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = if is_grpc { vec![data, Ok(Frame::trailers(trailers))] } else { vec![data] };
    Ok(Response::new(StreamBody::new(futures::stream::iter(frames)).boxed()))
}

type BoxBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn service_of(address: SocketAddr, protocol: Protocol) -> BackendService {
    let mut service = BackendService::new("shop/web:80", vec![Arc::new(Endpoint::new(address, 1))]);
    service.protocol = protocol;
    service
}

#[tokio::test]
async fn http_2_reaches_an_endpoint_of_http_1() {
    let web = RawEndpoint::named("web");
    let stand = tls_stand(one_thread(), BackendService::new("shop/web:80", vec![web.endpoint()]));
    let mut sender = http_2(&stand).await;
    let mut asked = request("/a?b");
    asked.headers_mut().append("cookie", http::HeaderValue::from_static("a=1"));
    asked.headers_mut().append("cookie", http::HeaderValue::from_static("b=2"));
    let answer = sender.send_request(asked).await.expect("an answer");
    assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
    assert_eq!(text(answer).await, "web GET /a?b HTTP/1.1");
    let seen = web.last();
    assert_eq!((seen.fields("host"), seen.fields("cookie")), (vec!["shop.example"], vec!["a=1; b=2"]));
    assert_eq!((seen.field("x-forwarded-proto"), seen.field("via")), (Some("https"), Some("2 podway")));
    assert_eq!(seen.field("x-forwarded-port"), Some(stand.address.port().to_string().as_str()));
    // No body, no framing.
    assert_eq!((seen.field("content-length"), seen.field("transfer-encoding")), (None, None));
}

#[tokio::test]
async fn http_1_over_tls_is_served() {
    let web = RawEndpoint::named("web");
    let stand = tls_stand(one_thread(), BackendService::new("shop/web:80", vec![web.endpoint()]));
    let mut stream = dial(&stand, "shop.example", HTTP_1).await;
    stream
        .write_all(get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("an answer with its end");
    assert!(String::from_utf8_lossy(&bytes).starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn endpoints_are_spoken_to_in_their_protocol() {
    let cases = [
        (
            Speaks::H2c,
            Protocol::H2c,
            "HTTP/2.0 http://shop.example/x host=None te=None proto=Some(\"https\") hello",
        ),
        (
            Speaks::Http2,
            Protocol::Http2,
            "HTTP/2.0 https://shop.example/x host=None te=None proto=Some(\"https\") hello",
        ),
        (
            Speaks::Https,
            Protocol::Https,
            "HTTP/1.1 /x host=Some(\"shop.example\") te=None proto=Some(\"https\") hello",
        ),
    ];
    for (speaks, protocol, said) in cases {
        let (address, accepted) = hyper_endpoint(speaks).await;
        let stand = tls_stand(one_thread(), service_of(address, protocol));
        let mut sender = http_2(&stand).await;
        for _ in 0..3 {
            let mut asked = request("/x");
            *asked.method_mut() = http::Method::POST;
            *asked.body_mut() = Full::from("hello");
            let answer = sender.send_request(asked).await.expect("an answer");
            assert_eq!(text(answer).await, said);
        }
        assert_eq!(accepted.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_offer_http_2_is_502() {
    let (address, _) = hyper_endpoint(Speaks::Https).await;
    let stand = tls_stand(one_thread(), service_of(address, Protocol::Http2));
    let answer = http_2(&stand).await.send_request(request("/")).await.expect("an answer");
    assert_eq!(
        (answer.status(), &answer.headers()["x-podway-reason"]),
        (StatusCode::BAD_GATEWAY, &"connect-failed".parse().expect("a value"))
    );
}

#[tokio::test]
async fn grpc_trailers_pass() {
    let (address, _) = hyper_endpoint(Speaks::H2c).await;
    let stand = tls_stand(one_thread(), service_of(address, Protocol::H2c));
    let mut asked = request("/grpc");
    asked.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    let answer = http_2(&stand).await.send_request(asked).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
    assert!(String::from_utf8_lossy(&body.to_bytes()).contains("te=Some(\"trailers\")"));
}

#[tokio::test]
async fn requests_share_a_connection_to_an_http_2_endpoint() {
    let (address, accepted) = hyper_endpoint(Speaks::H2c).await;
    let stand = tls_stand(one_thread(), service_of(address, Protocol::H2c));
    let sender = http_2(&stand).await;
    let answers = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move { sender.send_request(request("/")).await.expect("an answer").status() }
    });
    let codes = futures::future::join_all(answers).await;
    assert!(codes.iter().all(|code| *code == StatusCode::OK), "{codes:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_authority_that_disagrees_with_the_host_field_is_refused() {
    let web = RawEndpoint::named("web");
    let stand = tls_stand(one_thread(), BackendService::new("shop/web:80", vec![web.endpoint()]));
    let mut sender = http_2(&stand).await;
    for (host, code, reason) in [
        ("other.example", 400, Some("host-mismatch")),
        ("shop.example:444", 400, Some("host-mismatch")),
        ("shop.example:443", 200, None),
    ] {
        let mut asked = request("/");
        asked.headers_mut().insert("host", http::HeaderValue::from_static(host));
        let answer = sender.send_request(asked).await.expect("an answer");
        let said = answer.headers().get("x-podway-reason").map(|value| value.to_str().expect("text"));
        assert_eq!((answer.status().as_u16(), said), (code, reason), "{host}");
    }
}

#[tokio::test]
async fn a_client_that_gives_up_requests_too_fast_is_cut() {
    let web = RawEndpoint::start(|peer| {
        peer.request()?;
        std::io::Read::read(&mut peer.reader, &mut [0; 1]).map(|_| ())
    });
    let limits = Limits { resets_per_second_max: 10, ..Limits::default() };
    let endpoint = web.endpoint();
    let service = BackendService::new("shop/web:80", vec![Arc::clone(&endpoint)]);
    let stand = tls_stand(Settings { limits, ..one_thread() }, service);
    let mut sender = http_2(&stand).await;
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            if sender.ready().await.is_err() {
                return;
            }
            // Given up once the endpoint has it.
            let had = web.requests.lock().expect("requests").len();
            let answer = sender.send_request(request("/"));
            tokio::select! {
                answer = answer => if answer.is_err() { return },
                () = async {
                    while web.requests.lock().expect("requests").len() == had {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                } => {}
            }
        }
    });
    ended.await.expect("the connection is cut");
    let given_up = web.requests.lock().expect("requests").len();
    assert!((11..=20).contains(&given_up), "{given_up}");
    assert_eq!(stand.front_end.totals().resets_refused.load(Ordering::SeqCst), 1);
    eventually("nothing is left under way", || endpoint.in_flight() == 0);
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed_and_a_busy_one_is_not() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let web = RawEndpoint::start(move |peer| {
        while peer.request()?.is_some() {
            let _ = wait.lock().expect("a receiver").recv_timeout(Duration::from_millis(600));
            peer.answer("late")?;
        }
        Ok(())
    });
    let short = Duration::from_millis(200);
    let limits = Limits { idle_timeout: short, header_timeout: short, ..Limits::default() };
    let service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    let stand = tls_stand(Settings { limits, ..one_thread() }, service);
    let stream = dial(&stand, "shop.example", HTTP_2).await;
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = made.expect("a connection");
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request("/")).await.expect("an answer");
    assert_eq!(text(answer).await, "late");
    let ended = tokio::time::timeout(DEADLINE, connection).await.expect("in time");
    assert!(ended.expect("no panic").is_ok());
    drop(go);
}

#[tokio::test]
async fn streams_and_heads_of_http_2_have_bounds() {
    let web = RawEndpoint::named("web");
    let stand = tls_stand(one_thread(), BackendService::new("shop/web:80", vec![web.endpoint()]));
    let stream = dial(&stand, "shop.example", HTTP_2).await;
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = made.expect("a connection");
    let streams_max = Arc::new(AtomicUsize::new(0));
    let allowed = Arc::clone(&streams_max);
    let mut connection = Box::pin(connection);
    tokio::spawn(std::future::poll_fn(move |cx| {
        let ended = connection.as_mut().poll(cx).map(drop);
        allowed.store(connection.current_max_send_streams(), Ordering::SeqCst);
        ended
    }));
    // The second request looks at what came with the first answer.
    for _ in 0..2 {
        assert_eq!(sender.send_request(request("/")).await.expect("an answer").status(), StatusCode::OK);
    }
    assert_eq!(streams_max.load(Ordering::SeqCst), STREAMS_MAX as usize);
    let mut many = request("/");
    for _ in 0..=HEADERS_MAX {
        many.headers_mut().append("x", http::HeaderValue::from_static("1"));
    }
    let answer = sender.send_request(many).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let long = request(&format!("/{}", "a".repeat(URI_BYTES_MAX)));
    assert_eq!(sender.send_request(long).await.expect("an answer").status(), StatusCode::URI_TOO_LONG);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_stream_is_cut() {
    let web = RawEndpoint::start(|peer| {
        peer.request()?;
        let length = 64 * 1024 * 1024;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        std::io::Write::write_all(&mut peer.stream, head.as_bytes())?;
        std::io::Write::write_all(&mut peer.stream, &vec![b'x'; length])
    });
    let endpoint = web.endpoint();
    let limits = Limits { write_stall_timeout: Duration::from_millis(300), ..Limits::default() };
    let service = BackendService::new("shop/web:80", vec![Arc::clone(&endpoint)]);
    let stand = tls_stand(Settings { limits, ..one_thread() }, service);
    let mut sender = http_2(&stand).await;
    let answer = sender.send_request(request("/")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    // The connection itself goes on: other requests are answered meanwhile.
    let mut asked = request("/");
    *asked.uri_mut() = "https://none.example/".parse().expect("a URL");
    assert_eq!(sender.send_request(asked).await.expect("an answer").status(), StatusCode::NOT_FOUND);
    let cut = tokio::time::timeout(DEADLINE, async {
        while sender.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    cut.await.expect("the connection is cut");
    eventually("nothing is left under way", || endpoint.in_flight() == 0);
}

#[tokio::test]
async fn an_http_2_client_that_never_asks_is_closed() {
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let service = BackendService::new("shop/web:80", Vec::new());
    let stand = tls_stand(Settings { limits, ..one_thread() }, service);
    let mut stream = dial(&stand, "shop.example", HTTP_2).await;
    let mut bytes = Vec::new();
    let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    assert!(closed.is_ok(), "in time");
}
