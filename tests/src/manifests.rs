//! A folder of manifests that agrees with a topology: Nodes, and Services with their EndpointSlices,
//! as a Kubernetes user would see them. A test changes a Service by [`Manifests::edit`]; the agent
//! that watches the folder must follow.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lb_userspace::model::{HealthCheck, Protocol, TrafficPolicy};
use serde_json::Value;

use crate::agent::{Frontend, frontend};
use crate::topology::{Host, Node, Topology};

mod object;

/// Namespace of the Services.
pub const NAMESPACE: &str = "shop";
/// The load-balancer addresses that the client has routes for.
pub const LOAD_BALANCER_IPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10)),
];
/// The external address that the client has a route for.
pub const EXTERNAL_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20));

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `targetPort`, the pods' port.
    pub target_port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// One pod behind a Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its addresses: one slice for each family has it.
    pub addresses: [IpAddr; 2],
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// Number of the slice of its family that names it.
    pub slice: u8,
    /// `hints.forZones`.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes`.
    pub node_hints: Vec<String>,
}

impl Endpoint {
    /// One that is ready, in the first slice, without hints.
    #[must_use]
    pub fn ready(pod: &str, node: &str, addresses: [IpAddr; 2]) -> Self {
        Self {
            pod: pod.to_owned(),
            node: node.to_owned(),
            addresses,
            ready: true,
            serving: true,
            terminating: false,
            slice: 0,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// `spec.ipFamilies`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both, IPv4 first.
    #[default]
    Dual,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

/// A Service with its slices.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The families that it has.
    pub families: Families,
    /// `spec.clusterIPs`, as far as [`Service::families`] has them.
    pub cluster_ips: [IpAddr; 2],
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Further addresses of `status.loadBalancer.ingress`, with `ipMode: Proxy`.
    pub proxy_ips: Vec<IpAddr>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, where clients keep their pod.
    pub affinity_timeout_s: Option<u32>,
    /// Podway's annotations, where it checks the pods itself.
    pub health_check: Option<HealthCheck>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    pub annotations: BTreeMap<String, String>,
    /// Further fields of `spec`, or other values for those above.
    pub spec: serde_json::Map<String, Value>,
    /// What the slices say of when the change was triggered that made them what they are.
    pub change_trigger: Option<String>,
    /// The pods.
    pub endpoints: Vec<Endpoint>,
    /// Target ports that a slice has instead of those of the ports, by its number and the port's name.
    pub slice_ports: BTreeMap<(u8, String), u16>,
}

impl Service {
    /// A Service at 10.96.0.`last` and 2001:db8:96::`last` (the same digits), without ports and pods.
    #[must_use]
    pub fn new(name: &str, last: u8) -> Self {
        let v6 = crate::wiring::v6([0x2001, 0xdb8, 0x96, 0], last);
        Self {
            name: name.to_owned(),
            cluster_ips: [Ipv4Addr::new(10, 96, 0, last).into(), v6.into()],
            ports: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            proxy_ips: Vec::new(),
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            affinity_timeout_s: None,
            health_check: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: serde_json::Map::new(),
            change_trigger: None,
            endpoints: Vec::new(),
            slice_ports: BTreeMap::new(),
            families: Families::Dual,
        }
    }

    /// The cluster IPs that it has.
    #[must_use]
    pub fn cluster_addresses(&self) -> Vec<IpAddr> {
        self.families.indices().map(|family| self.cluster_ips[family]).collect()
    }

    /// Its frontends at its cluster IPs.
    fn cluster_frontends(&self) -> Vec<Frontend> {
        let mut frontends = Vec::new();
        for address in self.cluster_addresses() {
            frontends.extend(self.ports.iter().map(|port| frontend(port.protocol, address, port.port)));
        }
        frontends
    }

    /// Whether it has no cluster IP, and so no frontend.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.spec.get("clusterIP").is_some_and(|ip| ip == "None")
    }

    /// With one more field in `spec`.
    #[must_use]
    pub fn with_spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    /// With one more annotation.
    #[must_use]
    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// One more port, which leads to `target_port` of the pods.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16, target_port: u16) -> Self {
        self.ports.push(ServicePort { name: name.to_owned(), protocol, port, target_port, node_port: None });
        self
    }

