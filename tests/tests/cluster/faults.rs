//! Lists and watches that fail.
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Fault, Resource};

use crate::observer::{
    Observer, backend_config, frontend_config, ingress, ingress_class, load_balancer_pool, node, server,
    service, service_cidr, slice,
};

/// A source that has everything the server has.
async fn synced() -> (ApiServer, Observer) {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    (server, observer)
}

/// Deletes `b` and adds `f` while no watch can tell, and lets the source find out by a list.
async fn expect_relist(server: &ApiServer, observer: &mut Observer) {
    server.delete(Resource::Services, "shop", "b");
    server.put(Resource::Services, service("f"));
    observer.until_equal(server).await;
    assert_eq!(observer.gone, ["Service shop/b"]);
    assert_eq!(observer.synced, 1);
}

#[tokio::test]
async fn gone_event_in_a_watch_leads_to_a_list_that_shows_deletions() {
    let (server, mut observer) = synced().await;
    assert_eq!(observer.interruptions, 0);
    server.fail_watch(Resource::Services, Fault::GoneEvent);
    server.disconnect();
    expect_relist(&server, &mut observer).await;
    assert!(observer.interruptions >= 1, "the failure is told");
}

#[tokio::test]
async fn watch_that_is_refused_with_410_leads_to_a_list_that_shows_deletions() {
    let (server, mut observer) = synced().await;
    server.set_refuses_old_watches(true);
    server.set_away(true);
    server.compact();
    server.delete(Resource::Services, "shop", "b");
    server.put(Resource::Services, service("f"));
    server.set_away(false);
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["Service shop/b"]);
    let requests = server.requests(Resource::Services);
    let list = requests.last().expect("a request");
    assert_eq!(list.parameter("sendInitialEvents"), Some("true"), "{list:?}");
}

#[tokio::test]
async fn compacted_history_leads_to_a_list_in_pages_too() {
    let server = server().await;
    server.set_streams_lists(false);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    server.set_away(true);
    server.compact();
    server.delete(Resource::Services, "shop", "b");
    server.put(Resource::Services, service("f"));
    server.set_away(false);
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["Service shop/b"]);
}

#[tokio::test]
async fn continue_token_that_expires_starts_the_list_again() {
    let server = server().await;
    server.set_streams_lists(false);
    server.fail_list(Resource::Services, Fault::Drip);
    server.fail_list(Resource::Services, Fault::Status(410, None));
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let pages: Vec<_> = server.requests(Resource::Services).iter().filter(|r| !r.is_watch).cloned().collect();
    let tokens: Vec<_> = pages.iter().map(|request| request.parameter("continue")).collect();
    assert_eq!(tokens, [None, Some("17-2"), None, Some("17-2"), Some("17-4")]);
}

#[tokio::test]
async fn connection_cut_in_the_middle_of_a_line_loses_no_event() {
    let (server, mut observer) = synced().await;
    server.fail_watch(Resource::Services, Fault::CutShort);
    server.disconnect();
    server.put(Resource::Services, service("f"));
    server.delete(Resource::Services, "shop", "a");
    observer.until_equal(&server).await;
    assert_eq!(server.faults_left(), 0);
    assert_eq!(observer.gone, ["Service shop/a"]);
}

#[tokio::test]
async fn list_cut_in_the_middle_takes_nothing_away() {
    let (server, mut observer) = synced().await;
    server.set_away(true);
    server.set_streams_lists(false);
    server.compact();
    for _ in 0..3 {
        server.fail_list(Resource::Services, Fault::CutShort);
    }
    server.put(Resource::Services, service("f"));
    server.set_away(false);
    observer.until_equal(&server).await;
    assert_eq!(server.faults_left(), 0);
    assert_eq!(observer.gone, [""; 0]);
}

#[tokio::test]
async fn streamed_list_cut_in_the_middle_takes_nothing_away() {
    let (server, mut observer) = synced().await;
    server.set_away(true);
    server.compact();
    for _ in 0..2 {
        server.fail_watch(Resource::EndpointSlices, Fault::CutShort);
    }
    server.put(Resource::EndpointSlices, slice("f"));
    server.set_away(false);
    observer.until_equal(&server).await;
    assert_eq!(server.faults_left(), 0);
    assert_eq!(observer.gone, [""; 0]);
}

#[tokio::test]
async fn errors_of_server_and_proxy_take_nothing_away() {
    let server = server().await;
    server.set_streams_lists(false);
    let faults = [
        Fault::Status(500, None),
        Fault::Status(503, None),
        // What a server says that is behind the one that was asked before.
        Fault::Status(504, None),
        Fault::ProxyError(502),
        Fault::Status(429, None),
    ];
    for fault in faults.clone() {
        server.fail_list(Resource::Services, fault);
    }
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    for fault in faults {
        server.fail_watch(Resource::Services, fault.clone());
        server.fail_watch(Resource::Nodes, fault);
    }
    server.disconnect();
    server.put(Resource::Services, service("f"));
    server.put(Resource::Nodes, node("f"));
    observer.until_equal(&server).await;
    assert_eq!(server.faults_left(), 0);
    assert_eq!((observer.gone.len(), observer.synced), (0, 1));
}

#[tokio::test]
async fn retry_after_is_kept() {
    let server = server().await;
    server.fail_watch(Resource::Services, Fault::Status(429, Some(1)));
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let requests = server.requests(Resource::Services);
    assert_eq!(requests.len(), 2);
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_secs(1), "{pause:?}");
}

