//! Large bodies over HTTP/2 on both sides, in flat memory.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::alone::Alone;
use crate::bulk::{GROWTH_KIB_MAX, PIECE_BYTES};
use crate::stand::HOST;

/// MiB of a body where nobody says otherwise: a GiB takes its time in a build for tests.
const BODY_MIB: usize = 256;
/// How many a run is to take.
const ASKED: &str = "PODWAY_BULK_MIB";
/// Bytes that are given to HTTP/2 at a time.
const CHUNK_BYTES: usize = 16 * 1024;

type Pieces = std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// A body of that many bytes.
fn body(bytes: usize) -> StreamBody<Pieces> {
    let whole = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    let lengths = (0..bytes).step_by(CHUNK_BYTES).map(move |begin| CHUNK_BYTES.min(bytes - begin));
    StreamBody::new(stream::iter(lengths.map(move |length| Ok(Frame::data(whole.slice(..length))))).boxed())
}

/// How long a body is.
async fn taken<B: Body<Data = Bytes, Error = hyper::Error> + Unpin>(mut body: B) -> usize {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    bytes
}

/// Says how long a body was, or sends one as long as its path says.
async fn answer(request: Request<Incoming>) -> Result<Response<StreamBody<Pieces>>, Infallible> {
    let wanted = request.uri().path().trim_start_matches('/').parse().ok();
    let taken = taken(request.into_body()).await;
    let mut response = Response::new(body(wanted.unwrap_or(0)));
    response.headers_mut().insert("x-taken", taken.into());
    Ok(response)
}

async fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    address
}

async fn download(client: &mut SendRequest<StreamBody<Pieces>>, bytes: usize) {
    let request = Request::get(format!("https://{HOST}/{bytes}")).body(body(0)).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), taken(response.into_body()).await), (200, bytes));
}

async fn upload(client: &mut SendRequest<StreamBody<Pieces>>, bytes: usize) {
    let request = Request::post(format!("https://{HOST}/")).body(body(bytes)).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["x-taken"], HeaderValue::from(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_over_http_2_in_each_direction_in_flat_memory() {
    let asked = std::env::var(ASKED).ok().map(|text| text.parse().expect(ASKED));
    let bytes = asked.unwrap_or(BODY_MIB) * 1024 * 1024;
    let front_end = Alone::start(endpoint().await, &["--tls", "--h2c"]);
    let stream = TokioIo::new(front_end.dial_http_2().await);
    let (mut client, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    download(&mut client, 8 * PIECE_BYTES).await;
    upload(&mut client, 8 * PIECE_BYTES).await;
    let before_kib = front_end.memory_kib("VmRSS");
    for direction in ["down", "up"] {
        match direction {
            "down" => download(&mut client, bytes).await,
            _ => upload(&mut client, bytes).await,
        }
        let growth_kib = front_end.memory_kib("VmHWM").saturating_sub(before_kib);
        assert!(growth_kib < GROWTH_KIB_MAX, "{direction}: {before_kib} KiB grew by {growth_kib} KiB");
    }
    front_end.finish();
}
