use super::*;

use crate::l7::{host_pattern, path_pattern};
use crate::model::Dialect::{self, Gce, Spec};
use crate::model::PathType::{self, Exact, ImplementationSpecific, Prefix};

/// A URL map of one host whose rules lead to their own texts.
fn of_paths(rules: &[(PathType, &'static str)], dialect: Dialect) -> UrlMap<(PathType, &'static str)> {
    let paths = rules.iter().map(|(path_type, text)| PathRule {
        pattern: path_pattern(*path_type, text, dialect).expect("a path"),
        target: (*path_type, *text),
    });
    UrlMap::new(vec![HostRule { host: HostPattern::Any, paths: paths.collect(), default: None }], None)
}

fn of_hosts(hosts: &[&'static str], dialect: Dialect) -> UrlMap<&'static str> {
    let rule = |host: &&'static str| HostRule {
        host: host_pattern(host, dialect).expect("a host"),
        paths: vec![PathRule { pattern: PathPattern::Prefix("/".into()), target: *host }],
        default: None,
    };
    UrlMap::new(hosts.iter().map(rule).collect(), None)
}

fn target<T: Copy>(map: &UrlMap<T>, host: &str, path: &str) -> Option<T> {
    let (host, path) = (Host::of(host).expect("a host"), NormalPath::of(path).expect("a path"));
    map.find(&host, &path).map(|found| *found.target)
}

/// Each row of "Examples" on the page "Ingress" of the Kubernetes documentation: rules, request path, and the
/// rule that it meets.
type Row = (&'static [(PathType, &'static str)], &'static str, Option<(PathType, &'static str)>);

