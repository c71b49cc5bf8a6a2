//! Host tier: URL maps against a walk over all their rules.
use lb_tests::packet::Random;
use lb_tests::reference::url_map::{Rule, met, request, rules};
use lb_userspace::l7::{Host, HostRule, NormalPath, PathRule, UrlMap, host_pattern, path_pattern};
use lb_userspace::model::Dialect;

/// URL maps of one run; a failure prints its seed.
const MAPS: u64 = 2_000;
/// Requests to each.
const REQUESTS: u64 = 200;

/// Each rule leads to its index.
fn url_map(rules: &[Rule], dialect: Dialect) -> UrlMap<usize> {
    let host_rule = |(index, rule): (usize, &Rule)| HostRule {
        host: host_pattern(&rule.host, dialect).expect("a host"),
        paths: vec![PathRule {
            pattern: path_pattern(rule.path_type, &rule.path, dialect).expect("a path"),
            target: index,
        }],
        default: None,
    };
    UrlMap::new(rules.iter().enumerate().map(host_rule).collect(), None)
}

#[test]
fn url_map_and_reference_agree_on_every_request() {
    let (mut matched, mut missed) = (0, 0);
    for seed in 0..MAPS {
        let mut random = Random::new(seed);
        let dialect = *random.pick(&[Dialect::Spec, Dialect::Gce]);
        let rules = rules(&mut random);
        let map = url_map(&rules, dialect);
        for _ in 0..REQUESTS {
            let (host, path) = request(&mut random);
            let expected = met(&rules, dialect, &host, &path);
            let (name, normal) = (Host::of(&host).expect("a host"), NormalPath::of(&path).expect("a path"));
            let found = map.find(&name, &normal).map(|found| *found.target);
            assert_eq!(found, expected, "seed {seed}, {dialect:?}: {host}{path}\n{rules:#?}");
            *(if expected.is_some() { &mut matched } else { &mut missed }) += 1;
        }
    }
    let least = MAPS * REQUESTS / 10;
    assert!(
        matched > least && missed > least,
        "one answer is too seldom: {matched} matched, {missed} did not"
    );
}
