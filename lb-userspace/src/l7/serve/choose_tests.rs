use super::*;

fn service(weights: &[u16]) -> BackendService {
    let endpoint = |(index, weight): (usize, &u16)| {
        let address = format!("192.0.2.{}:8080", index + 1).parse().expect("an address");
        Arc::new(Endpoint::new(address, *weight))
    };
    BackendService::new("shop/web:80", weights.iter().enumerate().map(endpoint).collect())
}

/// Chooses `count` times without a request ending; how many each got.
fn shares(service: &BackendService, count: usize, seed: u64) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = Vec::new();
    let mut shares = vec![0; service.endpoints.len()];
    for _ in 0..count {
        let chosen = choose(service, &[], |below| random.usize(..below)).expect("an endpoint");
        held.push(super::super::snapshot::InFlight::begin(chosen));
        let index = service.endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint, chosen));
        shares[index.expect("one of them")] += 1;
    }
    shares
}

#[test]
fn requests_spread_by_weight() {
    for seed in 0..20 {
        let even = shares(&service(&[1, 1, 1, 1]), 400, seed);
        assert!(even.iter().all(|share| (90..=110).contains(share)), "seed {seed}: {even:?}");
        // The lighter of two, drawn alike: weights hold for two endpoints, and lean that way for more.
        let weighted = shares(&service(&[1, 3]), 400, seed);
        assert!((95..=105).contains(&weighted[0]), "seed {seed}: {weighted:?}");
    }
}

#[test]
fn the_one_with_fewer_requests_is_chosen() {
    let service = service(&[1, 1]);
    let _held = super::super::snapshot::InFlight::begin(&service.endpoints[0]);
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let chosen = choose(&service, &[], |below| random.usize(..below)).expect("an endpoint");
        assert_eq!(chosen.address, service.endpoints[1].address, "seed {seed}");
    }
}

#[test]
fn the_only_one_left_is_found_among_many() {
    let mut weights = [0; 1_000];
    weights[777] = 1;
    let service = service_of_many(&weights);
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let chosen = choose(&service, &[], |below| random.usize(..below)).expect("an endpoint");
        assert_eq!(chosen.address.port(), 1777, "seed {seed}");
    }
}

fn service_of_many(weights: &[u16]) -> BackendService {
    let endpoint = |(index, weight): (usize, &u16)| {
        Arc::new(Endpoint::new(([192, 0, 2, 1], 1_000 + index as u16).into(), *weight))
    };
    BackendService::new("shop/web:80", weights.iter().enumerate().map(endpoint).collect())
}

#[test]
fn those_that_were_tried_are_out_and_full_ones_too() {
    let mut service = service(&[1, 1, 0]);
    let tried = [Arc::clone(&service.endpoints[0])];
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let chosen = choose(&service, &tried, |below| random.usize(..below)).expect("an endpoint");
        assert_eq!(chosen.address, service.endpoints[1].address, "seed {seed}");
    }
    service.in_flight_max = 1;
    let _held = super::super::snapshot::InFlight::begin(&service.endpoints[1]);
    assert!(choose(&service, &tried, |_| 0).is_none());
}

#[test]
fn no_endpoints_are_no_choice() {
    assert!(choose(&service(&[]), &[], |_| 0).is_none());
}
