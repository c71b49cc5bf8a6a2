//! Where scrapes are answered: over HTTP, on a thread of its own.
use std::net::SocketAddr;

use anyhow::Result;
use http::{Method, Request, Response, StatusCode};

use super::{Format, Page};
use crate::plain_server::{self, Place, Server, answer, plain};

/// Serves the texts that `text` gives, at an address, until what this returns is dropped.
///
/// # Errors
/// The system has no further thread.
pub fn start(
    address: SocketAddr,
    text: impl Fn(Page, Format) -> Result<String> + Send + Sync + 'static,
) -> Result<Server> {
    let place = Place { what: "metrics", flag: "--metrics-address", address };
    plain_server::start(place, move |request| response(request, &text))
}

fn response<B>(request: &Request<B>, text: impl Fn(Page, Format) -> Result<String>) -> Response<String> {
    let Some(page) = Page::at(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics and /metrics/endpoints\n".into());
    };
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read by GET\n".into());
    }
    let format = Format::accepted(request.headers());
    match text(page, format) {
        Ok(text) => answer(StatusCode::OK, format.content_type(), text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
