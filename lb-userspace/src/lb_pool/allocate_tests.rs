use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::lb_pool::{Owner, OwnerKind};
use crate::model::{ObjectName, Protocol};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn pool(name: &str, ranges: &[&str]) -> Pool {
    let ranges = ranges.iter().map(|text| text.parse().expect("a range")).collect();
    Pool { name: name.into(), ranges, selector: None, is_auto_assigned: true }
}

/// A Service with TCP port 80 and IPv4 alone.
fn claim(name: &str) -> Claim {
    Claim {
        owner: Owner { kind: OwnerKind::Service, object: ObjectName::new("shop", name) },
        created_s: None,
        labels: Arc::default(),
        families: vec![Family::V4],
        wanted: vec![],
        present: vec![],
        sharing_key: None,
        ports: [(Protocol::Tcp, 80)].into(),
    }
}

/// What each gets, by name.
fn given(pools: &[Pool], claims: &[Claim], reserved: &[&str]) -> (Vec<(String, Vec<IpAddr>)>, Vec<String>) {
    let allocation = allocate(pools, claims, &ips(reserved).into_iter().collect());
    let addresses = allocation.addresses.into_iter();
    let addresses = addresses.map(|(owner, addresses)| (owner.object.name.to_string(), addresses)).collect();
    (addresses, allocation.problems.iter().map(ToString::to_string).collect())
}

fn has(name: &str, addresses: &[&str]) -> (String, Vec<IpAddr>) {
    (name.to_owned(), ips(addresses))
}

#[test]
fn each_gets_the_lowest_free_address_of_its_families() {
    let pools = [pool("", &["192.0.2.8/29", "2001:db8::10-2001:db8::1f"])];
    let both = Claim { families: Family::ALL.to_vec(), ..claim("b") };
    let found = given(&pools, &[claim("a"), both, claim("c")], &["192.0.2.9"]);
    let expected =
        [has("a", &["192.0.2.8"]), has("b", &["192.0.2.10", "2001:db8::10"]), has("c", &["192.0.2.11"])];
    assert_eq!(found, (expected.into(), vec![]));
}

#[test]
fn what_an_object_has_stays_though_lower_ones_are_free() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let settled = Claim { present: ips(&["192.0.2.12"]), ..claim("z") };
    assert_eq!(given(&pools, &[settled], &[]).0, [has("z", &["192.0.2.12"])]);
}

#[test]
fn a_wanted_address_is_given_where_it_is_free_and_no_other_where_not() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let wants = |name: &str, address: &str| Claim { wanted: ips(&[address]), ..claim(name) };
    let owner = Claim { present: ips(&["192.0.2.9"]), ..claim("o") };
    let claims =
        [wants("a", "192.0.2.13"), wants("b", "192.0.2.9"), wants("c", "198.51.100.1"), owner, claim("d")];
    let (found, problems) = given(&pools, &claims, &[]);
    let expected = [
        has("a", &["192.0.2.13"]),
        has("b", &[]),
        has("c", &[]),
        has("d", &["192.0.2.8"]),
        has("o", &["192.0.2.9"]),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        problems,
        [
            "Service shop/b: cannot give it 192.0.2.9: Service shop/o has it; ask for another one",
            "Service shop/c: cannot give it 198.51.100.1: no pool has it; ask for another one",
        ]
    );
}

#[test]
fn what_an_object_has_stays_until_it_can_get_what_it_wants() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let moves = Claim { present: ips(&["192.0.2.8"]), wanted: ips(&["192.0.2.9"]), ..claim("a") };
    let holder = Claim { present: ips(&["192.0.2.9"]), ..claim("b") };
    let found = given(&pools, &[moves.clone(), holder], &[]).0;
    assert_eq!(found, [has("a", &["192.0.2.8"]), has("b", &["192.0.2.9"])]);
    assert_eq!(given(&pools, &[moves], &[]).0, [has("a", &["192.0.2.9"])]);
}

