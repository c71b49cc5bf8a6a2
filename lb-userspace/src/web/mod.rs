//! The page that shows a node's chains to a browser: what commands print as JSON, drawn.
//!
//! It changes nothing and asks nobody for a password, so it listens on the loopback interface unless it is told
//! otherwise. A page of another site that a browser of this host shows cannot read it either: a request must name an
//! address or `localhost` as its host (against DNS rebinding), and no answer allows another origin.
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::l7::Host;
use crate::plain_server::{self, Place, Server, answer, plain};

/// Where the page is, unless it is said.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:10246";

/// What the page may ask for: resources of `podway get`.
const RESOURCES: [&str; 7] =
    ["frontends", "backend-services", "negs", "endpoints", "counters", "programs", "url-maps"];
/// Those of which a cluster has so many that only those of one backend service are told.
const OF_ONE_SERVICE: [&str; 3] = ["frontends", "negs", "endpoints"];
/// Bytes of a name that is looked for; no backend service has a longer one.
const FILTER_BYTES_MAX: usize = 512;

/// Nothing but the page's own parts is loaded, and nobody shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A resource, of all that there is or of what has a text in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question<'a> {
    resource: &'static str,
    filter: Option<&'a str>,
}

/// Serves the page at an address until what this returns is dropped; what it shows stands in these maps and with the agent of
/// this run directory.
///
/// # Errors
/// The system has no further thread.
pub fn start(address: SocketAddr, pin_path: PathBuf, run_dir: PathBuf) -> Result<Server> {
    let place = Place { what: "the page", flag: "--web-address", address };
    plain_server::start(place, move |request| {
        respond(request, |question| told(question, &pin_path, &run_dir))
    })
}

/// What the command prints.
fn told(question: Question<'_>, pin_path: &Path, run_dir: &Path) -> Result<String> {
    let (pin_path, run_dir) = (text(pin_path)?, text(run_dir)?);
    let command = ["get", question.resource, "-o", "json", "--pin-path", pin_path, "--run-dir", run_dir];
    // `--` ends the options: a filter may begin with anything.
    let filter = question.filter.into_iter().flat_map(|filter| ["--", filter]);
    crate::cli::printed(command.into_iter().chain(filter))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("cannot ask for what is in {}: it is not UTF-8", path.display()))
}

fn respond<B>(request: &Request<B>, told: impl Fn(Question<'_>) -> Result<String>) -> Response<String> {
    let mut response = if !is_meant(request) {
        let text = "the page is for its own address: open it by an IP address or as localhost\n";
        plain(StatusCode::FORBIDDEN, text.into())
    } else if request.method() != Method::GET {
        plain(StatusCode::METHOD_NOT_ALLOWED, "the page is read by GET\n".into())
    } else {
        let query = request.uri().query().unwrap_or_default();
        found(request.uri().path(), query, told)
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the request names an address, or `localhost`: the name of another site that leads here is none of ours.
fn is_meant<B>(request: &Request<B>) -> bool {
    let field = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let Some(Ok(host)) = field.map(Host::of) else { return false };
    let name = host.as_str().trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

fn found(path: &str, query: &str, told: impl Fn(Question<'_>) -> Result<String>) -> Response<String> {
    match path {
        "/" => answer(StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html").into()),
        "/page.js" => {
            answer(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page.js").into())
        }
        "/page.css" => answer(StatusCode::OK, "text/css; charset=utf-8", include_str!("page.css").into()),
        _ => match path.strip_prefix("/api/") {
            Some(resource) => data(resource, query, told),
            None => plain(StatusCode::NOT_FOUND, "there is no such page; the first is at /\n".into()),
        },
    }
}

fn data(resource: &str, query: &str, told: impl Fn(Question<'_>) -> Result<String>) -> Response<String> {
    let Some(resource) = RESOURCES.into_iter().find(|known| *known == resource) else {
        let text = format!("there is no {resource:?}; there are {}\n", RESOURCES.join(", "));
        return plain(StatusCode::NOT_FOUND, text);
    };
    let filter =
        query.strip_prefix("filter=").map(|raw| percent_encoding::percent_decode_str(raw).decode_utf8());
    let filter = match filter.transpose() {
        Ok(filter) => filter.filter(|filter| !filter.is_empty()),
        Err(_) => return plain(StatusCode::BAD_REQUEST, "the filter is not UTF-8\n".into()),
    };
    if filter.as_ref().is_some_and(|filter| filter.len() > FILTER_BYTES_MAX) {
        return plain(
            StatusCode::BAD_REQUEST,
            format!("the filter is longer than {FILTER_BYTES_MAX} bytes\n"),
        );
    }
    if filter.is_none() && OF_ONE_SERVICE.contains(&resource) {
        let text = format!("{resource} are told of one backend service: give its name as ?filter=NAME\n");
        return plain(StatusCode::BAD_REQUEST, text);
    }
    match told(Question { resource, filter: filter.as_deref() }) {
        Ok(text) => answer(StatusCode::OK, "application/json", text),
        Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str, host: Option<&str>) -> Response<String> {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        respond(&request.body(()).unwrap(), |question| match question.resource {
            "programs" => Err(anyhow::anyhow!("no maps are pinned")),
            _ => Ok(format!("{question:?}")),
        })
    }

    fn get(target: &str) -> (u16, String) {
        let response = ask("GET", target, Some("127.0.0.1:10246"));
        (response.status().as_u16(), response.into_body())
    }

    #[test]
    fn page_and_its_parts_are_there_and_load_nothing_else() {
        for (target, kind) in [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")]
        {
            let response = ask("GET", target, Some("localhost"));
            assert_eq!(response.status(), StatusCode::OK, "{target}");
            assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind), "{target}");
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY);
            assert!(
                !response.body().contains("://") || response.body().contains("http://www.w3.org/2000/svg")
            );
        }
        assert_eq!(get("/other").0, 404);
    }

    #[test]
    fn what_is_many_is_told_of_one_backend_service() {
        let (code, text) = get("/api/endpoints?filter=shop%2Fweb%3Ahttp%2FTCP");
        assert_eq!((code, text.contains("\"endpoints\"")), (200, true), "{text}");
        assert!(text.contains("Some(\"shop/web:http/TCP\")"), "{text}");
        for resource in OF_ONE_SERVICE {
            assert_eq!(get(&format!("/api/{resource}")).0, 400, "{resource}");
            assert_eq!(get(&format!("/api/{resource}?filter=")).0, 400, "{resource}");
        }
        assert_eq!(get("/api/backend-services").0, 200);
    }

    #[test]
    fn nothing_but_the_list_can_be_asked_for() {
        for target in ["/api/conntrack", "/api/", "/api/../etc", "/api/frontends%20-o"] {
            assert_eq!(get(target).0, 404, "{target}");
        }
        assert_eq!(get("/api/negs?filter=%ff").0, 400);
        assert_eq!(get(&format!("/api/negs?filter={}", "x".repeat(FILTER_BYTES_MAX + 1))).0, 400);
        assert_eq!(get("/api/programs"), (503, "no maps are pinned\n".to_owned()));
        assert_eq!(ask("POST", "/", Some("localhost")).status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn another_site_that_leads_here_is_refused() {
        for host in [Some("evil.example"), Some("localhost.evil.example"), None, Some("")] {
            let response = ask("GET", "/api/backend-services", host);
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{host:?}");
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY);
        }
        for host in ["[::1]:10246", "192.0.2.1", "LOCALHOST:80"] {
            assert_eq!(ask("GET", "/", Some(host)).status(), StatusCode::OK, "{host}");
        }
    }
}
