//! Addresses of a pool, given to a Service and an Ingress without any, announced on the nodes' segment, and reached there
//! by a client; then the node that announces dies.
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Options, Podway, Source};
use lb_tests::api_server::Resource;
use lb_tests::gateway_api::GatewayApi;
use lb_tests::manifests::{NAMESPACE, Service};
use lb_tests::need;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{Answer, HTTP_PORT, Web, ask_within};
use lb_userspace::model::Protocol;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const DEADLINE: Duration = Duration::from_secs(60);
/// Long against an answer of this machine, short against a takeover.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
const HOST: &str = "shop.example";

/// Two nodes with a pod each, an agent on both, a client on their segment.
struct World {
    agents: Vec<Agent>,
    api: GatewayApi,
    webs: Vec<Web>,
    _runtime: Runtime,
    topology: Topology,
}

impl World {
    /// `None`: the tier's need is not met.
    fn start(pool: Value, objects: Vec<(Resource, Value)>) -> Option<Self> {
        let need = need::netns()?;
        let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
        let topology = Topology::two_nodes(1).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let webs = topology.pods().map(|pod| Web::start(runtime.handle(), pod).unwrap()).collect();
        let api = GatewayApi::start(&topology).unwrap();
        api.server.put(Resource::LoadBalancerPools, pool);
        for (resource, object) in objects {
            api.server.put(resource, object);
        }
        api.publish(&service("web", 80).backed_by_all(&topology));
        let kubeconfig = api.kubeconfig();
        let source = Source::Cluster { kubeconfig: &kubeconfig, folder: api.dir() };
        let start = |node| Agent::start_from(&podway, &topology, node, source, Options::default()).unwrap();
        let agents = NODE_NAMES.map(start).into();
        Some(Self { agents, api, webs, _runtime: runtime, topology })
    }

    fn wait_for(&self, what: &str, holds: impl FnMut() -> bool) {
        wait_until(DEADLINE, what, holds).unwrap_or_else(|error| {
            let logs: Vec<String> = self.agents.iter().map(Agent::log).collect();
            panic!("{error}; the agents say:\n{}", logs.join("\n---\n"))
        });
    }

    fn ask(&self, vip: IpAddr) -> Option<Answer> {
        let answer = ask_within(ANSWER_TIMEOUT, self.topology.client(), SocketAddr::new(vip, 80), HOST, "/");
        answer.ok().filter(|answer| answer.code == 200)
    }

    /// The addresses in the status of an object.
    fn status(&self, resource: Resource, name: &str) -> Vec<IpAddr> {
        let objects = self.api.server.objects(resource);
        let object = objects.iter().find(|object| object["metadata"]["name"] == name).expect("the object");
        let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry["ip"].as_str().expect("an address").parse().expect("an address"))
            .collect()
    }

    /// The nodes that hold a Lease of VIPs.
    fn announcers(&self) -> Vec<String> {
        let leases = self.api.server.objects(Resource::Leases);
        let of_vips = leases.iter().filter(|lease| {
            lease["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("podway-vip"))
        });
        of_vips.filter_map(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned)).collect()
    }

    /// Leaves a Service the pod of one node.
    fn leave_pod_of(&self, node: usize) {
        let node = self.topology.node(NODE_NAMES[node]);
        let service = service("web", 80).backed_by(node, &node.pods()[0]);
        for slice in service.objects(2).into_iter().filter(|object| object["kind"] == "EndpointSlice") {
            self.api.server.put(Resource::EndpointSlices, slice);
        }
    }
}

fn service(name: &str, last: u8) -> Service {
    let service = Service::new(name, last).port("http", Protocol::Tcp, 80, HTTP_PORT);
    service.with_spec("type", json!("LoadBalancer"))
}

