//! How requests to a backend service are treated.
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a BackendConfig says of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPolicy {
    /// `timeoutSec`: time from the whole request to the whole answer, seconds.
    #[serde(rename = "timeoutSeconds")]
    pub timeout_s: Option<u32>,
    /// `customRequestHeaders`: added to a request; a value may have variables in braces.
    pub request_headers: Vec<HeaderField>,
    /// `customResponseHeaders`: added to an answer, likewise.
    pub response_headers: Vec<HeaderField>,
    /// `sessionAffinity`.
    pub affinity: RequestAffinity,
    /// `logging`.
    pub logging: Option<RequestLogging>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderField {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its value, with variables as they were written.
    pub value: Arc<str>,
}

/// What keeps a client at its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RequestAffinity {
    /// Nothing.
    #[default]
    None,
    /// Its address.
    ClientIp,
    /// A cookie.
    GeneratedCookie {
        /// Its life, seconds; zero is that of the client's session.
        #[serde(rename = "ttlSeconds")]
        ttl_s: u32,
    },
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestLogging {
    /// Requests of a million.
    pub per_million: u32,
}
