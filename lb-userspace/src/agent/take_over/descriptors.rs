//! Listening sockets from one process to another, over a Unix socket.
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, bail};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::l7::serve::ListeningSockets;

/// Descriptors of one message; the kernel takes 253 (`SCM_MAX_FD`). A listener with more sockets has several messages.
const DESCRIPTORS_MAX: usize = 64;
/// Most bytes of a line: an address and a number are far fewer, an error's text may be longer.
const LINE_BYTES_MAX: usize = 4_096;

/// A line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Part {
    /// Some sockets of a listener; as many descriptors come with the line.
    Listener { address: SocketAddr, sockets: usize },
    /// What an agent says that cannot be taken over from.
    Error(String),
    /// All were sent.
    End,
}

/// Sends sockets. Those of the caller stay open.
///
/// # Errors
/// The other side is gone.
pub(super) fn send(to: &UnixStream, sockets: &ListeningSockets) -> Result<()> {
    for (address, sockets) in sockets {
        for some in sockets.chunks(DESCRIPTORS_MAX) {
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
            send_part(to, &Part::Listener { address: *address, sockets: some.len() }, &descriptors)?;
        }
    }
    send_part(to, &Part::End, &[])
}

fn send_part(to: &UnixStream, part: &Part, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut line = serde_json::to_vec(part)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        bail!("no room for {} descriptors", descriptors.len());
    }
    let sent = sendmsg(to, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)
        .context("cannot send listening sockets")?;
    if sent != line.len() {
        bail!("cannot send listening sockets: {sent} of {} bytes were taken", line.len());
    }
    Ok(())
}

/// Receives what [`send`] sent.
///
/// # Errors
/// The other side is gone, is silent for longer than the stream's time-out, refuses, or sends something else.
pub(super) fn receive(from: &UnixStream) -> Result<ListeningSockets> {
    let mut sockets = ListeningSockets::new();
    let mut line = Vec::new();
    let mut descriptors = VecDeque::new();
    loop {
        receive_some(from, &mut line, &mut descriptors)?;
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            let part = serde_json::from_slice(&line).context("not understood")?;
            line = rest;
            match part {
                Part::Listener { address, sockets: count } if count <= descriptors.len() => {
                    let some = descriptors.drain(..count).map(TcpListener::from);
                    sockets.entry(address).or_default().extend(some);
                }
                Part::Listener { address, sockets } => {
                    bail!("{} of {sockets} sockets came for {address}", descriptors.len());
                }
                Part::Error(error) => bail!("it refuses: {error}"),
                Part::End => return Ok(sockets),
            }
        }
        if line.len() > LINE_BYTES_MAX {
            bail!("a line is longer than {LINE_BYTES_MAX} bytes");
        }
    }
}

fn receive_some(from: &UnixStream, line: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> Result<()> {
    let mut bytes = [0; LINE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let came = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
        .context("cannot receive listening sockets")?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    if came.bytes == 0 {
        bail!("it ended before it had sent all");
    }
    line.extend_from_slice(&bytes[..came.bytes]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn listening(count: usize) -> (SocketAddr, Vec<TcpListener>) {
        let sockets: Vec<_> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a socket")).collect();
        (sockets[0].local_addr().expect("an address"), sockets)
    }

    #[test]
    fn connections_that_wait_go_with_their_socket() {
        let (address, sockets) = listening(1);
        let mut waiting = TcpStream::connect(address).expect("a connection");
        waiting.write_all(b"hello").expect("room");
        let (one, other) = UnixStream::pair().expect("a pair");
        let given = ListeningSockets::from([(address, sockets)]);
        send(&one, &given).expect("sent");
        let taken = receive(&other).expect("sockets");
        drop(given);
        let (mut accepted, _) = taken[&address][0].accept().expect("the connection");
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).expect("its bytes");
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn more_sockets_than_a_message_takes_come_in_several() {
        let (address, sockets) = listening(2 * DESCRIPTORS_MAX + 1);
        let (second, others) = listening(3);
        let (one, other) = UnixStream::pair().expect("a pair");
        let ports = |sockets: &[TcpListener]| {
            let mut ports: Vec<u16> =
                sockets.iter().map(|socket| socket.local_addr().expect("an address").port()).collect();
            ports.sort_unstable();
            ports
        };
        let expected = [ports(&sockets), ports(&others)];
        send(&one, &ListeningSockets::from([(address, sockets), (second, others)])).expect("sent");
        let taken = receive(&other).expect("sockets");
        assert_eq!([ports(&taken[&address]), ports(&taken[&second])], expected);
    }

    #[test]
    fn no_sockets_are_an_answer_and_a_refusal_or_an_end_is_none() {
        let (one, other) = UnixStream::pair().expect("a pair");
        send(&one, &ListeningSockets::new()).expect("sent");
        assert!(receive(&other).expect("an answer").is_empty());
        for (said, expected) in [
            ("{\"error\":\"no request: unknown variant\"}\n", "it refuses: no request: unknown variant"),
            (
                "{\"listener\":{\"address\":\"192.0.2.1:80\",\"sockets\":1}}\n",
                "0 of 1 sockets came for 192.0.2.1:80",
            ),
            ("{\"listener\":", "it ended before it had sent all"),
        ] {
            let (mut one, other) = UnixStream::pair().expect("a pair");
            one.write_all(said.as_bytes()).expect("room");
            drop(one);
            assert_eq!(receive(&other).expect_err("no sockets").to_string(), expected);
        }
    }
}
