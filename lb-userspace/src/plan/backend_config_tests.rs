//! What of a port its BackendConfig settles.
use lb_common::neg::NegKind;

use super::fixture::{node, port, ready, service, slice};
use super::tests::{Failing, members};
use super::*;
use crate::model::{
    BackendConfig, BackendConfigNames, BackendConfigs, CheckKind, DrainContract, HealthCheck, Service,
};

/// A BackendConfig of the namespace `shop` with a check on this port and this drain.
fn config(name: &str, check_port: u16, deadline_s: u32) -> (ObjectName, Arc<BackendConfig>) {
    let name = ObjectName::new("shop", name);
    let config = BackendConfig {
        name: name.clone(),
        resource_version: "5".into(),
        uid: "".into(),
        health_check: Some(Arc::new(check_on(check_port))),
        drain: Some(DrainContract { deadline_s }),
        http: Arc::default(),
    };
    (name, Arc::new(config))
}

fn check_on(port: u16) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(port),
        interval_ms: 1_000,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 3,
    }
}

/// Port of the check, and drain deadline, of each backend service.
fn settled(facts: &Service, configs: &BackendConfigs) -> Vec<(Option<u16>, u32)> {
    let plan = super::service(facts, &[], configs, &node(), &ReadinessAlone);
    let services = plan.backend_services.iter();
    services.map(|s| (s.health_check.as_ref().and_then(|check| check.port), s.drain.deadline_s)).collect()
}

/// A Service with the ports http (80), dns (53) and an unnamed one (7), and what it names.
fn with_configs(default: Option<&str>, ports: &[(&str, &str)]) -> Service {
    let backend_configs = BackendConfigNames {
        default: default.map(Into::into),
        ports: ports.iter().map(|(port, name)| ((*port).into(), (*name).into())).collect(),
    };
    let ports = vec![port("http", 80), port("dns", 53), port("", 7)];
    Service { ports, backend_configs, ..service("cart", "10.96.0.1") }
}

#[test]
fn a_port_follows_the_backend_config_of_its_name_then_of_its_number_then_the_default() {
    let facts = with_configs(Some("c"), &[("http", "a"), ("80", "b"), ("53", "b")]);
    let configs = [config("a", 1, 10), config("b", 2, 20), config("c", 3, 30)].into();
    assert_eq!(settled(&facts, &configs), [(Some(1), 10), (Some(2), 20), (Some(3), 30)]);
}

#[test]
fn annotations_go_before_the_backend_config_one_by_one() {
    let configs = [config("a", 1, 10)].into();
    let mut facts = with_configs(Some("a"), &[]);
    facts.health_check = Some(Arc::new(check_on(9)));
    assert_eq!(settled(&facts, &configs), [(Some(9), 10); 3]);
    facts.health_check = None;
    facts.drain = Some(DrainContract { deadline_s: 90 });
    assert_eq!(settled(&facts, &configs), [(Some(1), 90); 3]);
}

#[test]
fn a_backend_config_that_is_not_there_is_named_once_and_the_defaults_hold() {
    let facts = with_configs(Some("a"), &[("http", "b"), ("53", "b")]);
    let elsewhere = ObjectName::new("other", "b");
    let configs: BackendConfigs = [config("a", 1, 10), (elsewhere, config("b", 2, 20).1)].into();
    assert_eq!(settled(&facts, &configs), [(None, 3_600), (None, 3_600), (Some(1), 10)]);
    let plan = super::service(&facts, &[], &configs, &node(), &ReadinessAlone);
    let problems: Vec<&str> = plan.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        problems,
        [
            "cannot find BackendConfig shop/b; create it or correct annotation cloud.google.com/backend-config; without \
          it the defaults hold"
        ]
    );
}

#[test]
fn the_check_of_a_backend_config_counts() {
    let facts = with_configs(Some("a"), &[]);
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")])];
    let configs = [config("a", 1, 10)].into();
    let plan = super::service(&facts, &slices, &configs, &node(), &Failing(vec!["10.1.0.1"]));
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.2:8080"]);
}
