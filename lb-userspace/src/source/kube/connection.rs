//! The client of the API server, and how it holds back.
use std::time::Duration;

use http::Uri;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::sleep;
use tower::limit::RateLimitLayer;
use tower::util::{AndThenLayer, MapRequestLayer};

use super::Settings;

/// The period of [`Settings::requests_max`].
pub(crate) const REQUESTS_PERIOD: Duration = Duration::from_secs(5);

/// Longest `Retry-After` that is honoured; a longer one counts as this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How much longer than a watch a connection may be silent.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);

/// The parameter of a watch that wants a list first (KEP-3157).
const STREAMED_LIST: &str = "sendInitialEvents=true";

/// What [`kube::runtime::watcher`] asks for with it: a list of any age.
const ANY_VERSION: &str = "resourceVersion=0";

/// A client that asks for no list that is behind, waits as a server asks with `Retry-After` and is otherwise honest about failures:
/// the watches wait and try again themselves, so that each failure is known and logged.
pub(crate) fn client(mut config: Config, settings: &Settings) -> Result<Client, kube::Error> {
    config.default_retry = false;
    // A list has no end of its own: without this a server that hangs would hold it for ever.
    config.read_timeout = Some(settings.watch_timeout + SILENCE_MARGIN);
    config.reset_reader_on_write = true;
    let wait_as_asked = AndThenLayer::new(|response: http::Response<_>| async move {
        if let Some(delay) = retry_after(response.headers()) {
            sleep(delay).await;
        }
        Ok::<_, tower::BoxError>(response)
    });
    let ask_for_newest = MapRequestLayer::new(|mut request: http::Request<Body>| {
        if let Some(uri) = newest(request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    });
    let builder = ClientBuilder::try_from(config)?;
    let builder = builder.with_layer(&ask_for_newest);
    let builder = builder.with_layer(&wait_as_asked);
    let builder = builder.with_layer(&RateLimitLayer::new(settings.requests_max, REQUESTS_PERIOD));
    Ok(builder.build())
}

/// The same streamed list as new as etcd has it; `None` where a request is for nothing of any age.
///
/// One of several API servers may be behind. A list of any age from there would take away what is new, and give back
/// what is gone; without a version it is a consistent read, as a list in pages is (Kubernetes' API concepts,
/// "Streaming lists").
fn newest(uri: &Uri) -> Option<Uri> {
    let mut parameters: Vec<_> = uri.query()?.split('&').collect();
    if !parameters.contains(&STREAMED_LIST) || !parameters.contains(&ANY_VERSION) {
        return None;
    }
    parameters.retain(|parameter| *parameter != ANY_VERSION);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{}", uri.path(), parameters.join("&")).parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3; the API server sends no dates).
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest_of(uri: &str) -> Option<String> {
        newest(&uri.parse().expect("a URI")).map(|uri| uri.to_string())
    }

    #[test]
    fn streamed_list_of_any_age_becomes_one_of_the_newest_state() {
        let asked = "/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";
        let newest = "/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(newest_of(asked).as_deref(), Some(newest));
    }

    #[test]
    fn watch_from_a_version_is_left_as_it_is() {
        assert_eq!(newest_of("/api/v1/nodes?watch=true&resourceVersion=17"), None);
        assert_eq!(newest_of("/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersion=17"), None);
        assert_eq!(newest_of("/api/v1/nodes?watch=true&resourceVersion=0"), None);
        assert_eq!(newest_of("/api/v1/nodes"), None);
    }
}
