//! Requests of HTTP/1 that are passed on as bytes.
//!
//! Most requests of HTTP/1.1 come whole in one read, and nothing has to be decided of them but where they go. To make
//! objects of their fields, of their body and of two parsers' states, and bytes of these again, takes more time than
//! all that the front-end does for them. So such a request is read where it lies (by `httparse`, the reader that hyper
//! has too), its fields are copied to the endpoint's connection, and its answer comes back in the same way.
//!
//! What is anything else is hyper's, from its first byte on: other versions and methods, a body that comes in pieces,
//! requests that were sent before the last answer, upgrades, expectations, fields that have to be joined, clients that
//! are trusted, and backend services whose policies look at fields or add some ([`request`] has the whole list). Whatever
//! is refused is refused there, so that there is one place that does.
mod answer;
mod exchange;
mod request;
mod room;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use self::exchange::{Came, Exchange};
pub(super) use self::room::{Rooms, poll_write};
use super::client_stream::ClientStream;
use super::link::Link;
use super::parked::Parked;
use super::settings::Limits;

/// What comes after the requests that were passed on.
pub(super) enum Next {
    /// These bytes of the client, which hyper reads.
    Parsed(Vec<u8>),
    /// Nothing: the connection is to be closed.
    Close,
    /// Nothing: it broke off, and its client shall see that.
    Cut,
}

/// Passes requests on until one comes that is not plain.
pub(super) async fn serve<S>(
    stream: &mut ClientStream<S>,
    link: &Rc<Link>,
    limits: &Limits,
    closing: &mut watch::Receiver<()>,
) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = closing.clone();
    let mut closing = pin!(closing.changed());
    let mut is_told = false;
    loop {
        let asked = {
            let _parked = Parked::begin(&link.worker.shared.totals.parked);
            let mut read = pin!(poll_fn(|cx| link.worker.rooms.poll_read(Pin::new(&mut *stream), cx)));
            let first = poll_fn(|cx| match read.as_mut().poll(cx) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending if is_told => Poll::Pending,
                Poll::Pending => closing.as_mut().poll(cx).map(|_| None),
            });
            match first.await {
                Some(read) => read,
                None => {
                    is_told = true;
                    link.close_with_next_answer();
                    // The next request may be on its way. Its answer tells the client that it is the last.
                    if link.has_asked() {
                        let Ok(read) = timeout(limits.last_request_timeout, read).await else {
                            return Next::Close;
                        };
                        read
                    } else {
                        read.await
                    }
                }
            }
        };
        // Nothing waits from here on until the bytes in the thread's room were used.
        let length = match asked {
            Ok(length) if length > 0 => length,
            _ => return Next::Close,
        };
        let Some(exchange) = Exchange::begin(link, length, stream.is_between()) else {
            return Next::Parsed(link.worker.rooms.copy(length));
        };
        // A connection between requests has no room for one.
        match Box::pin(exchange.run(stream, &told)).await {
            Came::Whole => {}
            Came::WholeAndMore(bytes) | Came::Again(bytes) => return Next::Parsed(bytes),
            Came::Last => return Next::Close,
            Came::Broken => return Next::Cut,
        }
    }
}