#[tokio::test]
async fn slow_server_is_waited_for() {
    let server = server().await;
    for _ in 0..2 {
        server.fail_watch(Resource::Services, Fault::Drip);
    }
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    server.disconnect();
    server.put(Resource::Services, service("f"));
    observer.until_equal(&server).await;
    assert_eq!((server.faults_left(), observer.gone.len()), (0, 0));
}

#[tokio::test]
async fn server_that_is_away_takes_nothing_away() {
    let server = server().await;
    server.set_away(true);
    let mut observer = Observer::start(&server.url());
    server.set_away(false);
    observer.until_equal(&server).await;
    server.set_away(true);
    server.put(Resource::Services, service("f"));
    server.delete(Resource::Nodes, "", "a");
    server.set_away(false);
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["Node a"]);
}

#[tokio::test]
async fn source_is_synced_only_when_all_kinds_are() {
    let server = server().await;
    for _ in 0..10 {
        server.fail_watch(Resource::Nodes, Fault::Status(500, None));
    }
    let mut observer = Observer::start(&server.url());
    observer.until("synced", |o| o.synced == 1).await;
    let snapshot = &observer.snapshot;
    let counts = (snapshot.services.len(), snapshot.endpoint_slices.len(), snapshot.nodes.len());
    assert_eq!(counts, (5, 5, 5));
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_taken_up_without_a_bound() {
    let (server, mut observer) = synced().await;
    let watches =
        || server.requests(Resource::Services).into_iter().filter(|r| r.is_watch).collect::<Vec<_>>();
    let before = watches().len();
    for _ in 0..40 {
        server.fail_watch(Resource::Services, Fault::GoneEvent);
    }
    server.disconnect();
    observer.until_server("ten watches", || watches().len() >= before + 10).await;
    let spent = watches()[before + 9].at - watches()[before].at;
    // Nine waits: 2.5, 5, 10, 20 and five times 25 ms at least.
    assert!(spent >= Duration::from_millis(162), "{spent:?}");
}

/// Random changes under random faults; the seed is in the failure's message.
#[tokio::test]
async fn any_order_of_changes_and_faults_ends_in_the_servers_state() {
    for seed in 1..=6 {
        let (server, mut observer) = synced().await;
        let mut random = Random(seed);
        println!("seed {seed}");
        let deleted: Vec<_> = (0..60).filter_map(|_| step(&server, &mut random)).collect();
        observer.until_equal(&server).await;
        assert_eq!(observer.synced, 1, "seed {seed}");
        for gone in &observer.gone {
            assert!(deleted.contains(gone), "seed {seed}: {gone} went, and nobody deleted it");
        }
    }
}

/// One change of the server; what it deleted.
fn step(server: &ApiServer, random: &mut Random) -> Option<String> {
    let name = ["a", "b", "c", "d", "e", "f", "g"][random.below(7)];
    let resource = Resource::ALL[random.below(Resource::ALL.len())];
    match random.below(12) {
        0..=4 => {
            let object = match resource {
                Resource::Services => service(name),
                Resource::EndpointSlices => slice(name),
                Resource::Nodes => node(name),
                Resource::ServiceCidrs => service_cidr(name),
                Resource::BackendConfigs => backend_config(name),
                Resource::Ingresses => ingress(name),
                Resource::IngressClasses => ingress_class(name),
                Resource::FrontendConfigs => frontend_config(name),
                Resource::LoadBalancerPools => load_balancer_pool(name),
                Resource::Pods | Resource::Secrets | Resource::Leases | Resource::Events => {
                    unreachable!("not watched")
                }
            };
            server.put(resource, object);
        }
        5 | 6 => {
            let is_namespaced = !matches!(
                resource,
                Resource::Nodes
                    | Resource::ServiceCidrs
                    | Resource::IngressClasses
                    | Resource::LoadBalancerPools
            );
            let namespace = if is_namespaced { "shop" } else { "" };
            if server.delete(resource, namespace, name) {
                return Some(format!("{} {namespace}/{name}", resource.kind().1).replace(" /", " "));
            }
        }
        7 => server.disconnect(),
        8 => server.compact(),
        9 => server.bookmark(),
        10 => server.set_streams_lists(random.below(2) == 0),
        _ => {
            let faults = [
                Fault::Status(500, None),
                Fault::Status(410, None),
                Fault::Status(429, None),
                Fault::ProxyError(502),
                Fault::GoneEvent,
                Fault::CutShort,
                Fault::Drip,
            ];
            let fault = faults[random.below(faults.len())].clone();
            if random.below(2) == 0 {
                server.fail_list(resource, fault);
            } else {
                server.fail_watch(resource, fault);
            }
        }
    }
    None
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[tokio::test]
async fn a_server_without_an_optional_kind_is_synced_all_the_same() {
    let kinds = &Resource::ALL[3..];
    for (code, kind) in [403, 404].into_iter().flat_map(|code| kinds.iter().map(move |kind| (code, *kind))) {
        let server = server().await;
        for _ in 0..20 {
            server.fail_watch(kind, Fault::Status(code, None));
        }
        let mut observer = Observer::start(&server.url());
        observer.until("synced without the kind", |o| o.synced == 1).await;
        assert!(server.faults_left() > 0, "not before the kind was there");
        observer.until_equal(&server).await;
        assert_eq!(observer.synced, 1, "the kind came later");
    }
}

#[tokio::test]
async fn a_kind_that_is_not_there_is_asked_for_at_long_intervals() {
    let server = server().await;
    for _ in 0..3 {
        server.fail_watch(Resource::BackendConfigs, Fault::Status(404, None));
    }
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let asked = server.requests(Resource::BackendConfigs);
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert_eq!(waits.len(), 3);
    // Half of the 20 ms of these tests; the first waits after other failures are 2.5 and 5 ms.
    assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(10)), "{waits:?}");
}