    /// Gives the port that was added last a node port.
    #[must_use]
    pub fn node_port(mut self, node_port: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(node_port);
        }
        self
    }

    /// One more pod behind it, ready.
    #[must_use]
    pub fn backed_by(mut self, node: &Node, pod: &Host) -> Self {
        let addresses = [pod.v4().into(), pod.v6().into()];
        self.endpoints.push(Endpoint::ready(pod.name(), node.host().name(), addresses));
        self
    }

    /// All pods of the topology behind it, ready.
    #[must_use]
    pub fn backed_by_all(self, topology: &Topology) -> Self {
        topology.nodes().iter().fold(self, |service, node| {
            node.pods().iter().fold(service, |service, pod| service.backed_by(node, pod))
        })
    }

    /// The objects as Kubernetes writes them: the Service itself, and its slices.
    #[must_use]
    pub fn objects(&self, resource_version: u64) -> Vec<Value> {
        object::service_and_slices(self, resource_version)
    }

    /// The endpoint of a pod.
    ///
    /// # Panics
    /// The pod is not behind the Service.
    pub fn endpoint(&mut self, pod: &str) -> &mut Endpoint {
        let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.pod == pod);
        endpoint.unwrap_or_else(|| panic!("pod {pod} is not behind Service {}", self.name))
    }
}

impl Families {
    /// The indices of the families in pairs of addresses.
    pub(crate) fn indices(self) -> impl Iterator<Item = usize> {
        match self {
            Self::Dual => 0..2,
            Self::V4 => 0..1,
            Self::V6 => 1..2,
        }
    }
}

/// Gives the endpoint of a pod another state: gone, ready, not ready or terminating; of the three that it has not, the
/// one that `choice` counts off.
pub fn change_endpoint(service: &mut Service, node: &Node, pod: &Host, choice: usize) {
    let found = service.endpoints.iter().position(|endpoint| endpoint.pod == pod.name());
    let Some(index) = found else {
        *service = service.clone().backed_by(node, pod);
        return;
    };
    let endpoint = &mut service.endpoints[index];
    let next = [(true, true, false), (false, false, false), (false, true, true)];
    let others =
        next.into_iter().filter(|state| *state != (endpoint.ready, endpoint.serving, endpoint.terminating));
    match others.skip(choice).take(1).next() {
        Some(state) => (endpoint.ready, endpoint.serving, endpoint.terminating) = state,
        None => drop(service.endpoints.remove(index)),
    }
}

/// The folder.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    services: BTreeMap<String, Service>,
    resource_version: u64,
}

impl Manifests {
    /// Writes the topology's Nodes to the folder `dir`, which must exist.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(dir: &Path, topology: &Topology) -> Result<Self> {
        let manifests = Self { dir: dir.to_owned(), services: BTreeMap::new(), resource_version: 100 };
        manifests.write("nodes", &Self::nodes(topology))?;
        Ok(manifests)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A Service that was put here.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> &Service {
        self.services.get(name).unwrap_or_else(|| panic!("no Service {name}"))
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The frontends of all Services at their cluster IPs, for [`crate::agent::Agent::wait_for`].
    #[must_use]
    pub fn cluster_frontends(&self) -> BTreeSet<Frontend> {
        self.services().flat_map(Service::cluster_frontends).collect()
    }

    /// Adds a Service, or replaces the one of its name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, service: Service) -> Result<()> {
        self.resource_version += 1;
        self.write(&service.name, &service.objects(self.resource_version))?;
        self.services.insert(service.name.clone(), service);
        Ok(())
    }

    /// Changes a Service.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// There is none of this name.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Service)) -> Result<()> {
        let mut service = self.service(name).clone();
        change(&mut service);
        self.put(service)
    }

    /// The Nodes as an API server would have them.
    #[must_use]
    pub fn nodes(topology: &Topology) -> Vec<Value> {
        topology.nodes().iter().map(object::node).collect()
    }

    /// Removes a Service and its slices.
    ///
    /// # Errors
    /// There is no file of it.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.services.remove(name);
        let path = self.dir.join(format!("{name}.yaml"));
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Written aside and renamed, so that nobody reads half a file.
    fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text += &serde_yaml_ng::to_string(object).context("cannot write an object as YAML")?;
        }
        let (aside, path) = (self.dir.join(format!(".{name}")), self.dir.join(format!("{name}.yaml")));
        std::fs::write(&aside, text)
            .and_then(|()| std::fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
