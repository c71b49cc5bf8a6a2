//! Memory for what is read and written without waiting, of which a thread needs one piece for all its connections.
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::l7::serve::settings::HEAD_BUFFER_BYTES;

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
            read: RefCell::new(vec![0; HEAD_BUFFER_BYTES].into()),
            written: RefCell::default(),
            spare: RefCell::default(),
        }
    }
}

impl Rooms {
    /// Reads what there is; how many bytes. They stay until the task waits.
    pub(super) fn poll_read(
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
    pub(super) fn with_read<T>(&self, length: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.read.borrow()[..length])
    }

    /// The bytes that were read, to be kept.
    pub(super) fn copy(&self, length: usize) -> Vec<u8> {
        self.with_read(length, <[u8]>::to_vec)
    }

    /// An empty piece.
    pub(super) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// A piece that is not needed any more.
    pub(super) fn put_back(&self, mut piece: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&piece.capacity()) {
            piece.clear();
            spare.push(piece);
        }
    }

    /// Sends all of `written`.
    pub(super) async fn send_written(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        send(to, |write| write(&self.written.borrow())).await
    }
}

/// Sends bytes that `with` lends, and takes a copy of those for which there is no room yet.
async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    with: impl Fn(&mut dyn FnMut(&[u8]) -> Poll<io::Result<()>>) -> Poll<io::Result<()>>,
) -> io::Result<()> {
    let mut rest = None;
    poll_fn(|cx| match &mut rest {
        None => with(&mut |bytes| {
            let mut sent = 0;
            let polled = poll_write(Pin::new(&mut *to), cx, bytes, &mut sent);
            if polled.is_pending() {
                rest = Some((bytes[sent..].to_vec(), 0));
            }
            polled
        }),
        Some((bytes, sent)) => poll_write(Pin::new(&mut *to), cx, bytes, sent),
    })
    .await?;
    poll_fn(|cx| Pin::new(&mut *to).poll_flush(cx)).await
}

/// Writes what comes after the `sent` bytes.
pub(super) fn poll_write<W: AsyncWrite>(
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
