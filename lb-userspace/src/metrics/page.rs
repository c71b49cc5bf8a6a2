//! What can be asked for, and in which form.
use http::{HeaderMap, header};

/// One of the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Everything but single endpoints.
    Node,
    /// Traffic of each endpoint.
    Endpoints,
}

impl Page {
    /// The page at a path.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/metrics" => Some(Self::Node),
            "/metrics/endpoints" => Some(Self::Endpoints),
            _ => None,
        }
    }
}

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older form, which every reader knows.
    Prometheus,
}

impl Format {
    /// What a client asks for. Prometheus says that it takes OpenMetrics; a person with curl says nothing.
    #[must_use]
    pub fn accepted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = accepted.flat_map(|value| value.split(','));
        if kinds.any(|kind| kind.trim_start().starts_with("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}
