//! The front-end: serves URL maps to clients.
//!
//! A request's life, each step in its own module: a client's `connection` (TLS, HTTP/1 or HTTP/2) is watched by
//! `client_stream` and `wire`. Plain requests are passed on as bytes by `direct`. Of the others, `request` judges one and
//! finds its route; `exchange` makes it the endpoint's (`forward`); `attempt` chooses endpoints (`choose`, `affinity`)
//! and connections (`pool`, `connect`, `plain_answer`, `endpoint_connection`) until one answers; `body` passes both
//! bodies on as they come. `record` notes what came of a request, and `trace` how, where it is recorded. `refusal` and
//! `grpc` are the answers of its own.
//!
//! Each thread has a runtime, listening sockets (SO_REUSEPORT) and connections to endpoints of its own. A request is
//! served by the snapshot that it began with.
mod settings;
mod snapshot;

mod listen;
mod worker;

mod certificate;
mod client;
mod client_certificate;
mod client_stream;
mod connection;
mod direct;
mod flat;
mod link;
mod local;
mod parked;
mod proxied;
mod replayed;
mod timer;
mod tls_policy;
mod wire;

mod request;

mod affinity;
mod choose;
mod custom_header;
mod exchange;
mod forward;
mod grpc;
mod refusal;

mod answer_fields;
mod attempt;
mod body;
mod connect;
mod endpoint_connection;
mod plain_answer;
mod pool;
mod spare;
mod tunnel;

mod counters;
mod record;
mod signal;
mod trace;

mod front_end;

pub use affinity::COOKIE_NAME;
pub use certificate::{Certificate, CertificateFault, CertificateRemark, Certificates};
pub use counters::{Counters, Durations, Totals};
pub use custom_header::{CustomHeader, CustomHeaderFault};
pub use front_end::{FrontEnd, ListenFault, ListeningSockets};
pub use refusal::{REASON, Reason};
pub use settings::*;
pub use signal::EndpointSignal;
pub use snapshot::{
    Affinity, Backend, BackendService, Endpoint, IN_FLIGHT_MAX, Listener, Plain, Protocol, REQUEST_TIMEOUT,
    Route, Scheme, Site, Slot, Snapshot,
};
pub use tls_policy::{AUTHORITIES_MAX, ClientAuthority, ClientAuthorityFault, ClientPolicy, TlsPolicy};
pub use trace::{OtlpReceiver, TRACES_WAITING_MAX, TraceSettings};

#[cfg(test)]
mod affinity_tests;
#[cfg(test)]
mod attempt_tests;
#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod certificate_tests;
#[cfg(test)]
mod direct_tests;
#[cfg(test)]
mod endpoint_connection_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod http_1_tests;
#[cfg(test)]
mod parked_tests;
#[cfg(test)]
mod proxied_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod tls_fixture;
#[cfg(test)]
mod tls_policy_tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod tunnel_tests;
