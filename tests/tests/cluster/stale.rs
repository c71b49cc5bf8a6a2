//! An API server that is behind: what has been seen does not go back.
use lb_tests::api_server::Resource;

use crate::observer::{Observer, server, service, slice};

#[tokio::test]
async fn list_from_a_server_that_is_behind_takes_nothing_back() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    server.fall_behind();
    server.delete(Resource::Services, "shop", "b");
    server.put(Resource::Services, service("f"));
    observer.until_equal(&server).await;
    let before = observer.changes;
    // The watch cannot go on, so it begins again with a list.
    server.compact();
    server.disconnect();
    server.put(Resource::Services, service("g"));
    observer.until_equal(&server).await;
    assert_eq!(observer.gone, ["Service shop/b"]);
    assert_eq!(observer.changes - before, 1, "g alone");
}

#[tokio::test]
async fn agent_that_starts_at_a_server_that_is_behind_begins_with_the_newest_state() {
    for streams_lists in [true, false] {
        let server = server().await;
        server.set_streams_lists(streams_lists);
        server.fall_behind();
        server.delete(Resource::EndpointSlices, "shop", "b");
        server.put(Resource::EndpointSlices, slice("f"));
        let mut observer = Observer::start(&server.url());
        observer.until("synced", |o| o.synced == 1).await;
        let names: Vec<_> = observer.snapshot.endpoint_slices.keys().map(ToString::to_string).collect();
        let newest = ["shop/a", "shop/c", "shop/d", "shop/e", "shop/f"];
        assert_eq!(names, newest, "lists are streamed: {streams_lists}");
    }
}