fn pool(addresses: &[&str]) -> Value {
    json!({"metadata": {"name": "segment"}, "spec": {"addresses": addresses}})
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

/// The VIPs that are addresses of a node.
fn hosted(node: &Host, vips: &[IpAddr]) -> Vec<IpAddr> {
    let output = node.command("ip").args(["-o", "addr", "show", "dev", "lo"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    vips.iter().filter(|vip| text.contains(&format!(" {vip}/"))).copied().collect()
}

#[test]
fn vips_of_a_pool_are_reached_on_the_segment_and_survive_the_node_that_announces_them() {
    let class = json!({"metadata": {"name": "podway"}, "spec": {"controller": "podway.io/ingress"}});
    let shop = json!({
        "metadata": {"name": "shop", "namespace": NAMESPACE},
        "spec": {
            "ingressClassName": "podway",
            "defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}},
        },
    });
    let objects = vec![(Resource::IngressClasses, class), (Resource::Ingresses, shop)];
    let pool = pool(&["192.0.2.200-192.0.2.207", "2001:db8:0:1::c8-2001:db8:0:1::cf"]);
    let Some(mut world) = World::start(pool, objects) else { return };
    world.wait_for("addresses of the Service and the Ingress", || {
        let given = [world.status(Resource::Services, "web"), world.status(Resource::Ingresses, "shop")];
        given.iter().all(|addresses| addresses.len() == 2)
    });
    let of_service = world.status(Resource::Services, "web");
    let of_ingress = world.status(Resource::Ingresses, "shop");
    let mut all = [of_service.clone(), of_ingress.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, ips(&["192.0.2.200", "192.0.2.201", "2001:db8:0:1::c8", "2001:db8:0:1::c9"]));
    for vip in &all {
        world.wait_for(&format!("an answer at {vip}"), || world.ask(*vip).is_some());
    }
    // A node that hosts a VIP answers for it: one alone does.
    for vip in &of_ingress {
        let hosts =
            NODE_NAMES.iter().filter(|name| !hosted(world.topology.node(name).host(), &[*vip]).is_empty());
        assert_eq!(hosts.count(), 1, "{vip}");
    }
    assert!(of_service.iter().all(|vip| {
        NODE_NAMES.iter().all(|name| hosted(world.topology.node(name).host(), &[*vip]).is_empty())
    }));

    // The node that holds the most dies, agent, link and pod; one Service's pod is left on the other.
    let announcers = world.announcers();
    let dead =
        usize::from(announcers.iter().filter(|name| *name == NODE_NAMES[1]).count() * 2 > announcers.len());
    let left = 1 - dead;
    let survivor = world.topology.nodes()[left].pods()[0].name().to_owned();
    world.leave_pod_of(left);
    for vip in &all {
        world.wait_for("the pod that is left alone", || {
            (0..8).all(|_| world.ask(*vip).is_some_and(|answer| answer.pod() == survivor))
        });
    }
    world.agents[dead].kill();
    world.topology.nodes()[dead].host().namespace().ip_batch("link set eth0 down\n").unwrap();
    drop(world.webs.swap_remove(dead));
    let of_dead = world.topology.nodes()[dead].host().clone();
    let died = Instant::now();
    for vip in &all {
        world.wait_for(&format!("an answer at {vip} by the other node"), || world.ask(*vip).is_some());
        println!("{vip}: answered {} ms after the node's death", died.elapsed().as_millis());
    }
    assert_eq!(hosted(world.topology.nodes()[left].host(), &of_ingress), of_ingress);
    // Else its kernel would answer for them as soon as its link is back.
    world.wait_for("no VIP on the dead node", || hosted(&of_dead, &of_ingress).is_empty());
    assert!(world.announcers().iter().all(|name| name == NODE_NAMES[left]), "{:?}", world.announcers());
    assert!(world.agents[left].log().contains("this node announces its VIPs now"));
    // Figures are taken once a second.
    world.wait_for("metrics of all four VIPs", || {
        let metrics = world.agents[left].metrics("/metrics").unwrap();
        metrics.value("podway_vips_announced", &[]) == Some(4.0)
            && metrics.value("podway_vip_takeovers_total", &[]) >= Some(1.0)
    });
}

#[test]
fn addresses_are_kept_shared_by_key_given_back_and_refused_with_an_event() {
    let mut second = service("second", 81).annotated("podway.io/load-balancer-ips", "192.0.2.203");
    second.families = lb_tests::manifests::Families::V4;
    let Some(world) = World::start(pool(&["192.0.2.200/30"]), vec![]) else { return };
    world.wait_for("the first address", || world.status(Resource::Services, "web") == ips(&["192.0.2.200"]));
    world.api.publish(&second);
    world.wait_for("the address by name", || {
        world.status(Resource::Services, "second") == ips(&["192.0.2.203"])
    });
    let wrong = service("wrong", 82).annotated("podway.io/load-balancer-ips", "192.0.2.203");
    world.api.publish(&wrong);
    let has_event = || {
        let events = world.api.server.objects(Resource::Events);
        events.iter().any(|event| {
            event["regarding"]["name"] == "wrong"
                && event["note"]
                    == "cannot give it 192.0.2.203: Service shop/second has it; ask for another one"
        })
    };
    world.wait_for("the Event", has_event);
    assert_eq!(world.status(Resource::Services, "wrong"), [] as [IpAddr; 0]);

    // Another type gives the address back, and who waited for it gets it.
    let mut plain = world
        .api
        .server
        .objects(Resource::Services)
        .into_iter()
        .find(|object| object["metadata"]["name"] == "second");
    let plain = plain.as_mut().expect("the Service");
    plain["spec"]["type"] = "ClusterIP".into();
    world.api.server.put(Resource::Services, plain.clone());
    world.wait_for("the address of the other", || {
        world.status(Resource::Services, "wrong") == ips(&["192.0.2.203"])
            && world.status(Resource::Services, "second").is_empty()
    });
    assert_eq!(world.status(Resource::Services, "web"), ips(&["192.0.2.200"]));
    world.wait_for("an answer at the pool's first address", || world.ask(ips(&["192.0.2.200"])[0]).is_some());
}
