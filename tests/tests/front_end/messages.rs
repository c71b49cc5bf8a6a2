//! HTTP/1 byte by byte: a client, and an endpoint that is told what to answer.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::stand::dial;

/// A request or an answer as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Request or status line.
    pub(crate) start: String,
    /// Names in lower case, values without space around them.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn code(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads a message's head; none at the connection's end.
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            let has_begun = !message.start.is_empty();
            return if has_begun { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
        }
        let line = latin_1(&line).trim_end_matches(['\r', '\n']).to_owned();
        if message.start.is_empty() {
            message.start = line;
        } else if line.is_empty() {
            return Ok(Some(message));
        } else {
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            message.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// Each byte is a character: a field's value may have any.
fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Reads the body that a head announces, and a chunked one's trailers among the fields.
pub(crate) fn read_body(reader: &mut impl BufRead, message: &mut Message) -> io::Result<()> {
    if message.field("transfer-encoding") != Some("chunked") {
        let length = message.field("content-length").and_then(|length| length.parse().ok());
        message.body = vec![0; length.unwrap_or(0)];
        return reader.read_exact(&mut message.body);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
        if size == 0 {
            break;
        }
        let begin = message.body.len();
        message.body.resize(begin + size, 0);
        reader.read_exact(&mut message.body[begin..])?;
        reader.read_exact(&mut [0; 2])?;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                message.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            None => return Ok(()),
        }
    }
}

/// What becomes of an endpoint's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Stays,
    Closes,
}

/// An endpoint that answers each request with bytes.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Scripted {
    pub(crate) fn start(answer: impl Fn(&Message) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let (noted, answer) = (Arc::clone(&seen), Arc::new(answer));
        // It ends with the test's process: it holds nothing but a loopback socket.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                thread::spawn(move || {
                    let _ = serve(stream, &noted, &*answer);
                });
            }
        });
        Self { address, seen }
    }

    /// One that says what it was asked.
    pub(crate) fn telling() -> Self {
        Self::start(|request| (ok(&request.start), Then::Stays))
    }

    /// The requests that it has read.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Message {
        self.seen().pop().expect("a request")
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Message>>,
    answer: &dyn Fn(&Message) -> (Vec<u8>, Then),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(mut request) = read_head(&mut reader)? {
        read_body(&mut reader, &mut request)?;
        seen.lock().unwrap().push(request.clone());
        let (bytes, then) = answer(&request);
        stream.write_all(&bytes)?;
        if then == Then::Closes {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
    Ok(())
}

/// An answer with a body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A client of the front-end.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn dial(to: SocketAddr) -> Self {
        let stream = dial(to);
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next answer, to a HEAD request without a body.
    pub(crate) fn answer(&mut self, method: &str) -> io::Result<Message> {
        let mut answer = read_head(&mut self.reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if method != "HEAD" && !matches!(answer.code(), 100..200 | 204 | 304) {
            read_body(&mut self.reader, &mut answer)?;
        }
        Ok(answer)
    }

    pub(crate) fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        let answer = self.answer(request.split(' ').next().unwrap_or_default());
        answer.unwrap_or_else(|error| panic!("{error} after {request:?}"))
    }

    /// Whether the connection is over: it ends without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
