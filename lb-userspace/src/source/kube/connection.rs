//! The client of the API server, and how it holds back.
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::time::sleep;
use tower::limit::RateLimitLayer;
use tower::util::AndThenLayer;

use super::Settings;

/// Most requests in [`REQUESTS_PERIOD`]. Three watches need a handful and a list some pages; the bound
/// is for a server or proxy that ends each watch at once. At the bound requests wait.
const REQUESTS_MAX: u64 = 50;

/// See [`REQUESTS_MAX`].
const REQUESTS_PERIOD: Duration = Duration::from_secs(5);

/// Longest `Retry-After` that is honoured; a longer one counts as this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How much longer than a watch a connection may be silent.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);

/// A client that waits as a server asks with `Retry-After` and is otherwise honest about failures:
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
    let builder = ClientBuilder::try_from(config)?;
    let builder = builder.with_layer(&wait_as_asked);
    let builder = builder.with_layer(&RateLimitLayer::new(REQUESTS_MAX, REQUESTS_PERIOD));
    Ok(builder.build())
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3; the API server sends no dates).
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
