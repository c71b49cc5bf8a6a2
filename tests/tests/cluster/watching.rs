//! Lists and watches that go well.
use lb_tests::api_server::{ApiServer, Resource};
use serde_json::json;

use crate::observer::{Observer, frontend_config, ingress, ingress_class, node, server, service, slice};

#[tokio::test]
async fn streamed_list_and_watch_give_the_servers_state() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let requests = server.requests(Resource::Services);
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].parameter("sendInitialEvents"), Some("true"));

    server.put(Resource::Services, service("f"));
    server.put(Resource::Services, service("a"));
    server.delete(Resource::EndpointSlices, "shop", "b");
    server.put(Resource::Nodes, node("f"));
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["EndpointSlice shop/b"]);
    assert_eq!(server.requests(Resource::Services).len(), 1, "no request for a change");
}

#[tokio::test]
async fn paged_list_is_the_way_where_lists_are_not_streamed() {
    let server = server().await;
    server.set_streams_lists(false);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let requests = server.requests(Resource::Services);
    let lists: Vec<_> = requests.iter().filter(|request| !request.is_watch).collect();
    let pages: Vec<_> = lists.iter().map(|r| (r.parameter("limit"), r.parameter("continue"))).collect();
    let limit = Some("2");
    assert_eq!(pages, [(limit, None), (limit, Some("17-2")), (limit, Some("17-4"))]);

    server.put(Resource::Services, service("f"));
    observer.until_equal(&server).await;
    let requests = server.requests(Resource::Services);
    let last = requests.last().expect("a watch");
    assert_eq!((last.is_watch, last.parameter("resourceVersion")), (true, Some("17")));
}

#[tokio::test]
async fn empty_cluster_is_synced() {
    let server = ApiServer::start().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    assert_eq!(observer.changes, 0);
}

#[tokio::test]
async fn watch_goes_on_from_its_last_bookmark() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    // Changes of other resources move the version; the bookmark tells the Services' watch.
    for _ in 0..3 {
        server.put(Resource::Nodes, node("a"));
    }
    server.bookmark();
    server.disconnect();
    server.put(Resource::Services, service("f"));
    observer.until_equal(&server).await;
    let requests = server.requests(Resource::Services);
    let resumed = requests.last().expect("a watch");
    assert_eq!((resumed.is_watch, resumed.parameter("sendInitialEvents")), (true, None));
    assert_eq!(resumed.parameter("allowWatchBookmarks"), Some("true"));
    assert_eq!(observer.gone, [""; 0]);
}

