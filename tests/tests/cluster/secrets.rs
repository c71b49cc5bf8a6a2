//! Secrets: only those that are wanted are asked for, each by a watch of its own.
use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::model::ObjectName;
use lb_userspace::source::kube::WantedSecrets;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::observer::{Observer, server};

/// Requests that a role without a right meets before it gets it.
const REFUSALS: usize = 3;

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn secret(name: &str, certificate: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": "K"},
    })
}

fn certificate(observer: &Observer, secret: &str) -> Option<String> {
    let secret = observer.snapshot.secrets.get(&name(secret))?;
    Some(String::from_utf8_lossy(&secret.certificate_pem).into_owned())
}

/// A source that wants `tls-a` of a server that also has `tls-b` and `password`.
async fn start() -> (ApiServer, watch::Sender<WantedSecrets>, Observer) {
    let server = server().await;
    for (name, content) in [("tls-a", "A1"), ("tls-b", "B1"), ("password", "P1")] {
        server.put(Resource::Secrets, secret(name, content));
    }
    let (wanted, receiver) = watch::channel([name("tls-a")].into());
    let observer = Observer::of_secrets(&server.url(), receiver);
    (server, wanted, observer)
}

/// The selectors of all requests for Secrets, each once.
fn asked(server: &ApiServer) -> Vec<String> {
    let requests = server.requests(Resource::Secrets);
    let of = |request: &lb_tests::api_server::Request| request.parameter("fieldSelector").map(str::to_owned);
    let mut asked: Vec<_> = requests.iter().map(|request| of(request).unwrap_or_default()).collect();
    asked.sort();
    asked.dedup();
    asked
}

#[tokio::test]
async fn only_wanted_secrets_are_asked_for_and_read() {
    let (server, wanted, mut observer) = start().await;
    observer.until("tls-a", |o| certificate(o, "tls-a").is_some()).await;
    let selector = |name: &str| format!("metadata.name={name},metadata.namespace=shop");
    assert_eq!(asked(&server), [selector("tls-a")]);

    wanted.send_modify(|all| all.extend([name("tls-b")]));
    observer.until("tls-b", |o| certificate(o, "tls-b").is_some()).await;
    assert_eq!(asked(&server), [selector("tls-a"), selector("tls-b")]);
    assert_eq!(observer.snapshot.secrets.keys().cloned().collect::<Vec<_>>(), [name("tls-a"), name("tls-b")]);
}

#[tokio::test]
async fn a_wanted_secret_is_followed_as_it_changes_goes_and_returns() {
    let (server, _wanted, mut observer) = start().await;
    observer.until("the first content", |o| certificate(o, "tls-a").as_deref() == Some("A1")).await;
    server.put(Resource::Secrets, secret("tls-a", "A2"));
    observer.until("the second content", |o| certificate(o, "tls-a").as_deref() == Some("A2")).await;
    assert!(server.delete(Resource::Secrets, "shop", "tls-a"));
    observer.until("the end", |o| certificate(o, "tls-a").is_none()).await;
    assert_eq!(observer.gone, ["Secret shop/tls-a"]);
    server.put(Resource::Secrets, secret("tls-a", "A3"));
    observer.until("the third content", |o| certificate(o, "tls-a").as_deref() == Some("A3")).await;
    assert_eq!(server.requests(Resource::Secrets).len(), 1, "all by one watch");
}

#[tokio::test]
async fn a_secret_that_is_not_wanted_any_more_is_given_up_with_its_problems() {
    let (server, wanted, mut observer) = start().await;
    observer.until("tls-a", |o| certificate(o, "tls-a").is_some()).await;
    let mut odd = secret("tls-a", "A2");
    odd["data"] = json!({"tls.crt": "no base64!"});
    server.put(Resource::Secrets, odd);
    observer.until("the problem", |o| o.problems.iter().any(|problem| problem.object == name("tls-a"))).await;
    assert_eq!(certificate(&observer, "tls-a").as_deref(), Some("A1"), "its last good state stays");

    wanted.send_replace([name("tls-b")].into());
    observer.until("tls-b", |o| certificate(o, "tls-b").is_some()).await;
    assert_eq!(observer.gone, ["Secret shop/tls-a"]);
    assert_eq!(certificate(&observer, "tls-a"), None);
    observer.until("no problem", |o| o.problems.iter().count() == 0).await;

    // Its watch has ended: what becomes of it is told by none, while that of the other goes on.
    server.put(Resource::Secrets, secret("tls-a", "A3"));
    server.disconnect();
    server.put(Resource::Secrets, secret("tls-b", "B2"));
    observer.until("the other's content", |o| certificate(o, "tls-b").as_deref() == Some("B2")).await;
    assert_eq!(certificate(&observer, "tls-a"), None);
    let last = server.requests(Resource::Secrets).pop().expect("a request");
    assert_eq!(last.parameter("fieldSelector"), Some("metadata.name=tls-b,metadata.namespace=shop"));
}

#[tokio::test]
async fn facts_do_not_wait_for_secrets_that_a_role_may_not_read() {
    let server = server().await;
    server.put(Resource::Secrets, secret("tls-a", "A1"));
    for _ in 0..REFUSALS {
        server.fail_watch(Resource::Secrets, Fault::Status(403, None));
    }
    let (_wanted, receiver) = watch::channel([name("tls-a")].into());
    let mut observer = Observer::of_secrets(&server.url(), receiver);
    observer.until_equal(&server).await;
    assert_eq!(observer.interruptions, 0, "{:?}", observer.problems);
    observer.until("the Secret, once the role has the right", |o| certificate(o, "tls-a").is_some()).await;
    assert_eq!(server.faults_left(), 0);
}
