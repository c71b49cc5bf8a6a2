//! How the source learns where the API server is.
use std::time::Duration;

use lb_userspace::source::kube::{Settings, config, read_once};

use crate::observer::{Observer, server};

#[tokio::test]
async fn kubeconfig_leads_to_its_current_context() {
    let server = server().await;
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = dir.path().join("kubeconfig");
    let text = format!(
        "
apiVersion: v1
kind: Config
current-context: here
contexts:
- {{name: there, context: {{cluster: there, user: nobody}}}}
- {{name: here, context: {{cluster: here, user: nobody}}}}
clusters:
- {{name: there, cluster: {{server: 'http://192.0.2.1:6443'}}}}
- {{name: here, cluster: {{server: '{}'}}}}
users:
- {{name: nobody, user: {{}}}}
",
        server.url()
    );
    std::fs::write(&file, text).expect("write the kubeconfig");
    let mut observer = Observer::with_config(config(Some(&file)).await.expect("a usable file"));
    observer.until_equal(&server).await;
}

#[tokio::test]
async fn kubeconfig_that_is_missing_or_has_no_context_is_named() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = dir.path().join("kubeconfig");
    let missing = config(Some(&file)).await.expect_err("there is none");
    assert_eq!(missing.to_string(), format!("cannot read kubeconfig {}", file.display()));
    std::fs::write(&file, "{apiVersion: v1, kind: Config, current-context: nowhere}").expect("write it");
    let unusable = config(Some(&file)).await.expect_err("has no such context");
    assert_eq!(
        unusable.to_string(),
        format!("cannot use the current context of kubeconfig {}", file.display())
    );
}

#[tokio::test]
async fn a_cluster_is_read_once_as_it_is() {
    let server = server().await;
    let mut observer = Observer::start(&server.url());
    observer.until_equal(&server).await;
    assert!(!observer.snapshot.services.is_empty());
    let config = kube::Config::new(server.url().parse().expect("a URL"));
    let read = read_once(config, Settings::default(), Duration::from_secs(30)).await;
    let (snapshot, problems) = read.expect("the cluster's objects");
    assert_eq!((&snapshot, problems), (&observer.snapshot, vec![]));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_named() {
    // RFC 5737: nobody is there.
    let config = kube::Config::new("http://192.0.2.1:6443".parse().expect("a URL"));
    let error =
        read_once(config, Settings::default(), Duration::from_millis(50)).await.expect_err("nobody answers");
    assert!(
        error.to_string().starts_with("cannot read the cluster's objects from http://192.0.2.1:6443"),
        "{error}"
    );
}
