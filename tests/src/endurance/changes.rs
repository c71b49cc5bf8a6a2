//! Changes of manifests that no client may notice.
use anyhow::Result;

use crate::cluster::{self, Cluster};
use crate::manifests::{Manifests, change_endpoint};
use crate::packet::Random;

/// Endpoints that change their state: Service, node and pod. The other pod of each Service stays ready.
const ENDPOINTS: [(&str, &str, &str); 2] = [("near", "node-a", "web-a-1"), ("far", "node-b", "web-b-1")];
/// A Service that comes and goes, and the end of its addresses.
const SERVICE: (&str, u8) = ("passing", 91);

/// Makes changes that a seed determines.
#[derive(Debug)]
pub struct Changes {
    random: Random,
}

impl Changes {
    /// The changes of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// Makes one. Whatever it is, the plan is another one after it.
    ///
    /// # Errors
    /// A manifest cannot be written.
    pub fn make(&mut self, cluster: &mut Cluster) -> Result<()> {
        match self.random.below(3) {
            0 => come_or_go(&mut cluster.manifests),
            _ => self.change_endpoint(cluster),
        }
    }

    fn change_endpoint(&mut self, cluster: &mut Cluster) -> Result<()> {
        let (service, node, pod) = ENDPOINTS[self.random.below(ENDPOINTS.len())];
        let (node, pod) = (cluster.topology.node(node), cluster.topology.pod(pod));
        let choice = self.random.below(3);
        cluster.manifests.edit(service, |service| change_endpoint(service, node, pod, choice))
    }
}

fn come_or_go(manifests: &mut Manifests) -> Result<()> {
    let (name, last) = SERVICE;
    let is_there = manifests.services().any(|service| service.name == name);
    match is_there {
        true => manifests.remove(name),
        false => manifests.put(cluster::service(name, last)),
    }
}
