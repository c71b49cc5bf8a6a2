//! The rules that every proxy has: 1,000 pairs of a host and the begin of a path, all to one upstream.

/// Hosts.
pub const HOSTS: u32 = 100;
/// Paths of each host.
pub const PATHS: u32 = 10;

/// A host's name.
#[must_use]
pub fn host(number: u32) -> String {
    format!("site-{number}.example")
}

/// What the paths of a rule begin with; it ends in a slash.
#[must_use]
pub fn path(number: u32) -> String {
    format!("/part-{number}/")
}

/// All rules: a host and a path of it.
pub fn all() -> impl Iterator<Item = (String, String)> {
    (0..HOSTS).flat_map(|number| (0..PATHS).map(move |part| (host(number), path(part))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_thousand_rules() {
        let rules: Vec<_> = all().collect();
        assert_eq!(rules.len(), 1_000);
        assert_eq!(rules[0], ("site-0.example".to_owned(), "/part-0/".to_owned()));
        assert_eq!(rules[999], ("site-99.example".to_owned(), "/part-9/".to_owned()));
    }
}
