use super::*;

use Dialect::{Gce, Spec};
use PathType::{Exact, ImplementationSpecific, Prefix};

#[test]
fn hosts_are_names_or_wildcards() {
    let cases = [
        ("", Spec, Ok(HostPattern::Any)),
        ("foo.com", Spec, Ok(HostPattern::Exact("foo.com".into()))),
        ("Foo.COM", Spec, Ok(HostPattern::Exact("foo.com".into()))),
        ("*.foo.com", Spec, Ok(HostPattern::OneLabel("foo.com".into()))),
        ("*.foo.com", Gce, Ok(HostPattern::Labels("foo.com".into()))),
        ("*", Spec, Err(RuleFault::Host(HostFault::BadCharacter))),
        ("*.", Spec, Err(RuleFault::Host(HostFault::BadLabel))),
        ("a.*.com", Spec, Err(RuleFault::Host(HostFault::BadCharacter))),
        ("*a.com", Gce, Err(RuleFault::Host(HostFault::BadCharacter))),
        ("foo.com:80", Spec, Err(RuleFault::Host(HostFault::BadCharacter))),
        ("192.0.2.7", Spec, Err(RuleFault::HostIsAddress)),
        ("2001:db8::7", Spec, Err(RuleFault::HostIsAddress)),
    ];
    for (text, dialect, expected) in cases {
        assert_eq!(host_pattern(text, dialect), expected, "{text} {dialect:?}");
    }
}

#[test]
fn paths_mean_what_their_type_and_the_dialect_say() {
    let exact = |path: &str| Ok(PathPattern::Exact(path.into()));
    let prefix = |path: &str| Ok(PathPattern::Prefix(path.into()));
    let below = |path: &str| Ok(PathPattern::Below(path.into()));
    let cases = [
        (Exact, "/foo", Spec, exact("/foo")),
        (Exact, "/foo/", Gce, exact("/foo/")),
        (Exact, "/foo/*", Spec, exact("/foo/*")),
        (Prefix, "/foo", Spec, prefix("/foo")),
        (Prefix, "/foo/", Gce, prefix("/foo")),
        (Prefix, "/", Spec, prefix("/")),
        (Prefix, "/caf\u{e9}", Spec, prefix("/caf%C3%A9")),
        (ImplementationSpecific, "", Spec, prefix("/")),
        (ImplementationSpecific, "", Gce, prefix("/")),
        (ImplementationSpecific, "/foo", Spec, prefix("/foo")),
        (ImplementationSpecific, "/foo", Gce, exact("/foo")),
        (ImplementationSpecific, "/foo/*", Spec, below("/foo/")),
        (ImplementationSpecific, "/foo/*", Gce, below("/foo/")),
        (ImplementationSpecific, "/*", Gce, below("/")),
        (ImplementationSpecific, "/foo*", Gce, Err(RuleFault::Star)),
        (ImplementationSpecific, "/*/foo", Spec, Err(RuleFault::Star)),
        (Prefix, "", Spec, Err(RuleFault::Path(PathFault::NotAbsolute))),
        (Exact, "foo", Spec, Err(RuleFault::Path(PathFault::NotAbsolute))),
        (Prefix, "/a//b", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a/./b", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a/../b", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a/.", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a/%2e", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a/..", Spec, Err(RuleFault::NotNormal)),
        (Prefix, "/a%2fb", Spec, Err(RuleFault::Path(PathFault::Separator))),
        (Exact, "/a?b", Spec, Err(RuleFault::Query)),
    ];
    for (path_type, text, dialect, expected) in cases {
        assert_eq!(path_pattern(path_type, text, dialect), expected, "{path_type:?} {text} {dialect:?}");
    }
}
