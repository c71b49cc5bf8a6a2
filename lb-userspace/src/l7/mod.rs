//! The URL-map front-end: from the host and path of a request to the backend service that answers it.
//!
//! `host`, `path`, `url_map`, `dialect` and `proxy_protocol` are pure: a request is judged by values alone. One rule holds throughout:
//! what is forwarded is what was routed. A host or path that two servers could read as two different ones is
//! refused; all others have one normal form, which chooses the rule and goes to the endpoint.

pub mod host;
pub mod path;

pub mod url_map;

pub mod dialect;

pub mod proxy_protocol;

pub mod serve;

pub use dialect::{RuleFault, host_pattern, path_pattern};
pub use host::{Host, HostFault};
pub use path::{NormalPath, PathFault};
pub use url_map::{HostPattern, HostRule, Match, PathPattern, PathRule, Rule, UrlMap};
