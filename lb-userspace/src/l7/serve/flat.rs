//! Short messages in one piece: a `send` takes the kernel less time than a `writev` of a head and a body.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest message that is put together, bytes; of a longer one the pieces are written as they are.
const FLAT_BYTES_MAX: usize = 1_024;

/// Writes `pieces`, or some of them, in the shortest way.
pub(super) fn poll_write<S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return stream.poll_write(cx, piece);
    }
    let mut flat = [0; FLAT_BYTES_MAX];
    let mut length = 0;
    for piece in pieces {
        let Some(place) = flat.get_mut(length..length + piece.len()) else {
            return stream.poll_write_vectored(cx, pieces);
        };
        place.copy_from_slice(piece);
        length += piece.len();
    }
    stream.poll_write(cx, &flat[..length])
}

/// A stream that is written to so.
#[derive(Debug)]
pub(super) struct Flat<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Flat<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flat<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write(Pin::new(&mut self.0), cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::poll_fn;

    use super::*;

    /// Notes what each write has: how many pieces, and their bytes.
    #[derive(Default)]
    struct Writes(Vec<(usize, Vec<u8>)>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push((1, bytes.to_vec()));
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let length = bytes.len();
            self.0.push((pieces.len(), bytes));
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn writes(pieces: &[&[u8]]) -> Vec<(usize, Vec<u8>)> {
        let pieces: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut writes = Writes::default();
        let written = poll_fn(|cx| poll_write(Pin::new(&mut writes), cx, &pieces)).now_or_never();
        assert_eq!(written.unwrap().unwrap(), pieces.iter().map(|piece| piece.len()).sum::<usize>());
        writes.0
    }

    #[test]
    fn a_short_message_is_one_piece() {
        assert_eq!(writes(&[b"head, ", b"", b"body"]), [(1, b"head, body".to_vec())]);
    }

    #[test]
    fn a_long_message_is_written_as_it_is() {
        let body = [7; FLAT_BYTES_MAX];
        assert_eq!(writes(&[b"head", &body]), [(2, [&b"head"[..], &body].concat())]);
    }
}
