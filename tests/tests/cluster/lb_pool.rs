//! Load-balancer addresses as they come to the API server, and who announces them.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Resource};
use lb_userspace::announce::{self, Announced, Group, Part, Responder, Wanted};
use lb_userspace::attach::{Settings, SocketHooks, XdpChoice};
use lb_userspace::lb_pool::{Correction, Notice, Owner, OwnerKind, Task, run};
use lb_userspace::model::{Balancer, ObjectName};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::observer::{Observer, ingress, load_balancer_pool, service};

const DEADLINE: Duration = Duration::from_secs(20);

fn config(server: &ApiServer) -> kube::Config {
    kube::Config::new(server.url().parse().expect("a URL"))
}

async fn write(server: &ApiServer, tasks: Vec<Task>) {
    let (sender, receiver) = mpsc::channel(8);
    for task in tasks {
        sender.send(task).await.expect("room");
    }
    drop(sender);
    run(config(server), "node-a".to_owned(), receiver).await.expect("a client");
}

fn owner(kind: OwnerKind) -> Owner {
    Owner { kind, object: ObjectName::new("shop", "web") }
}

fn correction(kind: OwnerKind, version: u64, addresses: &[&str]) -> Task {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Task::Correct(Correction { owner: owner(kind), resource_version: version.to_string().into(), addresses })
}

#[tokio::test]
async fn addresses_of_services_and_ingresses_are_written_and_taken_back() {
    let server = ApiServer::start().await;
    let of_service = server.put(Resource::Services, service("web"));
    let of_ingress = server.put(Resource::Ingresses, ingress("web"));
    let addresses = ["203.0.113.1", "2001:db8:113::1"];
    let both = [(OwnerKind::Service, of_service), (OwnerKind::Ingress, of_ingress)];
    write(&server, both.map(|(kind, version)| correction(kind, version, &addresses)).into()).await;
    let status = || {
        [Resource::Services, Resource::Ingresses]
            .map(|kind| server.objects(kind)[0]["status"]["loadBalancer"].clone())
    };
    let given = json!({"ingress": [{"ip": "203.0.113.1"}, {"ip": "2001:db8:113::1"}]});
    assert_eq!(status(), [given.clone(), given]);

    let version = |kind| server.objects(kind)[0]["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let version = |kind| version(kind).and_then(|text| text.parse().ok()).expect("a version");
    let both = [
        (OwnerKind::Service, version(Resource::Services)),
        (OwnerKind::Ingress, version(Resource::Ingresses)),
    ];
    write(&server, both.map(|(kind, version)| correction(kind, version, &[])).into()).await;
    assert_eq!(status(), [json!({"ingress": []}), json!({"ingress": []})]);
}

#[tokio::test]
async fn a_service_that_was_not_seen_is_not_overwritten() {
    let server = ApiServer::start().await;
    let version = server.put(Resource::Services, service("web"));
    server.put(Resource::Services, service("web"));
    write(&server, vec![correction(OwnerKind::Service, version, &["203.0.113.1"])]).await;
    assert_eq!(server.objects(Resource::Services)[0]["status"], json!({"loadBalancer": {}}));
}

#[tokio::test]
async fn what_could_not_be_given_is_one_event_on_the_object() {
    let server = ApiServer::start().await;
    let notice = || {
        let message = "cannot give it 203.0.113.1: no pool has it; ask for another one".to_owned();
        Task::Tell(Notice { owner: owner(OwnerKind::Service), uid: "0d4f".into(), message })
    };
    write(&server, vec![notice(), notice()]).await;
    let events = server.objects(Resource::Events);
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event["note"], "cannot give it 203.0.113.1: no pool has it; ask for another one");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("AddressNotGiven")));
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "name": "web", "namespace": "shop", "uid": "0d4f"});
    assert_eq!(event["regarding"], regarding);
}

#[tokio::test]
async fn pools_and_what_services_ask_of_them_are_watched() {
    let server = ApiServer::start().await;
    server.put(Resource::LoadBalancerPools, load_balancer_pool("outside"));
    let mut web = service("web");
    web["spec"]["type"] = "LoadBalancer".into();
    web["metadata"]["annotations"] = json!({"podway.io/load-balancer-ips": "203.0.113.9"});
    server.put(Resource::Services, web);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let pool = observer.snapshot.load_balancer_pools.values().next().expect("the pool");
    assert_eq!(pool.ranges.len(), 2);
    let fact = observer.snapshot.services.values().next().expect("the Service");
    let Balancer::Podway(request) = &fact.balancer else { panic!("{:?}", fact.balancer) };
    assert_eq!(request.wanted, ["203.0.113.9".parse::<IpAddr>().expect("an address")]);
    server.delete(Resource::LoadBalancerPools, "", "outside");
    observer.until("the pool is gone", |o| o.snapshot.load_balancer_pools.is_empty()).await;
}

