//! Source ranges.
use crate::model::SourceRanges;

use super::*;

/// `shop/cart` with a load-balancer IP that lets in the networks 192.0.N.0/24.
fn restricted(numbers: impl IntoIterator<Item = u16>) -> ServicePlan {
    let network = |number: u16| {
        (std::net::Ipv4Addr::from((192 << 24 | u32::from(number) << 8).to_be_bytes()).into(), 24)
    };
    let facts = Service {
        load_balancer_ips: vec![ip("203.0.113.5")],
        source_ranges: SourceRanges {
            ranges: numbers.into_iter().map(network).collect(),
            has_unreadable: false,
        },
        ..service("cart", "10.96.0.1")
    };
    planned(&facts, vec![])
}

/// The operations on ranges, and on frontends and backend services between them.
fn steps(diff: &Diff) -> Vec<String> {
    let verbs = [
        "put source",
        "delete source",
        "put frontend 203",
        "delete frontend 203",
        "delete backend",
        "put backend",
    ];
    let is_step = |text: &String| verbs.iter().any(|verb| text.starts_with(verb));
    let cut = |text: String| text.split(": ").next().unwrap_or_default().to_owned();
    texts(diff).into_iter().filter(is_step).map(cut).collect()
}

#[test]
fn ranges_are_put_before_the_frontend_that_checks_them() {
    let diff = full(&desired([restricted([2])]), &Tables::new(Limits::default()), 0);
    assert_eq!(
        steps(&diff),
        [
            "put backend service 0",
            "put source range 192.0.2.0/24 of backend service 0",
            "put frontend 203.0.113.5:80/TCP",
        ]
    );
    assert!(texts(&diff).iter().any(|text| text.ends_with("from outside, checks sources")));
}

#[test]
fn a_new_range_comes_before_an_old_one_goes_and_the_rest_stays() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([restricted(0..2_000)]), 0);
    let diff = full(&desired([restricted(1..2_001)]), &tables, 0);
    assert_eq!(
        steps(&diff),
        [
            "put source range 192.7.208.0/24 of backend service 0",
            "delete source range 192.0.0.0/24 of backend service 0"
        ]
    );
}

#[test]
fn the_frontend_opens_before_its_ranges_go() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([restricted([2])]), 0);
    let diff = full(&desired([restricted([])]), &tables, 0);
    assert_eq!(
        steps(&diff),
        ["put frontend 203.0.113.5:80/TCP", "delete source range 192.0.2.0/24 of backend service 0"]
    );
}

#[test]
fn ranges_of_a_service_that_is_gone_go_before_its_id_is_free() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([restricted([2])]), 0);
    let diff = services(&Desired::default(), &tables, [&ObjectName::new("shop", "cart")], 0);
    assert_eq!(
        steps(&diff),
        [
            "delete frontend 203.0.113.5:80/TCP",
            "delete source range 192.0.2.0/24 of backend service 0",
            "delete backend service 0",
        ]
    );
}

#[test]
fn ranges_past_the_bound_are_named_and_come_when_there_is_room() {
    let mut tables = Tables::new(Limits { source_ranges_max: 2, ..Limits::default() });
    let diff = full(&desired([restricted([1, 2, 3])]), &tables, 0);
    assert_eq!(
        diff.problems[0].message,
        "cannot put 1 of the 3 source ranges of shop/cart:http/TCP, whose clients are refused: map SOURCE_RANGES is \
         full (2 entries); raise --source-ranges-max"
    );
    apply(&mut tables, &diff, 0);
    assert_eq!(diff.pending.len(), 1);
    bring(&mut tables, &desired([restricted([3])]), 0);
    bring(&mut tables, &desired([restricted([3])]), 0);
    assert_eq!(tables.source_ranges_used(), 1);
}

#[test]
fn ranges_of_an_id_that_is_not_in_use_are_found_and_cleared() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([restricted([2])]), 0);
    let dump = Dump { source_ranges: tables.dump().source_ranges, ..Dump::default() };
    let mut tables = Tables::recover(Limits::default(), dump);
    let found: Vec<String> = tables.check().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["source ranges belong to backend service 0, which is not in use"]);
    bring_away(&mut tables);
    assert_eq!(tables.source_ranges_used(), 0);
}

fn bring_away(tables: &mut Tables) {
    let diff = services(&Desired::default(), tables, [], 0);
    diff.ops.iter().for_each(|op| tables.apply(op, 0));
}