#[test]
fn an_exhausted_pool_leaves_the_youngest_without_and_the_others_as_they_are() {
    let pools = [pool("", &["192.0.2.8/31"])];
    let of = |name: &str, created_s| Claim { created_s: Some(created_s), ..claim(name) };
    let (found, problems) = given(&pools, &[of("a", 9), of("b", 5), of("c", 7)], &[]);
    assert_eq!(found, [has("a", &[]), has("b", &["192.0.2.8"]), has("c", &["192.0.2.9"])]);
    assert_eq!(
        problems,
        [
            "Service shop/a: cannot give it an IPv4 address: the pools for it have none left; add addresses to \
             --lb-pool or to a LoadBalancerPool"
        ]
    );
}

#[test]
fn services_share_an_address_by_key_and_port() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let of = |name: &str, key: &str, port| Claim {
        sharing_key: Some(key.into()),
        ports: [(Protocol::Tcp, port)].into(),
        ..claim(name)
    };
    let claims = [of("a", "x", 80), of("b", "x", 443), of("c", "x", 80), of("d", "y", 22)];
    let expected = [
        has("a", &["192.0.2.8"]),
        has("b", &["192.0.2.8"]),
        has("c", &["192.0.2.9"]),
        has("d", &["192.0.2.10"]),
    ];
    assert_eq!(given(&pools, &claims, &[]), (expected.into(), vec![]));
}

#[test]
fn ingresses_share_an_address_by_key_alone_and_never_with_a_service() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let of = |kind, name: &str, port| Claim {
        owner: Owner { kind, object: ObjectName::new("shop", name) },
        sharing_key: Some("x".into()),
        ports: [(Protocol::Tcp, port)].into(),
        ..claim(name)
    };
    let claims =
        [of(OwnerKind::Ingress, "a", 80), of(OwnerKind::Ingress, "b", 80), of(OwnerKind::Service, "c", 22)];
    let found = given(&pools, &claims, &[]).0;
    assert_eq!(found, [has("c", &["192.0.2.8"]), has("a", &["192.0.2.9"]), has("b", &["192.0.2.9"])]);
}

#[test]
fn a_pool_gives_to_those_that_it_selects_and_unasked_only_where_it_says_so() {
    let chosen =
        Pool { selector: Some("tier=front".parse().expect("a selector")), ..pool("a", &["192.0.2.8/29"]) };
    let asked = Pool { is_auto_assigned: false, ..pool("b", &["192.0.2.32/29"]) };
    let front = Claim { labels: Arc::new([("tier".into(), "front".into())].into()), ..claim("front") };
    let named = Claim { wanted: ips(&["192.0.2.33"]), ..claim("named") };
    let thief = Claim { wanted: ips(&["192.0.2.9"]), ..claim("thief") };
    let (found, problems) = given(&[chosen, asked], &[front, named, claim("other"), thief], &[]);
    let expected =
        [has("front", &["192.0.2.8"]), has("named", &["192.0.2.33"]), has("other", &[]), has("thief", &[])];
    assert_eq!(found, expected);
    assert_eq!(
        problems,
        [
            "Service shop/other: cannot give it an address: no pool with addresses of its families is for it; add one, \
             or ask for an address by name",
            "Service shop/thief: cannot give it 192.0.2.9: its pool is for other objects; ask for another one",
        ]
    );
}

#[test]
fn of_two_that_have_one_address_the_older_keeps_it() {
    let pools = [pool("", &["192.0.2.8/29"])];
    let of = |name: &str, created_s| Claim {
        created_s: Some(created_s),
        present: ips(&["192.0.2.10"]),
        ..claim(name)
    };
    let (found, problems) = given(&pools, &[of("a", 9), of("b", 5)], &[]);
    assert_eq!(found, [has("a", &["192.0.2.8"]), has("b", &["192.0.2.10"])]);
    assert_eq!(
        problems,
        ["Service shop/a: cannot keep 192.0.2.10: Service shop/b has it and is older; it gets another one"]
    );
}

