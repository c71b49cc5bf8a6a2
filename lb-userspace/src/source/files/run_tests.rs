use super::*;
use crate::model::ObjectName;

/// Longest wait for what a test expects.
const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 192.0.2.1}}\n"
    )
}

/// Takes events until the snapshot has exactly these Services of the namespace `default`.
async fn expect_services(
    receiver: &mut mpsc::Receiver<SourceEvent>,
    snapshot: &mut Snapshot,
    names: &[&str],
) {
    let wanted: Vec<_> = names.iter().map(|name| ObjectName::new("default", name)).collect();
    timeout(DEADLINE, async {
        while !snapshot.services.keys().eq(&wanted) {
            if let SourceEvent::Change(change) = receiver.recv().await.expect("the source runs on") {
                apply(snapshot, change);
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("expected {names:?}, have {:?}", snapshot.services.keys()));
}

#[tokio::test]
async fn changes_of_the_folder_are_reported_as_they_come() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("a.yaml"), service("one")).expect("write a manifest");
    let (sender, mut receiver) = mpsc::channel(16);
    let source = tokio::spawn(run(dir.path().to_owned(), sender));
    let first = receiver.recv().await.expect("the source runs on");
    let SourceEvent::Change(change) = first else { panic!("not a change: {first:?}") };
    let mut snapshot = Snapshot::default();
    apply(&mut snapshot, change);
    assert_eq!(receiver.recv().await, Some(SourceEvent::Synced));

    let start = Instant::now();
    std::fs::write(file("b.yaml"), service("two")).expect("write a manifest");
    expect_services(&mut receiver, &mut snapshot, &["one", "two"]).await;
    assert!(start.elapsed() < POLL_INTERVAL, "found by the poll alone");
    std::fs::rename(file("b.yaml"), file("c.yaml")).expect("rename a manifest");
    std::fs::write(file("a.yaml"), service("three")).expect("write a manifest");
    expect_services(&mut receiver, &mut snapshot, &["three", "two"]).await;
    std::fs::remove_file(file("c.yaml")).expect("remove a manifest");
    expect_services(&mut receiver, &mut snapshot, &["three"]).await;

    drop(receiver);
    timeout(DEADLINE, source).await.expect("ends without a receiver").expect("no panic");
}

#[tokio::test]
async fn folder_that_comes_later_or_is_replaced_is_found() {
    let parent = tempfile::tempdir().expect("a folder for the test");
    let dir = parent.path().join("manifests");
    let (sender, mut receiver) = mpsc::channel(16);
    let source = tokio::spawn(run(dir.clone(), sender));
    let first = receiver.recv().await.expect("the source runs on");
    assert!(matches!(first, SourceEvent::Problems(_)), "{first:?}");
    std::fs::create_dir(&dir).expect("create the folder");
    let mut snapshot = Snapshot::default();
    std::fs::write(dir.join("a.yaml"), service("one")).expect("write a manifest");
    expect_services(&mut receiver, &mut snapshot, &["one"]).await;

    let next = parent.path().join("next");
    std::fs::create_dir(&next).expect("create a folder");
    std::fs::write(next.join("a.yaml"), service("two")).expect("write a manifest");
    std::fs::rename(&dir, parent.path().join("old")).expect("move the folder away");
    std::fs::rename(&next, &dir).expect("move the next one in place");
    expect_services(&mut receiver, &mut snapshot, &["two"]).await;
    let start = Instant::now();
    std::fs::write(dir.join("a.yaml"), service("three")).expect("write a manifest");
    expect_services(&mut receiver, &mut snapshot, &["three"]).await;
    assert!(start.elapsed() < POLL_INTERVAL, "found by the poll alone");
    source.abort();
}
