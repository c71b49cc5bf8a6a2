//! HTTP/1.1 by hand, since a test must be able to stop anywhere in an answer.
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::answer;
use super::store::{Gone, Resource};
use super::write::Body;
use super::{Fault, Request, Right, Shared, write};

const NOT_GRANTED: &str = "no role grants this";

/// Bytes that [`Fault::Drip`] sends at a time.
const DRIP_BYTES: usize = 16;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // A client that goes away in the middle is an error of nobody.
        tokio::spawn(async move { Connection::new(stream, shared)?.serve().await });
    }
}

/// One connection. Each answer closes it.
struct Connection {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared>,
    fault: Option<Fault>,
}

/// What is to know of a request's head.
struct Head {
    method: String,
    target: String,
    body_bytes: usize,
    content_type: String,
}

/// How far a watch is.
struct Progress {
    version: u64,
    disconnects: u64,
    bookmarks: u64,
    is_list_due: bool,
    /// The version that was asked for, as text.
    asked: Option<String>,
}

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), shared, fault: None })
    }

    async fn serve(mut self) -> io::Result<()> {
        let Head { method, target, body_bytes, content_type } = self.read_head().await?;
        if self.shared.lock().is_away {
            return Ok(());
        }
        if method != "GET" {
            let path = target.split('?').next().unwrap_or_default().to_owned();
            return self.write_object(&method, &path, body_bytes, &content_type).await;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut query = decode(query);
        let is_watch = query.get("watch").is_some_and(|value| value == "true" || value == "1");
        if self.is_refused(&method, path, is_watch) {
            return self.send_json(403, None, &answer::status(403, NOT_GRANTED)).await;
        }
        let Some((resource, namespace, "")) = Resource::of_path(path) else {
            return self.send_one(path).await;
        };
        if let Some(namespace) = namespace {
            let fields = query.entry("fieldSelector".to_owned()).or_default();
            fields.push_str(&format!(",metadata.namespace={namespace}"));
        }
        {
            let mut state = self.shared.lock();
            let request = Request { resource, is_watch, query: query.clone(), at: Instant::now() };
            state.requests.push(request);
            self.fault = state.faults.get_mut(&(resource, is_watch)).and_then(VecDeque::pop_front);
        }
        match self.fault.clone() {
            Some(Fault::Status(code, retry_after)) => {
                self.send_json(code, retry_after, &answer::status(code, "by the test")).await
            }
            Some(Fault::ProxyError(code)) => self.send(code, None, "upstream is on holiday").await,
            _ if is_watch => self.watch(resource, &query).await,
            _ => self.list(resource, &query).await,
        }
    }

    /// Notes what is asked for, and says whether nothing grants it.
    fn is_refused(&self, method: &str, path: &str, is_watch: bool) -> bool {
        let asked = Right::asked(method, path, is_watch);
        asked.is_some_and(|asked| !self.shared.lock().grants(asked))
    }

    /// The object of a path that is no list's: one that has no namespace.
    async fn send_one(&mut self, path: &str) -> io::Result<()> {
        let found = {
            let state = self.shared.lock();
            let of = |resource: Resource| {
                let name = path.strip_prefix(resource.path())?.strip_prefix('/')?;
                state.store.select(resource, &format!("metadata.name={name}")).into_iter().next()
            };
            Resource::ALL.into_iter().find_map(of)
        };
        match found {
            Some(object) => self.send_json(200, None, &object).await,
            None => self.send_json(404, None, &answer::status(404, "no such path")).await,
        }
    }

    async fn read_head(&mut self) -> io::Result<Head> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut body_bytes, mut content_type) = (0, String::new());
        while line != "\r\n" && !line.is_empty() {
            line.clear();
            self.stream.read_line(&mut line).await?;
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                body_bytes = length.trim().parse().map_err(io::Error::other)?;
            }
            if let Some(kind) = line.to_ascii_lowercase().strip_prefix("content-type:") {
                content_type = kind.trim().to_owned();
            }
        }
        Ok(Head { method, target, body_bytes, content_type })
    }

    /// Creates, replaces, patches or deletes an object.
    async fn write_object(
        &mut self,
        method: &str,
        path: &str,
        body_bytes: usize,
        content_type: &str,
    ) -> io::Result<()> {
        let mut body = vec![0; body_bytes];
        self.stream.read_exact(&mut body).await?;
        let body: Value = serde_json::from_slice(&body)?;
        // Not before the body is read: a socket that is closed with bytes unread resets the answer away.
        if self.is_refused(method, path, false) {
            return self.send_json(403, None, &answer::status(403, NOT_GRANTED)).await;
        }
        let body = if content_type.contains("strategic") { Body::Strategic(body) } else { Body::Plain(body) };
        let (code, answer) = {
            let mut state = self.shared.lock();
            write::write(&mut state, method, path, &body)
        };
        self.shared.tell_watches();
        self.send_json(code, None, &answer).await
    }

    async fn list(&mut self, resource: Resource, query: &BTreeMap<String, String>) -> io::Result<()> {
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let token = query.get("continue").map(String::as_str);
        let asked = query.get("resourceVersion").map(String::as_str);
        let page = self.shared.lock().listed_from(asked).page(resource, &selector(query), limit, token);
        match page {
            Ok(page) => self.send_json(200, None, &answer::list(resource, page)).await,
            Err(Gone) => {
                self.send_json(410, None, &answer::status(410, "the continue token is too old")).await
            }
        }
    }

    async fn watch(&mut self, resource: Resource, query: &BTreeMap<String, String>) -> io::Result<()> {
        let wants_list = query.get("sendInitialEvents").is_some_and(|value| value == "true");
        if wants_list && !self.shared.lock().streams_lists {
            let message =
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return self.send_json(422, None, &answer::status(422, message)).await;
        }
        let mut changed = self.shared.changed.subscribe();
        let mut progress = {
            let state = self.shared.lock();
            let from = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            let (disconnects, bookmarks) = (state.disconnects, state.bookmarks);
            let asked = query.get("resourceVersion").cloned();
            Progress { version: from, disconnects, bookmarks, is_list_due: wants_list, asked }
        };
        let is_refused = {
            let state = self.shared.lock();
            let is_gone = state.store.events_after(progress.version, resource, &selector(query)).is_err();
            state.refuses_old_watches && !wants_list && is_gone
        };
        if is_refused {
            return self.send_json(410, None, &answer::status(410, "too old resource version")).await;
        }
        self.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        loop {
            let (lines, is_last) = self.next_lines(&mut progress, resource, &selector(query));
            for line in &lines {
                self.write_chunk(line).await?;
            }
            if is_last {
                return self.write("0\r\n\r\n").await;
            }
            changed.changed().await.map_err(io::Error::other)?;
        }
    }

    /// What a watch has to tell now, and whether that ends it.
    fn next_lines(&self, progress: &mut Progress, resource: Resource, selector: &str) -> (Vec<String>, bool) {
        let gone = || vec![answer::event("ERROR", answer::status(410, "too old resource version"))];
        if self.fault == Some(Fault::GoneEvent) {
            return (gone(), true);
        }
        let mut state = self.shared.lock();
        if state.disconnects != progress.disconnects {
            return (Vec::new(), true);
        }
        let mut lines = Vec::new();
        if std::mem::take(&mut progress.is_list_due) {
            let listed = state.listed_from(progress.asked.as_deref());
            progress.version = listed.version();
            lines.extend(listed.texts(resource, selector).map(|text| answer::event("ADDED", text)));
            lines.push(answer::bookmark(resource, progress.version, true));
        }
        if state.is_behind_for(progress.asked.as_deref()) {
            return (lines, false);
        }
        match state.store.events_after(progress.version, resource, selector) {
            Ok(events) => lines.extend(events.iter().map(|(kind, object)| answer::event(kind, object))),
            Err(Gone) => return (gone(), true),
        }
        progress.version = state.store.version();
        if std::mem::replace(&mut progress.bookmarks, state.bookmarks) != state.bookmarks {
            lines.push(answer::bookmark(resource, progress.version, false));
        }
        (lines, false)
    }

    /// One chunk of a watch (RFC 9112 §7.1), or half of it.
    async fn write_chunk(&mut self, line: &str) -> io::Result<()> {
        if self.fault == Some(Fault::CutShort) {
            let half = &line[..line.len() / 2];
            self.write(&format!("{:x}\r\n{half}\r\n", half.len())).await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.write(&format!("{:x}\r\n{line}\r\n", line.len())).await
    }

    async fn send_json(&mut self, code: u16, retry_after_s: Option<u64>, body: &Value) -> io::Result<()> {
        self.send(code, retry_after_s, &body.to_string()).await
    }

    async fn send(&mut self, code: u16, retry_after_s: Option<u64>, body: &str) -> io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {code} Status\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if let Some(seconds) = retry_after_s {
            head += &format!("Retry-After: {seconds}\r\n");
        }
        let sent = if self.fault == Some(Fault::CutShort) { &body[..body.len() / 2] } else { body };
        self.write(&format!("{head}\r\n{sent}")).await
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        if self.fault != Some(Fault::Drip) {
            return self.stream.write_all(text.as_bytes()).await;
        }
        for piece in text.as_bytes().chunks(DRIP_BYTES) {
            self.stream.write_all(piece).await?;
            self.stream.flush().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The terms of both selectors.
fn selector(query: &BTreeMap<String, String>) -> String {
    let terms = ["labelSelector", "fieldSelector"].map(|name| query.get(name).map(String::as_str));
    terms.into_iter().flatten().collect::<Vec<_>>().join(",")
}

/// A query string to its parameters (`application/x-www-form-urlencoded`, ASCII).
fn decode(query: &str) -> BTreeMap<String, String> {
    let text = |encoded: &str| {
        let mut pieces = encoded.split('%');
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (hex, rest) = piece.split_at(2);
            text.push(char::from(u8::from_str_radix(hex, 16).expect("two hexadecimal digits")));
            text.push_str(rest);
        }
        text.replace('+', " ")
    };
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}