/// What one agent does that announces. It ends with this, as if killed.
struct Announcer {
    wanted: watch::Sender<Wanted>,
    announced: watch::Receiver<Announced>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Of a node with no uplink: its answers go nowhere.
    fn start(server: &ApiServer, node: &str) -> Self {
        let settings = Settings {
            uplinks: vec!["no-such-uplink".to_owned()],
            pod_interfaces: vec![],
            xdp: XdpChoice::Off,
            sockets: SocketHooks::Off,
        };
        let responder = Responder::start(settings).expect("a thread");
        let (wanted, wants) = watch::channel(Wanted::default());
        let (sender, announced) = watch::channel(Announced::default());
        let (config, who) = (config(server), (Arc::from(node), "podway".to_owned()));
        let task = tokio::spawn(async move {
            announce::run(config, who, wants, sender, responder).await.expect("a client");
        });
        Self { wanted, announced, task }
    }

    /// Wants a VIP of a group, in this place.
    fn want(&self, vip: IpAddr, rank: usize) {
        self.want_all(&[(Group::Shared(0), vip)], rank);
    }

    /// Wants a VIP of each of these groups.
    fn want_all(&self, groups: &[(Group, IpAddr)], rank: usize) {
        let part = |(group, vip): &(Group, IpAddr)| (*group, Part { rank, vips: [*vip].into() });
        self.wanted.send_replace(Wanted { groups: groups.iter().map(part).collect(), left_out: 0 });
    }

    async fn until_announces(&mut self, vips: &BTreeSet<IpAddr>) {
        let found =
            timeout(DEADLINE, self.announced.wait_for(|announced| announced.vips == *vips)).await.is_ok();
        assert!(found, "wants {vips:?}, announces {:?}", self.announced.borrow());
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn holder(server: &ApiServer) -> Value {
    let leases = server.objects(Resource::Leases);
    leases
        .iter()
        .find(|lease| lease["metadata"]["name"] == "podway-vips-0")
        .map_or(Value::Null, |lease| lease["spec"]["holderIdentity"].clone())
}

#[tokio::test]
async fn another_node_announces_when_the_holder_is_killed_or_gives_up() {
    let server = ApiServer::start().await;
    let vip: IpAddr = "203.0.113.1".parse().expect("an address");
    let (vips, none) = (BTreeSet::from([vip]), BTreeSet::new());
    let mut first = Announcer::start(&server, "node-a");
    let mut second = Announcer::start(&server, "node-b");
    first.want(vip, 0);
    first.until_announces(&vips).await;
    second.want(vip, 1);
    assert_eq!(holder(&server), "node-a");
    // Many renewals go by.
    assert!(timeout(Duration::from_secs(2), second.announced.wait_for(|a| a.vips == vips)).await.is_err());

    first.wanted.send_replace(Wanted::default());
    first.until_announces(&none).await;
    second.until_announces(&vips).await;
    assert_eq!(holder(&server), "node-b");

    first.want(vip, 0);
    drop(second);
    first.until_announces(&vips).await;
    assert_eq!((holder(&server), first.announced.borrow().takeovers), (json!("node-a"), 2));

    // Where nobody can take its place it goes on, and is the first when the server is back.
    let mut second = Announcer::start(&server, "node-b");
    second.want(vip, 1);
    server.set_away(true);
    let has_moved = |announced: &Announced| announced.vips != vips || announced.takeovers != 2;
    assert!(timeout(Duration::from_secs(4), first.announced.wait_for(has_moved)).await.is_err());
    server.set_away(false);
    assert!(timeout(Duration::from_secs(2), second.announced.wait_for(|a| a.vips == vips)).await.is_err());
    assert_eq!((holder(&server), first.announced.borrow().vips.clone()), (json!("node-a"), vips));
}

/// Groups of one VIP each.
fn own_groups(count: u8) -> Vec<(Group, IpAddr)> {
    let group = |last| {
        let vip = IpAddr::from([203, 0, 113, last]);
        (Group::Own(vip), vip)
    };
    (1..=count).map(group).collect()
}

#[tokio::test]
async fn a_group_that_is_sought_when_its_holder_is_dead_already_is_taken() {
    let server = ApiServer::start().await;
    let groups = own_groups(2);
    let [mut first, mut second] = ["node-a", "node-b"].map(|node| Announcer::start(&server, node));
    first.want_all(&groups[..1], 0);
    second.want_all(&groups[1..], 0);
    first.until_announces(&[groups[0].1].into()).await;
    second.until_announces(&[groups[1].1].into()).await;
    drop(first);
    // Its last write may be under way, of which the watch would tell.
    tokio::time::sleep(Duration::from_millis(announce::WRITE_MAX_MS)).await;
    second.want_all(&groups, 1);
    second.until_announces(&groups.iter().map(|(_, vip)| *vip).collect()).await;
}

#[tokio::test]
async fn a_node_that_holds_many_groups_renews_them_all() {
    let server = ApiServer::start().await;
    let groups = own_groups(20);
    let all: BTreeSet<IpAddr> = groups.iter().map(|(_, vip)| *vip).collect();
    let [mut first, second] = ["node-a", "node-b"].map(|node| Announcer::start(&server, node));
    first.want_all(&groups, 0);
    first.until_announces(&all).await;
    second.want_all(&groups, 1);
    // Longer than the client's bound of requests counts.
    let has_moved = |announced: &Announced| announced.takeovers > 0;
    let mut of_second = second.announced.clone();
    assert!(timeout(Duration::from_secs(8), of_second.wait_for(has_moved)).await.is_err());
    assert_eq!((&first.announced.borrow().vips, first.announced.borrow().takeovers), (&all, 20));
}
