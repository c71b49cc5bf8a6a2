//! The node that a plan is made for.
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Node;

/// What a plan must know of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Its name, as EndpointSlices name it.
    pub name: Arc<str>,
    /// The addresses on which its node ports answer; loopback ones are left out.
    pub addresses: Vec<IpAddr>,
}

impl NodeContext {
    /// From the Node object.
    #[must_use]
    pub fn of_node(node: &Node) -> Self {
        Self { name: node.name.clone(), addresses: node.addresses.clone() }
    }
}
