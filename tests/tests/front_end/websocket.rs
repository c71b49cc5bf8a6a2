//! WebSocket, by tungstenite on both sides (RFC 6455).
use std::net::{Ipv4Addr, SocketAddr};

use futures::{SinkExt as _, StreamExt as _};
use lb_userspace::l7::serve::Protocol;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{accept_async, client_async};

use crate::stand::{HTTP_1, Stand, endpoint_tls};

/// Bytes of a message that takes many reads.
const LARGE_BYTES: usize = 1024 * 1024;

/// Sends messages back; `bye` is answered by a close with a code of the endpoint's own.
async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let sent = match &message {
            Message::Text(text) if text.as_str() == "bye" => {
                let frame = CloseFrame { code: CloseCode::Library(4_001), reason: "done".into() };
                socket.close(Some(frame)).await
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // The library answers these itself.
            _ => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
    // By TLS an end without a word is a cut.
    let _ = socket.get_mut().shutdown().await;
}

async fn endpoint(protocol: Protocol) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = (protocol == Protocol::Https).then(|| endpoint_tls(HTTP_1));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => echo(tls.accept(stream).await.unwrap()).await,
                    None => echo(stream).await,
                }
            });
        }
    });
    address
}

/// Has messages of all kinds sent back, and is closed as the endpoint says.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, what: &str) {
    let (mut socket, answer) = client_async("ws://shop.example/chat", stream).await.unwrap();
    assert_eq!(answer.status(), 101, "{what}");
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::binary(vec![0, 13, 10, 255]),
        Message::binary(vec![7; LARGE_BYTES]),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message, "{what}: {} bytes", message.len());
    }
    socket.send(Message::Ping(vec![1, 2, 3].into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![1, 2, 3].into()), "{what}");
    socket.send(Message::text("bye")).await.unwrap();
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("{what}: no close")
    };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Library(4_001), "done"), "{what}");
    assert!(socket.next().await.is_none(), "{what}: nothing follows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_kinds_pass_both_ways() {
    for protocol in [Protocol::Http, Protocol::Https] {
        let stand = Stand::with(endpoint(protocol).await, protocol);
        converse(TcpStream::connect(stand.plain).await.unwrap(), &format!("{protocol:?} in the clear")).await;
        converse(stand.dial_tls(HTTP_1).await, &format!("{protocol:?} by TLS")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_is_answered_by_the_endpoint() {
    let stand = Stand::with(endpoint(Protocol::Http).await, Protocol::Http);
    let stream = TcpStream::connect(stand.plain).await.unwrap();
    let (mut socket, _) = client_async("ws://shop.example/chat", stream).await.unwrap();
    let frame = CloseFrame { code: CloseCode::Away, reason: "enough".into() };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
    assert!(socket.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sockets_are_open_side_by_side() {
    let stand = Stand::with(endpoint(Protocol::Http).await, Protocol::Http);
    let sockets = (0..100).map(|_| async {
        let stream = TcpStream::connect(stand.plain).await.unwrap();
        client_async("ws://shop.example/chat", stream).await.unwrap().0
    });
    let mut sockets = futures::future::join_all(sockets).await;
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(number.to_string())).await.unwrap();
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(number.to_string()));
    }
}
