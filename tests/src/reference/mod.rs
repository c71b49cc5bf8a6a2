//! A second model of the Kubernetes rules for Services: slow, obvious, and written from the API's own
//! documentation (core/v1 Service, discovery/v1 EndpointSlice, the KEPs), not from Podway's plan. A
//! random [`World`] is asked what becomes of a packet; the plan of the same objects must say the same.
pub mod objects;
pub mod random;
pub mod rules;
pub mod url_map;
pub mod world;

pub use random::world;
pub use rules::{Answer, answer, drain_s};
pub use world::{Question, World};