#[tokio::test]
async fn services_that_say_to_be_headless_and_those_of_another_proxy_are_not_asked_for() {
    let server = server().await;
    let mut headless = service("headless");
    headless["metadata"]["labels"] = json!({"service.kubernetes.io/headless": ""});
    server.put(Resource::Services, headless);
    let mut of_other_proxy = slice("other");
    of_other_proxy["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other".into();
    server.put(Resource::EndpointSlices, of_other_proxy);
    let mut of_headless = slice("headless");
    of_headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    server.put(Resource::EndpointSlices, of_headless);
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    assert_eq!(observer.snapshot.services.len(), 5);
    let slices = &observer.snapshot.endpoint_slices;
    let headless: Vec<_> =
        slices.values().filter(|slice| slice.is_headless).map(|slice| &*slice.name.name).collect();
    assert_eq!((slices.len(), headless), (6, vec!["headless"]));

    let mut taken_over = service("a");
    taken_over["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    server.put(Resource::Services, taken_over);
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["Service shop/a"]);
}

#[tokio::test]
async fn unknown_fields_and_large_objects_are_taken() {
    let server = server().await;
    let mut large = slice("large");
    let endpoint = |i: u32| json!({"addresses": [format!("198.51.{}.{}", i / 250, i % 250 + 1)]});
    large["endpoints"] = (0..1_000).map(endpoint).collect();
    large["fieldOfTheFuture"] = json!({"deep": [{"er": null}]});
    large["metadata"]["managedFields"] = json!([{"manager": "m".repeat(300_000), "operation": "Apply"}]);
    let mut padded = service("padded");
    padded["metadata"]["annotations"] = json!({"example.net/notes": "n".repeat(1 << 20)});
    padded["spec"]["fieldOfTheFuture"] = "yes".into();
    server.put(Resource::EndpointSlices, large.clone());
    server.put(Resource::Services, padded.clone());
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let found = observer.snapshot.endpoint_slices.values().map(|slice| slice.endpoints.len()).max();
    assert_eq!(found, Some(1_000));

    server.put(Resource::EndpointSlices, large);
    server.put(Resource::Services, padded);
    observer.until_equal(&server).await;
}

#[tokio::test]
async fn objects_of_five_megabytes_come_by_list_by_page_and_by_watch() {
    for streams_lists in [true, false] {
        let server = server().await;
        server.set_streams_lists(streams_lists);
        let mut huge = service("huge");
        // More than etcd takes by default; some servers are set to take more.
        huge["metadata"]["annotations"] = json!({"example.net/notes": "n".repeat(5_000_000)});
        server.put(Resource::Services, huge.clone());
        let mut observer = Observer::start(&server.url());
        observer.until_equal(&server).await;
        huge["spec"]["ports"][0]["port"] = 8_443.into();
        server.put(Resource::Services, huge);
        observer.until_equal(&server).await;
        let ports = |o: &Observer| {
            o.snapshot.services.values().flat_map(|service| &service.ports).map(|port| port.port).max()
        };
        assert_eq!(ports(&observer), Some(8_443));
        assert_eq!(observer.interruptions, 0, "not by being cut short");
    }
}

#[tokio::test]
async fn heartbeats_of_nodes_are_no_changes() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let before = observer.changes;
    for i in 0..20 {
        let mut beat = node("a");
        beat["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "reason": format!("r{i}")}]);
        server.put(Resource::Nodes, beat);
    }
    server.put(Resource::Nodes, node("z"));
    observer.until_equal(&server).await;
    assert_eq!(observer.changes - before, 1);
}

#[tokio::test]
async fn object_that_does_not_decode_is_named_and_keeps_its_last_good_state() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let mut bad = service("a");
    bad["spec"]["ports"][0]["port"] = "eighty".into();
    server.put(Resource::Services, bad);
    server.put(Resource::Services, service("f"));
    observer.until("the new Service", |o| o.snapshot.services.len() == 6).await;
    observer.until("a problem", |o| o.problems.iter().count() == 1).await;
    let problems: Vec<_> = observer.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Service shop/a: cannot read the object: invalid type: string \"eighty\", expected i32; \
          its last good state stays"]
    );
    // A new list has it too.
    server.compact();
    server.disconnect();
    server.put(Resource::Services, service("g"));
    observer.until("the next Service", |o| o.snapshot.services.len() == 7).await;
    server.put(Resource::Services, service("a"));
    observer.until_equal(&server).await;
    observer.until("no problems", |o| o.problems.iter().count() == 0).await;
    assert_eq!(observer.gone, [""; 0]);
}

#[tokio::test]
async fn ingresses_their_classes_and_frontend_configs_are_watched() {
    let server = server().await;
    server.put(Resource::IngressClasses, ingress_class("podway"));
    server.put(Resource::FrontendConfigs, frontend_config("a"));
    server.put(Resource::Ingresses, ingress("a"));
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let snapshot = &observer.snapshot;
    let facts = snapshot.ingresses.values().next().expect("the Ingress");
    assert_eq!(facts.vips, ["203.0.113.80".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(facts.frontend_config.as_deref(), Some("a"));
    assert_eq!(snapshot.frontend_configs.values().next().and_then(|config| config.redirect_code), Some(301));

    server.put(Resource::Ingresses, ingress("b"));
    server.delete(Resource::Ingresses, "shop", "a");
    server.delete(Resource::IngressClasses, "", "podway");
    observer.until_equal(&server).await;
    observer.gone.sort();
    assert_eq!(observer.gone, ["Ingress shop/a", "IngressClass podway"]);
}

#[tokio::test]
async fn source_says_how_far_it_has_followed_the_slices() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    let versions = server.versions(Resource::EndpointSlices, crate::observer::SLICES);
    let greatest = versions.values().map(|version| version.parse::<u64>().expect("a number")).max();
    // A list comes in no order of versions: it counts as a whole.
    observer.until("the list", |o| !o.followed.is_empty()).await;
    assert_eq!(observer.followed.as_slice(), greatest.as_slice());

    server.put(Resource::Services, service("a"));
    let changed = server.put(Resource::EndpointSlices, slice("a"));
    observer.until("the change", |o| o.followed.last() == Some(&changed)).await;
    server.delete(Resource::EndpointSlices, "shop", "b");
    observer.until("the deletion", |o| o.followed.last() == Some(&(changed + 1))).await;

    server.set_away(true);
    let missed = ["c", "d", "e"].map(|name| server.put(Resource::EndpointSlices, slice(name)));
    server.compact();
    server.set_away(false);
    observer.until("what it missed", |o| o.followed.last() == Some(&missed[2])).await;
    assert_eq!(observer.followed.len(), 4, "{:?}", observer.followed);
}
