//! Memory for what is read and written without waiting, of which a thread needs one piece for all its connections.
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once: an answer of 64 KiB with its head, which leaves with one write then.
const READ_BYTES: usize = 128 * 1024;
/// Requests' bytes that are kept for the next request, for each thread.
const SPARE_MAX: usize = 256;
/// Of a request that was longer nothing is kept, bytes.
const SPARE_BYTES_MAX: usize = 4 * 1024;

/// A thread's.
#[derive(Debug)]
pub(in crate::l7::serve) struct Rooms {
    /// What was read last.
    read: RefCell<Box<[u8]>>,
    /// What is written next.
    pub(super) written: RefCell<Vec<u8>>,
    /// For bytes that outlive a wait.
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            read: RefCell::new(vec![0; READ_BYTES].into()),
            written: RefCell::default(),
            spare: RefCell::default(),
        }
    }
}

impl Rooms {
    /// Reads what there is; how many bytes. They stay until the task waits.
    pub(in crate::l7::serve) fn poll_read(
        &self,
        from: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut read = self.read.borrow_mut();
        let mut buffer = ReadBuf::new(&mut read);
        ready!(from.poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Looks at the bytes that were read.
    pub(in crate::l7::serve) fn with_read<T>(&self, length: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.read.borrow()[..length])
    }

    /// The bytes that were read, to be kept.
    pub(in crate::l7::serve) fn copy(&self, length: usize) -> Vec<u8> {
        self.with_read(length, <[u8]>::to_vec)
    }

    /// An empty piece.
    pub(in crate::l7::serve) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// A piece that is not needed any more.
    pub(in crate::l7::serve) fn put_back(&self, mut piece: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&piece.capacity()) {
            piece.clear();
            spare.push(piece);
        }
    }

    /// Sends all of `written`, and these of the bytes that were read. Of what does not go at once a copy is kept.
    pub(super) async fn send(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        lent: Range<usize>,
    ) -> io::Result<()> {
        let mut rest = None;
        poll_fn(|cx| match &mut rest {
            None => {
                let (written, read) = (self.written.borrow(), self.read.borrow());
                let (mut sent, lent) = (0, &read[lent.clone()]);
                let polled = poll_write_both(Pin::new(&mut *to), cx, &written, lent, &mut sent);
                if polled.is_pending() {
                    let of_lent = sent.saturating_sub(written.len());
                    rest = Some(([&written[sent.min(written.len())..], &lent[of_lent..]].concat(), 0));
                }
                polled
            }
            Some((bytes, sent)) => poll_write(Pin::new(&mut *to), cx, bytes, sent),
        })
        .await?;
        poll_fn(|cx| Pin::new(&mut *to).poll_flush(cx)).await
    }
}

/// Writes what comes after the `sent` bytes of two pieces.
fn poll_write_both<W: AsyncWrite>(
    mut to: Pin<&mut W>,
    cx: &mut Context<'_>,
    first: &[u8],
    second: &[u8],
    sent: &mut usize,
) -> Poll<io::Result<()>> {
    if second.is_empty() {
        return poll_write(to, cx, first, sent);
    }
    while *sent < first.len() {
        let pieces = [IoSlice::new(&first[*sent..]), IoSlice::new(second)];
        match ready!(to.as_mut().poll_write_vectored(cx, &pieces))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => *sent += length,
        }
    }
    let mut of_second = *sent - first.len();
    let polled = poll_write(to, cx, second, &mut of_second);
    *sent = first.len() + of_second;
    polled
}

/// Writes what comes after the `sent` bytes.
pub(in crate::l7::serve) fn poll_write<W: AsyncWrite>(
    mut to: Pin<&mut W>,
    cx: &mut Context<'_>,
    bytes: &[u8],
    sent: &mut usize,
) -> Poll<io::Result<()>> {
    while *sent < bytes.len() {
        match ready!(to.as_mut().poll_write(cx, &bytes[*sent..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => *sent += length,
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use futures::task::noop_waker_ref;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Takes so many bytes of each write, and of the pieces of one as a socket does.
    struct Takes<W>(W, usize);

    impl<W: AsyncWrite + Unpin> AsyncWrite for Takes<W> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let length = bytes.len().min(self.1);
            Pin::new(&mut self.0).poll_write(cx, &bytes[..length])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn all_is_sent_in_order_whatever_is_taken_at_once() {
        let bytes = b"0123456789abcdefghij";
        for written in ["", "head"] {
            for lent in [0..0, 0..20, 3..9] {
                for taken in 1..bytes.len() {
                    for room in 1..bytes.len() {
                        let rooms = Rooms::default();
                        let mut cx = Context::from_waker(noop_waker_ref());
                        assert!(rooms.poll_read(Pin::new(&mut &bytes[..]), &mut cx).is_ready());
                        rooms.written.borrow_mut().extend_from_slice(written.as_bytes());
                        let (to, mut from) = duplex(room);
                        let mut to = Takes(to, taken);
                        let mut got = Vec::new();
                        let sending = async {
                            rooms.send(&mut to, lent.clone()).await.expect("a reader");
                            to.shutdown().await.expect("a reader");
                        };
                        let reading = async { from.read_to_end(&mut got).await.expect("a writer") };
                        // What it waits with is a copy: the room is another one's by now.
                        let mut sending = pin!(sending);
                        let reading = pin!(reading);
                        if sending.as_mut().now_or_never().is_none() {
                            rooms.read.borrow_mut().fill(0);
                            rooms.written.borrow_mut().clear();
                            futures::join!(sending, reading);
                        } else {
                            reading.await;
                        }
                        let expected = [written.as_bytes(), &bytes[lent.clone()]].concat();
                        assert_eq!(got, expected, "{written:?} {lent:?} {taken} {room}");
                    }
                }
            }
        }
    }
}
