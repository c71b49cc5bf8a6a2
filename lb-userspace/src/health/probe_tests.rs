use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, Response};
use http_body_util::{Collected, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1 as server_1, http2 as server_2};
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Longer than any answer here takes.
const LONG: Duration = Duration::from_secs(20);
/// For what never answers.
const SHORT: Duration = Duration::from_millis(100);

fn http(transport: HttpTransport, path: &str) -> CheckKind {
    let expected_codes = Arc::new([(200, 299), (401, 401)]);
    CheckKind::Http { transport, path: path.into(), host: Some("pod.example".into()), expected_codes }
}

fn grpc_check(service: &str) -> CheckKind {
    CheckKind::Grpc { is_tls: false, service: service.into() }
}

fn passed(reason: &str) -> Seen {
    Seen { code: ReasonCode::Passed, detail: reason.into() }
}

/// A server that does with each connection what it is told.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("its number");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// One that says `bytes` to whatever it is asked, and then waits.
async fn say(bytes: &'static [u8]) -> SocketAddr {
    serve(move |mut stream| async move {
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// The code is in the path; the request must be for the host that was asked for.
async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().host());
    let code =
        if host == Some("pod.example") { request.uri().path()[1..].parse().unwrap_or(404) } else { 421 };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(code).expect("a code");
    Ok(response)
}

async fn serve_1(stream: impl Stream) {
    let _ = server_1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn serve_2(stream: impl Stream) {
    let service = service_fn(answer);
    let _ =
        server_2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// A server's TLS with a certificate of its own making; with a client authority, it wants a certificate.
fn acceptor(protocol: &[u8], wants_certificate: bool) -> TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(["pod.example".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let certificate = own.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match wants_certificate {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let mut config = builder.with_single_cert(vec![certificate], key).expect("a server");
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve_tls(protocol: &'static [u8], wants_certificate: bool) -> SocketAddr {
    let acceptor = acceptor(protocol, wants_certificate);
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if protocol == tls::HTTP_2 { serve_2(stream).await } else { serve_1(stream).await }
        }
    })
    .await
}

/// Answers gRPC calls: `up` is serving, `down` is not, others are not known.
async fn health(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let asked = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let (state, status) = match asked.get(7..) {
        Some(b"up") => (1, "0"),
        Some(b"down") => (2, "0"),
        _ => (0, "5"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, state]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    Ok(Response::new(StreamBody::new(futures::stream::iter(frames))))
}

async fn serve_grpc() -> SocketAddr {
    serve(|stream| async {
        let builder = server_2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(health)).await;
    })
    .await
}

#[tokio::test]
async fn expected_codes_pass_over_every_transport() {
    let servers = [
        (HttpTransport::Http1, serve(serve_1).await),
        (HttpTransport::H2c, serve(serve_2).await),
        (HttpTransport::Https, serve_tls(tls::HTTP_1, false).await),
        (HttpTransport::Http2, serve_tls(tls::HTTP_2, false).await),
    ];
    for (transport, address) in servers {
        for (path, seen) in [("/200", passed("code 200")), ("/401", passed("code 401"))] {
            assert_eq!(ask(&http(transport, path), address, LONG).await, seen, "{transport:?}");
        }
        for path in ["/503", "/302", "/404"] {
            let seen = ask(&http(transport, path), address, LONG).await;
            let detail = format!("code {}", &path[1..]);
            assert_eq!(seen, Seen { code: ReasonCode::WrongCode, detail }, "{transport:?}");
        }
    }
}

#[tokio::test]
async fn grpc_service_passes_while_it_is_serving() {
    let address = serve_grpc().await;
    assert_eq!(ask(&grpc_check("up"), address, LONG).await, passed("serving"));
    for (service, code, detail) in
        [("down", ReasonCode::GrpcNotServing, "state 2"), ("gone", ReasonCode::GrpcStatus, "status 5")]
    {
        let seen = ask(&grpc_check(service), address, LONG).await;
        assert_eq!(seen, Seen { code, detail: detail.into() });
    }
}

#[tokio::test]
async fn server_that_wants_a_certificate_fails() {
    for (transport, protocol) in [(HttpTransport::Https, tls::HTTP_1), (HttpTransport::Http2, tls::HTTP_2)] {
        let address = serve_tls(protocol, true).await;
        let seen = ask(&http(transport, "/200"), address, LONG).await;
        assert_eq!(seen.code, ReasonCode::Tls, "{seen:?}");
        assert!(seen.detail.contains("received fatal alert: "), "{seen:?}");
    }
}

#[tokio::test]
async fn server_without_tls_fails_a_check_by_tls() {
    let address = serve(serve_1).await;
    assert_eq!(ask(&http(HttpTransport::Https, "/200"), address, LONG).await.code, ReasonCode::Tls);
}

#[tokio::test]
async fn server_that_never_answers_fails_at_the_timeout() {
    let address = say(b"").await;
    let checks = [
        http(HttpTransport::Http1, "/"),
        http(HttpTransport::Https, "/"),
        http(HttpTransport::H2c, "/"),
        http(HttpTransport::Http2, "/"),
        grpc_check(""),
    ];
    for check in checks {
        assert_eq!(ask(&check, address, SHORT).await.code, ReasonCode::Timeout, "{check:?}");
    }
    assert_eq!(ask(&CheckKind::Tcp, address, LONG).await, passed("connected"), "it accepts");
}

#[tokio::test]
async fn server_that_drips_fails_at_the_timeout() {
    let address = serve(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"a: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(ask(&http(HttpTransport::Http1, "/"), address, SHORT).await.code, ReasonCode::Timeout);
}

#[tokio::test]
async fn endless_headers_fail_before_the_timeout() {
    let address = serve(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\na: ").await;
        while stream.write_all(&[b'b'; 4_096]).await.is_ok() {}
    })
    .await;
    assert_eq!(ask(&http(HttpTransport::Http1, "/"), address, LONG).await.code, ReasonCode::Protocol);
}

#[tokio::test]
async fn endless_body_is_not_read() {
    let address = serve(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"4\r\nbbbb\r\n").await.is_ok() {}
    })
    .await;
    assert_eq!(ask(&http(HttpTransport::Http1, "/"), address, LONG).await, passed("code 200"));
}

#[tokio::test]
async fn endless_grpc_answer_fails_before_the_timeout() {
    let address = serve(|stream| async {
        let service = service_fn(|_| async {
            let frames = futures::stream::repeat_with(|| {
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 512])))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
        });
        let builder = server_2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    assert_eq!(ask(&grpc_check(""), address, LONG).await.code, ReasonCode::Protocol);
}

#[tokio::test]
async fn what_is_no_http_fails() {
    let address = say(b"220 mail.example ESMTP\r\n").await;
    assert_eq!(ask(&http(HttpTransport::Http1, "/"), address, LONG).await.code, ReasonCode::Protocol);
    assert_eq!(ask(&http(HttpTransport::H2c, "/"), address, LONG).await.code, ReasonCode::Protocol);
}

#[tokio::test]
async fn server_that_hangs_up_fails() {
    let address = serve(|stream| async { drop(stream) }).await;
    for transport in [HttpTransport::Http1, HttpTransport::H2c] {
        assert_eq!(ask(&http(transport, "/"), address, LONG).await.code, ReasonCode::Protocol);
    }
}

#[test]
fn lack_of_files_is_a_fault_of_this_node_and_a_refusal_is_not() {
    assert!(is_own_fault(&io::Error::from_raw_os_error(24)));
    assert!(!is_own_fault(&io::Error::from_raw_os_error(111)));
}

/// Most bytes of an answer without an end that leave a server: what a probe reads, and what the sockets hold.
const SENT_BYTES_MAX: usize = 256 * 1024;

/// A server that says `first` and then `again` for ever, and the bytes that it could send before the probe went.
async fn say_for_ever(first: &'static [u8], again: &'static [u8]) -> (SocketAddr, watch::Receiver<usize>) {
    let (sent, total) = watch::channel(0);
    let sent = Arc::new(sent);
    let address = serve(move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            // Its own buffer holds little.
            set_socket_send_buffer_size(&stream, 4_096).expect("a size");
            let mut all = stream.write(first).await.unwrap_or_default();
            while let Ok(count) = stream.write(again).await {
                all += count;
            }
            sent.send_replace(all);
        }
    })
    .await;
    (address, total)
}

