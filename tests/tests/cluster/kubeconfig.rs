//! How the source learns where the API server is.
use lb_userspace::source::kube::config;

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
