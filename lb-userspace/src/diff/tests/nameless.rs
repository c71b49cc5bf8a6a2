//! Backend services whose names were lost.
use super::*;

/// Two Services, and tables in which the first of their ids is another's.
fn stored() -> (Desired, Tables) {
    let mut tables = Tables::new(Limits::default());
    let users = planned(&service("users", "10.96.0.2"), vec![ready("10.1.0.2", "node-a")]);
    let both = desired([cart(vec![ready("10.1.0.1", "node-a")]), users]);
    bring(&mut tables, &desired([dns(vec![])]), 0);
    bring(&mut tables, &both, NOW_MS);
    (both, tables)
}

fn without_names(tables: &Tables) -> Tables {
    let names = Vec::new();
    Tables::recover(*tables.limits(), Dump { names, ..tables.dump() })
}

#[test]
fn an_id_without_a_name_is_found_by_its_frontend_and_keeps_its_endpoints() {
    let (both, tables) = stored();
    let diff = full(&both, &without_names(&tables), NOW_MS);
    let ids: Vec<u32> = tables.backend_service_ids().collect();
    let named: Vec<u32> = diff
        .ops
        .iter()
        .map(|op| match op {
            Op::PutBackendService { id, .. } => *id,
            op => panic!("{op}"),
        })
        .collect();
    assert_eq!(named, ids);
    let mut after = without_names(&tables);
    bring_unchecked(&mut after, &both);
    assert_eq!(after.dump(), tables.dump());
}

#[test]
fn an_id_without_a_name_and_a_frontend_is_given_up() {
    let (_, tables) = stored();
    let mut after = without_names(&tables);
    bring_unchecked(&mut after, &Desired::default());
    assert_eq!((after.backend_service_ids().count(), after.endpoint_ids().count()), (0, 0));
}

/// What is nameless is no valid state, so that only the end is one.
fn bring_unchecked(tables: &mut Tables, desired: &Desired) {
    for op in full(desired, tables, NOW_MS).ops {
        tables.apply(&op, NOW_MS);
    }
    assert_eq!(tables.check(), []);
}