#[tokio::test]
async fn little_is_read_of_an_answer_without_an_end() {
    // RFC 9113 §4.1: empty SETTINGS, and HEADERS of stream 1 that do not end.
    const HEADERS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x88";
    // CONTINUATION with a literal header that is not indexed (RFC 7541 §6.2.2).
    const CONTINUATION: &[u8] = b"\0\0\x05\x09\0\0\0\0\x01\0\x01a\x01b";
    let liars: [(&[u8], &[u8], CheckKind, ReasonCode); 4] = [
        (b"HTTP/1.1 200 OK\r\na: ", &[b'b'; 4_096], http(HttpTransport::Http1, "/"), ReasonCode::Protocol),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", http(HttpTransport::Http1, "/"), ReasonCode::Protocol),
        (b"HTTP/1.1 200 OK\r\n\r\n", &[b'b'; 4_096], http(HttpTransport::Http1, "/"), ReasonCode::Passed),
        (HEADERS, CONTINUATION, http(HttpTransport::H2c, "/"), ReasonCode::Protocol),
    ];
    for (first, again, check, code) in liars {
        let (address, mut total) = say_for_ever(first, again).await;
        let seen = ask(&check, address, LONG).await;
        assert_eq!(seen.code, code, "{seen:?}");
        timeout(LONG, total.changed()).await.expect("the probe hung up").expect("a server");
        let sent = *total.borrow();
        assert!(sent < SENT_BYTES_MAX, "{check:?}: {sent} bytes");
    }
}