/// Twelve addresses of one family, four of the other, one pool that gives only when asked.
fn pools_of_properties() -> [Pool; 3] {
    let asked = Pool { is_auto_assigned: false, ..pool("b", &["192.0.2.32/30"]) };
    [pool("", &["192.0.2.8/29", "2001:db8::/126"]), pool("a", &["192.0.2.64/30"]), asked]
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (8u8..16).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (30u8..38).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (0u16..6).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ]
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let families = prop_oneof![Just(vec![Family::V4]), Just(vec![Family::V6]), Just(Family::ALL.to_vec())];
    let key = prop::option::of(prop_oneof![Just(Arc::<str>::from("x")), Just(Arc::<str>::from("y"))]);
    let kind = prop_oneof![3 => Just(OwnerKind::Service), 1 => Just(OwnerKind::Ingress)];
    (
        (kind, 0u8..40, prop::option::of(0i64..5)),
        families,
        prop::option::weighted(0.3, any_address()),
        prop::option::weighted(0.5, any_address()),
        (key, 80u16..84),
    )
        .prop_map(|((kind, number, created_s), families, wanted, present, (sharing_key, port))| Claim {
            owner: Owner { kind, object: ObjectName::new("shop", &format!("s{number}")) },
            created_s,
            families,
            wanted: wanted.into_iter().collect(),
            present: present.into_iter().collect(),
            sharing_key,
            ports: [(Protocol::Tcp, port)].into(),
            ..claim("")
        })
}

/// Up to thirty objects with names of their own.
fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    prop::collection::vec(any_claim(), 0..30).prop_map(|claims| {
        let by_owner: BTreeMap<Owner, Claim> =
            claims.into_iter().map(|claim| (claim.owner.clone(), claim)).collect();
        by_owner.into_values().collect()
    })
}

/// The same objects with the addresses that they got.
fn settled(claims: &[Claim], allocation: &Allocation) -> Vec<Claim> {
    let has = |claim: &Claim| allocation.addresses[&claim.owner].clone();
    claims.iter().map(|claim| Claim { present: has(claim), ..claim.clone() }).collect()
}

proptest! {
    #[test]
    fn no_address_has_two_owners_that_do_not_share_it(claims in any_claims()) {
        let allocation = allocate(&pools_of_properties(), &claims, &BTreeSet::new());
        for (index, one) in claims.iter().enumerate() {
            for other in &claims[index + 1..] {
                let common = allocation.addresses[&one.owner].iter()
                    .find(|address| allocation.addresses[&other.owner].contains(address));
                prop_assert!(common.is_none() || one.may_share(other), "{common:?}: {one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn addresses_are_of_pools_and_one_of_each_family(claims in any_claims()) {
        let pools = pools_of_properties();
        let allocation = allocate(&pools, &claims, &BTreeSet::new());
        for claim in &claims {
            let addresses = &allocation.addresses[&claim.owner];
            let families: Vec<Family> = addresses.iter().map(|address| Family::of(*address)).collect();
            prop_assert!(families.windows(2).all(|pair| pair[0] < pair[1]), "{addresses:?}");
            prop_assert!(families.iter().all(|family| claim.families.contains(family)));
            prop_assert!(addresses.iter().all(|address| pools.iter().any(|pool| pool.contains(*address))));
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter((claims, mixed) in any_claims().prop_flat_map(|claims| {
        (Just(claims.clone()), Just(claims).prop_shuffle())
    })) {
        let allocated = |claims: &[Claim]| allocate(&pools_of_properties(), claims, &BTreeSet::new());
        prop_assert_eq!(allocated(&claims), allocated(&mixed));
    }

    #[test]
    fn nothing_moves_when_others_come_and_go(
        claims in any_claims(),
        goes in prop::collection::vec(any::<bool>(), 30),
        new in any_claims(),
    ) {
        let allocated = |claims: &[Claim]| allocate(&pools_of_properties(), claims, &BTreeSet::new());
        // Whoever asks for an address by name may get it once another is gone.
        let unnamed = |claims: Vec<Claim>| -> Vec<Claim> {
            claims.into_iter().map(|claim| Claim { wanted: vec![], ..claim }).collect()
        };
        let claims = unnamed(claims);
        let before = allocated(&claims);
        let mut after: Vec<Claim> = settled(&claims, &before).into_iter().zip(goes)
            .filter(|(_, goes)| !goes).map(|(claim, _)| claim).collect();
        let stays: Vec<Claim> = after.clone();
        let is_known = |claim: &Claim| claims.iter().any(|known| known.owner == claim.owner);
        after.extend(new.into_iter().filter(|claim| !is_known(claim)).map(|claim| Claim { present: vec![], ..claim }));
        let found = allocated(&after);
        for claim in &stays {
            for address in &claim.present {
                prop_assert!(found.addresses[&claim.owner].contains(address), "{address} of {:?}", claim.owner);
            }
        }
    }
}
