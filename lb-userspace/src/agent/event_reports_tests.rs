use super::*;
use crate::agent::NodeFlags;
use crate::model::{
    BackendConfig, BackendConfigNames, Change, ClassChoice, FrontendConfig, Ingress, IngressTls, Service,
    TlsSecret,
};
use crate::plan::fixture::service;

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn problem(kind: &'static str, object: &str) -> Problem {
    Problem { kind, object: name(object), message: "it is bad".to_owned() }
}

/// `web` is Podway's and names the Secret `tls` and the FrontendConfig `front`, `other` is another controller's and names
/// `other`; `cart` names the BackendConfig `back`.
fn planner() -> Planner {
    let mut planner = Planner::new("node-a", NodeFlags::default());
    let ingress = |of: &str, class: &str, secret: &str, config: &str| Ingress {
        class: ClassChoice::Annotation(class.into()),
        tls: vec![IngressTls { hosts: Vec::new(), secret: secret.into() }],
        frontend_config: Some(config.into()),
        uid: format!("uid-{of}").into(),
        ..Ingress::new(name(of))
    };
    planner.change(Change::Ingress(ingress("web", "podway", "tls", "front").into()));
    planner.change(Change::Ingress(ingress("other", "nginx", "other", "other").into()));
    let cart = Service {
        backend_configs: BackendConfigNames { default: Some("back".into()), ..BackendConfigNames::default() },
        ..service("cart", "10.96.0.1")
    };
    planner.change(Change::Service(cart.into()));
    planner
}

fn told(problems: &[Problem], planner: &Planner) -> Vec<String> {
    let faults = faults(problems.iter(), planner).into_iter();
    faults.map(|fault| format!("{} {}: {}", fault.kind.name(), fault.object.name, fault.message)).collect()
}

#[test]
fn faults_of_what_podway_serves_are_told_and_no_others() {
    let planner = planner();
    let mut problems = Vec::new();
    for kind in ["Ingress", "FrontendConfig", "BackendConfig", "Service", "Node"] {
        problems.extend(["web", "other", "front", "back", "cart"].map(|object| problem(kind, object)));
    }
    assert_eq!(
        told(&problems, &planner),
        [
            "Ingress web: it is bad",
            "Service cart: it is bad",
            "FrontendConfig front: it is bad",
            "BackendConfig back: it is bad"
        ]
    );
}

#[test]
fn the_fault_of_a_secret_stands_on_the_ingresses_that_name_it_and_on_the_secret_where_there_is_one() {
    let mut planner = planner();
    let problems = [problem("Secret", "tls"), problem("Secret", "other")];
    assert_eq!(told(&problems, &planner), ["Ingress web: Secret tls: it is bad"]);
    planner.change(Change::Secret(TlsSecret {
        name: name("tls"),
        resource_version: "1".into(),
        uid: "uid-tls".into(),
        certificate_pem: [][..].into(),
        key_pem: [][..].into(),
        authority_pem: [][..].into(),
    }));
    assert_eq!(told(&problems, &planner), ["Ingress web: Secret tls: it is bad", "Secret tls: it is bad"]);
    assert_eq!(&*planner.uid_of(FaultyKind::Secret, &name("tls")), "uid-tls");
}

#[test]
fn an_event_finds_its_object_by_its_uid() {
    let mut planner = planner();
    let (resource_version, uid): (std::sync::Arc<str>, std::sync::Arc<str>) =
        ("1".into(), "uid-config".into());
    planner.change(Change::FrontendConfig(FrontendConfig {
        name: name("front"),
        resource_version: resource_version.clone(),
        uid: uid.clone(),
        redirect_code: None,
        min_tls_version: None,
    }));
    planner.change(Change::BackendConfig(BackendConfig {
        name: name("back"),
        resource_version,
        uid,
        health_check: None,
        drain: None,
        http: std::sync::Arc::default(),
    }));
    let uid = |kind, object| planner.uid_of(kind, &name(object)).to_string();
    assert_eq!(uid(FaultyKind::Ingress, "web"), "uid-web");
    assert_eq!(uid(FaultyKind::FrontendConfig, "front"), "uid-config");
    assert_eq!(uid(FaultyKind::BackendConfig, "back"), "uid-config");
    assert_eq!(uid(FaultyKind::Ingress, "gone"), "");
}