#[tokio::test]
async fn redirect_to_itself_is_not_followed() {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    let address = serve(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut request = [0; 1_024];
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ =
                    stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let seen = ask(&http(HttpTransport::Http1, "/"), address, LONG).await;
    assert_eq!(seen, Seen { code: ReasonCode::WrongCode, detail: "code 302".into() });
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn probe_ends_by_a_reset_and_leaves_no_port_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("its number");
    let (seen, accepted) = tokio::join!(ask(&CheckKind::Tcp, address, LONG), listener.accept());
    assert_eq!(seen, passed("connected"));
    let (mut stream, _) = accepted.expect("the probe");
    let read = timeout(LONG, stream.read(&mut [0])).await.expect("it has ended");
    assert_eq!(read.expect_err("no orderly end").kind(), io::ErrorKind::ConnectionReset);
}

/// What pods answer: a code over HTTP/1.1 and over HTTP/2 (RFC 9113 §4.1), and a gRPC health check's answer.
const ANSWERS: [&[u8]; 3] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: pod\r\n\r\nok",
    b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x88",
    b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x07\0\0\0\0\0\x01\0\0\0\0\x02\x08\x01\
      \0\0\x0f\x01\x05\0\0\0\x01\x40\x0bgrpc-status\x010",
];

/// An answer with some bytes changed, added, or cut off.
fn changed(answer: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = answer.to_vec();
    for _ in 0..random.usize(..6) {
        let at = random.usize(..=bytes.len());
        match (random.u8(..4), bytes.get_mut(at)) {
            (0, _) => bytes.truncate(at),
            (1, _) => bytes.insert(at, random.u8(..)),
            (2, Some(byte)) => *byte ^= 1 << random.u8(..8),
            (_, Some(byte)) => *byte = random.u8(..),
            (_, None) => {}
        }
    }
    bytes
}

#[tokio::test]
async fn an_answer_changed_at_random_is_an_outcome_and_nothing_worse() {
    let kinds = [http(HttpTransport::Http1, "/200"), http(HttpTransport::H2c, "/200"), grpc_check("")];
    let mut passes = 0;
    for seed in 0..600 {
        let which = seed as usize % kinds.len();
        let bytes: Arc<[u8]> = changed(ANSWERS[which], &mut fastrand::Rng::with_seed(seed)).into();
        let to_send = Arc::clone(&bytes);
        let address = serve(move |mut stream| {
            let bytes = Arc::clone(&to_send);
            async move {
                // No answer comes before its question.
                let _ = stream.read(&mut [0; 1_024]).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let kind = kinds[which].clone();
        // A task, so that a panic comes with its seed.
        let seen = tokio::spawn(async move { ask(&kind, address, LONG).await }).await;
        let seen = seen.unwrap_or_else(|error| panic!("seed {seed}: {error}; {bytes:02x?}"));
        passes += u32::from(seen.code == ReasonCode::Passed);
    }
    assert!((20..580).contains(&passes), "one outcome is too seldom: {passes} passed");
}
