use super::*;
use crate::model::BackendConfigs;
use crate::plan::fixture::{node, ready, service, slice, unready};
use crate::plan::{HealthView, ReadinessAlone};

fn cart() -> ObjectName {
    ObjectName::new("shop", "cart")
}

fn planned(is_ready: bool) -> ServicePlan {
    let endpoint = if is_ready { ready("10.1.0.1", "node-a") } else { unready("10.1.0.1", "node-a") };
    let slices = [slice("cart-1", "cart", vec![endpoint])];
    let facts = service("cart", "10.96.0.1");
    crate::plan::service(&facts, &slices, &BackendConfigs::new(), &node(), &ReadinessAlone)
}

/// No endpoint passes its check.
struct NonePasses;

impl HealthView for NonePasses {
    fn is_healthy(&self, _: &BackendServiceName, _: std::net::IpAddr, _: u16) -> bool {
        false
    }
}

/// A ledger with what it knows of the Service `cart`, and the time since its start.
struct Fixture {
    ledger: Ledger,
    start: Instant,
}

impl Fixture {
    /// Begins with the Service's plan.
    fn new(first: &ServicePlan) -> Self {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        ledger.note(&cart(), Some(first), start);
        Self { ledger, start }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn note(&mut self, seconds: u64, is_ready: bool) {
        self.ledger.note(&cart(), Some(&planned(is_ready)), self.at(seconds));
    }

    fn due(&mut self, seconds: u64) -> Vec<Condition> {
        let due = self.ledger.due(self.at(seconds), |_| true);
        due.into_iter().map(|(_, condition)| condition).collect()
    }
}

#[test]
fn a_backend_service_that_loses_its_last_endpoint_is_told_once_it_has_lasted() {
    let mut fixture = Fixture::new(&planned(true));
    fixture.note(10, false);
    assert_eq!(fixture.due(14), []);
    assert_eq!(fixture.due(15), [Condition::Empty]);
    assert_eq!(fixture.due(100), []);
}

#[test]
fn one_that_is_well_again_is_told() {
    let mut fixture = Fixture::new(&planned(true));
    fixture.note(10, false);
    assert_eq!(fixture.due(15), [Condition::Empty]);
    fixture.note(20, true);
    assert_eq!(fixture.due(25), [Condition::Well]);
}

#[test]
fn what_comes_and_goes_is_not_told() {
    let mut fixture = Fixture::new(&planned(true));
    fixture.note(10, false);
    fixture.note(14, true);
    assert_eq!(fixture.due(60), []);
}

#[test]
fn one_that_begins_without_endpoints_is_not_told() {
    let mut fixture = Fixture::new(&planned(false));
    assert_eq!(fixture.due(60), []);
    fixture.note(70, true);
    assert_eq!(fixture.due(80), [], "nor that it has got some");
}

#[test]
fn one_whose_endpoints_all_fail_their_check_is_in_panic() {
    let mut facts = service("cart", "10.96.0.1");
    facts.health_check = Some(Arc::new(crate::model::HealthCheck {
        kind: crate::model::CheckKind::Tcp,
        port: None,
        interval_ms: 1_000,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 3,
    }));
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-a")])];
    let plan = |health: &dyn HealthView| {
        let plan = crate::plan::service(&facts, &slices, &BackendConfigs::new(), &node(), health);
        plan.backend_services[0].condition()
    };
    assert_eq!(plan(&NonePasses), Condition::Panic);
    assert_eq!(plan(&ReadinessAlone), Condition::Well);
}

#[test]
fn a_service_that_is_gone_is_not_told() {
    let mut fixture = Fixture::new(&planned(true));
    fixture.note(10, false);
    fixture.ledger.note(&cart(), None, fixture.at(11));
    assert_eq!(fixture.due(60), []);
}

#[test]
fn what_another_node_writes_counts_as_told() {
    let mut fixture = Fixture::new(&planned(true));
    fixture.note(10, false);
    assert_eq!(fixture.ledger.due(fixture.at(15), |_| false), []);
    assert_eq!(fixture.due(16), []);
}

#[test]
fn twenty_are_told_at_once_and_one_more_each_three_seconds() {
    let start = Instant::now();
    let mut ledger = Ledger::new(start);
    let note = |ledger: &mut Ledger, is_ready, now| {
        for number in 0..30 {
            let name = format!("cart-{number:02}");
            let mut facts = service(&name, "10.96.0.1");
            facts.name = ObjectName::new("shop", &name);
            let endpoint = if is_ready { ready("10.1.0.1", "node-a") } else { unready("10.1.0.1", "node-a") };
            let slices = [slice("s", &name, vec![endpoint])];
            let none = BackendConfigs::new();
            let plan = crate::plan::service(&facts, &slices, &none, &node(), &ReadinessAlone);
            ledger.note(&facts.name, Some(&plan), now);
        }
    };
    note(&mut ledger, true, start);
    note(&mut ledger, false, start);
    let mut due = |seconds| ledger.due(start + Duration::from_secs(seconds), |_| true).len();
    assert_eq!([5, 6, 8, 9, 35].map(&mut due), [20, 1, 0, 1, 8]);
}

#[test]
fn three_nodes_of_all_write_for_a_service() {
    let names: Vec<String> = (0..40).map(|number| format!("node-{number}")).collect();
    let writers = |service: &str| -> Vec<&str> {
        let service = ObjectName::new("shop", service);
        let is_one = |name: &&str| is_writer(&service, name, names.iter().map(String::as_str));
        names.iter().map(String::as_str).filter(is_one).collect()
    };
    assert_eq!(writers("cart").len(), 3);
    assert_ne!(writers("cart"), writers("web"));
}

#[test]
fn a_port_without_the_node_port_that_its_neg_needs_is_told_from_the_beginning() {
    let mut faulty = planned(true);
    faulty.backend_services[0].node_ports =
        Some(crate::plan::NodePorts { port: None, check: None, negs: Vec::new() });
    let mut fixture = Fixture::new(&faulty);
    assert_eq!(fixture.due(4), []);
    assert_eq!(fixture.due(5), [Condition::NoNodePort]);
    fixture.note(10, true);
    assert_eq!(fixture.due(15), [Condition::Well]);
}