const EXAMPLES: [Row; 21] = [
    (&[(Prefix, "/")], "/anything/at/all", Some((Prefix, "/"))),
    (&[(Exact, "/foo")], "/foo", Some((Exact, "/foo"))),
    (&[(Exact, "/foo")], "/bar", None),
    (&[(Exact, "/foo")], "/foo/", None),
    (&[(Exact, "/foo/")], "/foo", None),
    (&[(Prefix, "/foo")], "/foo", Some((Prefix, "/foo"))),
    (&[(Prefix, "/foo")], "/foo/", Some((Prefix, "/foo"))),
    (&[(Prefix, "/foo/")], "/foo", Some((Prefix, "/foo/"))),
    (&[(Prefix, "/foo/")], "/foo/", Some((Prefix, "/foo/"))),
    (&[(Prefix, "/aaa/bb")], "/aaa/bbb", None),
    (&[(Prefix, "/aaa/bbb")], "/aaa/bbb", Some((Prefix, "/aaa/bbb"))),
    (&[(Prefix, "/aaa/bbb/")], "/aaa/bbb", Some((Prefix, "/aaa/bbb/"))),
    (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/", Some((Prefix, "/aaa/bbb"))),
    (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/ccc", Some((Prefix, "/aaa/bbb"))),
    (&[(Prefix, "/aaa/bbb")], "/aaa/bbbxyz", None),
    (&[(Prefix, "/"), (Prefix, "/aaa")], "/aaa/ccc", Some((Prefix, "/aaa"))),
    (&[(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")], "/aaa/bbb", Some((Prefix, "/aaa/bbb"))),
    (&[(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")], "/ccc", Some((Prefix, "/"))),
    (&[(Prefix, "/aaa")], "/ccc", None),
    (&[(Prefix, "/foo"), (Exact, "/foo")], "/foo", Some((Exact, "/foo"))),
    (&[(Prefix, "/foo/"), (Exact, "/foo")], "/foo", Some((Exact, "/foo"))),
];

#[test]
fn every_example_of_the_ingress_specification_holds() {
    for dialect in [Spec, Gce] {
        for (rules, path, expected) in EXAMPLES {
            assert_eq!(target(&of_paths(rules, dialect), "a.example", path), expected, "{rules:?} {path}");
        }
    }
}

#[test]
fn a_wildcard_is_one_label_in_the_specification() {
    let map = of_hosts(&["*.foo.com"], Spec);
    assert_eq!(target(&map, "bar.foo.com", "/"), Some("*.foo.com"));
    assert_eq!(target(&map, "baz.bar.foo.com", "/"), None);
    assert_eq!(target(&map, "foo.com", "/"), None);
}

#[test]
fn a_wildcard_is_one_label_or_more_in_gce() {
    let map = of_hosts(&["*.foo.com", "*.bar.foo.com"], Gce);
    assert_eq!(target(&map, "x.foo.com", "/"), Some("*.foo.com"));
    assert_eq!(target(&map, "y.x.foo.com", "/"), Some("*.foo.com"));
    assert_eq!(target(&map, "y.bar.foo.com", "/"), Some("*.bar.foo.com"));
    assert_eq!(target(&map, "bar.foo.com", "/"), Some("*.foo.com"));
    assert_eq!(target(&map, "foo.com", "/"), None);
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_all() {
    let map = of_hosts(&["", "*.foo.com", "bar.foo.com"], Spec);
    assert_eq!(target(&map, "bar.foo.com", "/"), Some("bar.foo.com"));
    assert_eq!(target(&map, "Bar.FOO.com.:8080", "/"), Some("bar.foo.com"));
    assert_eq!(target(&map, "baz.foo.com", "/"), Some("*.foo.com"));
    assert_eq!(target(&map, "foo.com", "/"), Some(""));
    assert_eq!(target(&map, "[2001:db8::7]", "/"), Some(""));
}

#[test]
fn path_rules_of_gce_are_exact_or_all_below() {
    let rules = [
        (ImplementationSpecific, "/*"),
        (ImplementationSpecific, "/video"),
        (ImplementationSpecific, "/video/*"),
        (ImplementationSpecific, "/video/hd/*"),
    ];
    let map = of_paths(&rules, Gce);
    let cases = [
        ("/", "/*"),
        ("/audio", "/*"),
        ("/videos", "/*"),
        ("/video", "/video"),
        ("/video/", "/video/*"),
        ("/video/hd", "/video/*"),
        ("/video/hd/1", "/video/hd/*"),
    ];
    for (path, rule) in cases {
        assert_eq!(target(&map, "a.example", path), Some((ImplementationSpecific, rule)), "{path}");
    }
}

#[test]
fn of_a_prefix_and_all_below_it_the_longer_text_wins() {
    let rules = [(Prefix, "/foo"), (ImplementationSpecific, "/foo/*")];
    let map = of_paths(&rules, Spec);
    assert_eq!(target(&map, "a.example", "/foo"), Some(rules[0]));
    assert_eq!(target(&map, "a.example", "/foo/"), Some(rules[1]));
    assert_eq!(target(&map, "a.example", "/foo/bar"), Some(rules[1]));
}

#[test]
fn the_most_precise_host_decides_alone() {
    let rule = |host, path: &str, target, default| HostRule {
        host,
        paths: vec![PathRule { pattern: PathPattern::Prefix(path.into()), target }],
        default,
    };
    let map = UrlMap::new(
        vec![
            rule(HostPattern::Any, "/all", 1, None),
            rule(HostPattern::Exact("foo.com".into()), "/foo", 2, None),
            rule(HostPattern::Exact("bar.com".into()), "/bar", 3, Some(4)),
        ],
        Some(5),
    );
    assert_eq!(target(&map, "foo.com", "/all"), Some(5), "not the rule for all hosts");
    assert_eq!(target(&map, "bar.com", "/all"), Some(4), "the host's own default first");
    assert_eq!(target(&map, "baz.com", "/all"), Some(1));
    assert_eq!(target(&map, "baz.com", "/"), Some(5));
}

#[test]
fn a_match_names_its_rule() {
    let host = HostPattern::Exact("foo.com".into());
    let paths = vec![PathRule { pattern: PathPattern::Prefix("/a".into()), target: 1 }];
    let map = UrlMap::new(vec![HostRule { host: host.clone(), paths, default: Some(2) }], Some(3));
    let rule = |name, path| {
        let (name, path) = (Host::of(name).expect("a host"), NormalPath::of(path).expect("a path"));
        map.find(&name, &path).map(|found| found.rule)
    };
    assert_eq!(rule("foo.com", "/a/b"), Some(Rule::Path(&host, &PathPattern::Prefix("/a".into()))));
    assert_eq!(rule("foo.com", "/b"), Some(Rule::HostDefault(&host)));
    assert_eq!(rule("bar.com", "/a"), Some(Rule::Default));
}

#[test]
fn rules_of_one_host_are_taken_together_and_the_first_of_equal_paths_holds() {
    let rule = |path: &str, target, default| HostRule {
        host: HostPattern::Exact("foo.com".into()),
        paths: vec![PathRule { pattern: PathPattern::Prefix(path.into()), target }],
        default,
    };
    let map = UrlMap::new(vec![rule("/a", 1, None), rule("/b", 2, Some(3)), rule("/a", 4, Some(5))], None);
    let found = ["/a", "/b", "/c"].map(|path| target(&map, "foo.com", path));
    assert_eq!(found, [Some(1), Some(2), Some(3)]);
    let paths: Vec<String> =
        map.hosts().flat_map(|rule| &rule.paths).map(|path| path.pattern.to_string()).collect();
    assert_eq!(paths, ["/a", "/b"]);
}

#[test]
fn a_map_without_rules_has_its_default_alone() {
    assert_eq!(target(&UrlMap::new(vec![], Some(1)), "foo.com", "/"), Some(1));
    assert_eq!(target(&UrlMap::<u8>::new(vec![], None), "foo.com", "/"), None);
}

#[test]
fn a_path_with_thousands_of_elements_is_looked_up() {
    let map = of_paths(&[(Prefix, "/a/a"), (Exact, "/b")], Spec);
    assert_eq!(target(&map, "foo.com", &"/a".repeat(4_000)), Some((Prefix, "/a/a")));
    assert_eq!(target(&map, "foo.com", &"/b".repeat(4_000)), None);
}
