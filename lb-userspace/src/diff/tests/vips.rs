//! The entries of VIPs.
use super::*;

/// `shop/NAME` with an external IP that several Services share, on a port of its own.
fn sharing(name: &str, number: u16) -> ServicePlan {
    let facts = Service {
        external_ips: vec![ip("203.0.113.9")],
        ports: vec![crate::plan::fixture::port("http", number)],
        ..service(name, &format!("10.96.0.{number}"))
    };
    planned(&facts, vec![])
}

fn vips(tables: &Tables) -> Vec<String> {
    let text = |(address, vip): (&lb_common::Address, &lb_common::frontend::Frontend)| {
        Op::PutVip { address: *address, vip: *vip }.to_string()
    };
    tables.vips().iter().map(text).collect()
}

#[test]
fn ports_of_cluster_ips_alone_are_refused() {
    let mut facts = Service {
        external_ips: vec![ip("203.0.113.9")],
        load_balancer_ips: vec![ip("203.0.113.10")],
        ..service("cart", "10.96.0.1")
    };
    facts.ports[0].node_port = Some(30_080);
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([planned(&facts, vec![])]), 0);
    assert_eq!(
        vips(&tables),
        [
            "put VIP 10.96.0.1: ClusterIP, refuses other ports",
            "put VIP 203.0.113.9: ExternalIP",
            "put VIP 203.0.113.10: LoadBalancer",
        ]
    );
}

#[test]
fn a_node_address_has_no_entry() {
    let mut facts = service("cart", "10.96.0.1");
    facts.ports[0].node_port = Some(30_080);
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([planned(&facts, vec![])]), 0);
    assert_eq!(tables.frontends().len(), 2);
    assert_eq!(vips(&tables), ["put VIP 10.96.0.1: ClusterIP, refuses other ports"]);
}

#[test]
fn an_address_that_services_share_stays_until_the_last_one_goes() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([sharing("cart", 80), sharing("web", 81)]), 0);
    let one = diff_services(&desired([sharing("web", 81)]), &tables, "cart");
    assert_eq!(deleted_vips(&one), ["delete VIP 10.96.0.80"]);
    apply(&mut tables, &one, 0);
    let both = diff_services(&Desired::default(), &tables, "web");
    assert_eq!(deleted_vips(&both), ["delete VIP 10.96.0.81", "delete VIP 203.0.113.9"]);
}

fn diff_services(desired: &Desired, tables: &Tables, name: &str) -> Diff {
    services(desired, tables, [&ObjectName::new("shop", name)], NOW_MS)
}

fn deleted_vips(diff: &Diff) -> Vec<String> {
    texts(diff).into_iter().filter(|text| text.starts_with("delete VIP")).collect()
}

#[test]
fn a_cluster_ip_that_is_an_external_ip_too_refuses_while_it_is_a_cluster_ip() {
    let external = Service { external_ips: vec![ip("10.96.0.1")], ..service("web", "10.96.0.2") };
    let external = Service { ports: vec![crate::plan::fixture::port("http", 81)], ..external };
    let web = || planned(&external, vec![]);
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([web(), cart(vec![])]), 0);
    assert_eq!(vips(&tables)[0], "put VIP 10.96.0.1: ClusterIP, refuses other ports");
    let diff = diff_services(&desired([web()]), &tables, "cart");
    apply(&mut tables, &diff, 0);
    assert_eq!(vips(&tables)[0], "put VIP 10.96.0.1: ExternalIP");
}

#[test]
fn an_entry_that_an_apply_left_behind_is_cleared_after_a_restart() {
    let mut tables = Tables::new(Limits::default());
    let diff = full(&desired([cart(vec![])]), &tables, 0);
    let is_vip = |op: &Op| matches!(op, Op::PutVip { .. });
    let end = diff.ops.iter().position(is_vip).expect("an entry") + 1;
    diff.ops[..end].iter().for_each(|op| tables.apply(op, 0));
    let tables = Tables::recover(Limits::default(), tables.dump());
    assert_eq!(deleted_vips(&full(&Desired::default(), &tables, 0)), ["delete VIP 10.96.0.1"]);
}

#[test]
fn a_restart_finds_the_entries() {
    let mut tables = Tables::new(Limits::default());
    let wanted = desired([cart(vec![])]);
    bring(&mut tables, &wanted, 0);
    let recovered = Tables::recover(Limits::default(), tables.dump());
    assert_eq!(recovered.vips(), tables.vips());
    assert_eq!(recovered.frontends().len(), 1);
    assert_eq!(full(&wanted, &recovered, 0).ops, []);
}
