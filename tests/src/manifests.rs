//! A folder of manifests that agrees with a topology: Nodes, and Services with their EndpointSlices,
//! as a Kubernetes user would see them. A test changes a Service by [`Manifests::edit`]; the agent
//! that watches the folder must follow.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lb_userspace::model::{HealthCheck, Protocol, TrafficPolicy};
use serde_json::{Value, json};

use crate::topology::{Host, Node, Topology};

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
}

/// A Service of both families with its slices.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `spec.clusterIPs`.
    pub cluster_ips: [IpAddr; 2],
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, where clients keep their pod.
    pub affinity_timeout_s: Option<u32>,
    /// Podway's annotations, where it checks the pods itself.
    pub health_check: Option<HealthCheck>,
    /// The pods.
    pub endpoints: Vec<Endpoint>,
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
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            affinity_timeout_s: None,
            health_check: None,
            endpoints: Vec::new(),
        }
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
        self.endpoints.push(Endpoint {
            pod: pod.name().to_owned(),
            node: node.host().name().to_owned(),
            addresses: [pod.v4().into(), pod.v6().into()],
            ready: true,
            serving: true,
            terminating: false,
        });
        self
    }

    /// All pods of the topology behind it, ready.
    #[must_use]
    pub fn backed_by_all(self, topology: &Topology) -> Self {
        topology.nodes().iter().fold(self, |service, node| {
            node.pods().iter().fold(service, |service, pod| service.backed_by(node, pod))
        })
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
        let nodes: Vec<Value> = topology.nodes().iter().map(node_object).collect();
        manifests.write("nodes", &nodes)?;
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

    /// Adds a Service, or replaces the one of its name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, service: Service) -> Result<()> {
        self.resource_version += 1;
        self.write(&service.name, &objects(&service, self.resource_version))?;
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

fn node_object(node: &Node) -> Value {
    let host = node.host();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name(), "resourceVersion": "1"},
        "spec": {"podCIDRs": node.pod_cidrs()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": host.v4()},
            {"type": "InternalIP", "address": host.v6()},
        ]},
    })
}

/// The Service and a slice for each family.
fn objects(service: &Service, resource_version: u64) -> Vec<Value> {
    vec![
        service_object(service, resource_version),
        slice_object(service, resource_version, "IPv4", 0),
        slice_object(service, resource_version, "IPv6", 1),
    ]
}

fn service_object(service: &Service, resource_version: u64) -> Value {
    let [cluster_v4, cluster_v6] = service.cluster_ips;
    let kind = service_type(service);
    let mut spec = json!({
        "type": kind,
        "clusterIP": cluster_v4,
        "clusterIPs": [cluster_v4, cluster_v6],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": service.external_ips,
        "internalTrafficPolicy": format!("{:?}", service.internal_traffic_policy),
        "ports": service.ports.iter().map(port_object).collect::<Vec<_>>(),
    });
    if kind != "ClusterIP" || !service.external_ips.is_empty() {
        spec["externalTrafficPolicy"] = format!("{:?}", service.external_traffic_policy).into();
    }
    if let Some(timeout_s) = service.affinity_timeout_s {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": timeout_s}});
    }
    let ingress: Vec<Value> = service.load_balancer_ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": service.name,
            "resourceVersion": resource_version.to_string(),
            "annotations": health_annotations(service.health_check.as_ref()),
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn service_type(service: &Service) -> &'static str {
    if !service.load_balancer_ips.is_empty() {
        "LoadBalancer"
    } else if service.ports.iter().any(|port| port.node_port.is_some()) {
        "NodePort"
    } else {
        "ClusterIP"
    }
}

fn port_object(port: &ServicePort) -> Value {
    let mut object = json!({
        "name": port.name,
        "protocol": port.protocol,
        "port": port.port,
        "targetPort": port.target_port,
    });
    if let Some(node_port) = port.node_port {
        object["nodePort"] = node_port.into();
    }
    object
}

fn health_annotations(check: Option<&HealthCheck>) -> Value {
    let Some(check) = check else { return json!({}) };
    json!({
        "podway.io/health-check": "tcp",
        "podway.io/health-check-interval-ms": check.interval_ms.to_string(),
        "podway.io/health-check-timeout-ms": check.timeout_ms.to_string(),
        "podway.io/health-check-healthy-threshold": check.healthy_threshold.to_string(),
        "podway.io/health-check-unhealthy-threshold": check.unhealthy_threshold.to_string(),
    })
}

/// `family` is the index of the family in [`Endpoint::addresses`].
fn slice_object(service: &Service, resource_version: u64, address_type: &str, family: usize) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.target_port}))
        .collect();
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.addresses[family]],
                "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
                "nodeName": endpoint.node,
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": endpoint.pod},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("{}-{}", service.name, address_type.to_lowercase()),
            "resourceVersion": resource_version.to_string(),
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": address_type,
        "ports": ports,
        "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        let mut service = Service::new("web", 10).port("http", Protocol::Tcp, 80, 8080).node_port(30080);
        service.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
        service.endpoints.push(Endpoint {
            pod: "web-a-1".to_owned(),
            node: "node-a".to_owned(),
            addresses: [[10, 244, 1, 11].into(), "2001:db8:244:1::11".parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
        });
        service
    }

    #[test]
    fn service_reads_as_kubernetes_writes_it() {
        let object = service_object(&service(), 7);
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        assert_eq!(object["spec"]["type"], "LoadBalancer");
        assert_eq!(object["spec"]["clusterIPs"], json!(["10.96.0.10", "2001:db8:96::10"]));
        assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster");
        let port =
            json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080});
        assert_eq!(object["spec"]["ports"], json!([port]));
        let ingress = json!([{"ip": "198.51.100.10"}, {"ip": "2001:db8:51::10"}]);
        assert_eq!(object["status"]["loadBalancer"]["ingress"], ingress);
    }

    #[test]
    fn slices_have_the_pods_of_their_family_and_the_target_ports() {
        let mut service = service();
        service.endpoint("web-a-1").ready = false;
        let [_, v4, v6] = objects(&service, 7).try_into().unwrap();
        assert_eq!(v4["endpoints"][0]["addresses"], json!(["10.244.1.11"]));
        assert_eq!(v6["endpoints"][0]["addresses"], json!(["2001:db8:244:1::11"]));
        assert_eq!(v6["endpoints"][0]["conditions"]["ready"], false);
        assert_eq!(v6["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
        assert_eq!(v6["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    }
}
